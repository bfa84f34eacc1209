"""Which process of a training died of what: one line, and the others end too."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.training.peers import ending, last_words

ROOT = Path(__file__).resolve().parents[3]
WATCH = """
import json, logging, os, sys, time
from core.training import peers
from core.training.peers import Peer, watch_others
from core import cli
peers.GRACE_SECONDS = float(sys.argv[2])
watch_others([Peer(*each) for each in json.loads(sys.argv[1])] + [Peer(0, os.getpid(), "here")], 0)
def main():
    print("up", flush=True)  # the log is set up
    time.sleep(20)  # as in an exchange with one that is gone
cli.run(main)
"""
OTHER = "import sys\nsys.stdin.readline()\nraise SystemExit(int(sys.argv[1]))"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python; it ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: object) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = [sys.executable, *map(str, words)]
        started.append(
            subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def untimed(text: str) -> str:
    return re.sub(r"(?m)^\d\d:\d\d:\d\d ", "", text)


def end(process: subprocess.Popen[str]) -> None:
    """Let a process end; nobody asks for its status yet, as the launcher, which is slower."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def watching(start: Start, *others: tuple[Any, ...]) -> subprocess.Popen[str]:
    process = start("-c", WATCH, json.dumps(others), 0.05)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize(
    ("status", "own", "said"),
    [
        (None, 1, "was killed by SIGKILL, as the system does when memory runs out"),
        (2, 2, "ended with status 2; see what it says itself"),
        (143, 143, None),  # it was asked to end, and so is this one
    ],
)
def test_the_death_of_another_rank_is_said_and_ends_this_one(
    start: Start, status: int | None, own: int, said: str | None
) -> None:
    other = start("-S", "-c", OTHER, status or 0)
    process = watching(start, (3, other.pid, "here"), (4, 1, "elsewhere"))
    if status is None:
        other.send_signal(signal.SIGKILL)
    else:
        end(other)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == own
    wanted = f"ERROR rank 3 (process {other.pid}) {said}\n" if said else "terminated\n"
    assert untimed(errors) == wanted


TRACEBACK = "Traceback (most recent call last):\n  File 'x.py', line 3\nValueError: no such lane\n"
NOISE = "W1126 13:52:19.936924 3213 store.cc:185] closed\n"


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("12:00:00 INFO epoch 1\nerror: rank 3: mine/7.jpg: is truncated\n", "mine/7.jpg: is trun"),
        (TRACEBACK, "ValueError: no such lane; see"),
        (TRACEBACK + NOISE, "ValueError: no such lane; see"),
        (
            "x" * 100_000 + "\npaddle.base.core.EnforceError: out of memory\n",
            "EnforceError: out of",
        ),
    ],
)
def test_what_a_rank_died_of_is_read_from_its_log(
    start: Start, tmp_path: Path, log: str, said: str
) -> None:
    """The launcher shows the log of the first rank alone, which so has to say it."""
    file = tmp_path / "workerlog.3"
    file.write_text(log)
    other = start("-S", "-c", OTHER, 2)
    process = watching(start, (3, other.pid, "here", str(file)))
    end(other)
    _, errors = process.communicate(timeout=20)
    (line,) = untimed(errors).splitlines()
    assert line.startswith(f"ERROR rank 3 (process {other.pid}) ended with status 2: ")
    assert said in line
    assert line.endswith(f"; see {file}")
    assert "rank 3:" not in line


def test_logs_that_say_nothing_are_named(tmp_path: Path) -> None:
    file = tmp_path / "workerlog.1"
    assert ending(2 << 8, str(file)) == f"ended with status 2; see {file}"
    file.write_bytes(b"\xff\xfe all is well\n")
    assert ending(2 << 8, str(file)) == f"ended with status 2; see {file}"
    assert ending(signal.SIGSEGV, str(file)) == f"was killed by SIGSEGV; see {file}"
    file.write_text("error: " + "y" * 10_000)
    assert len(last_words(str(file))) == 500


def test_the_own_log_is_the_file_that_errors_go_to(tmp_path: Path) -> None:
    code = "from core.training.peers import own_log; print(own_log())"
    with open(tmp_path / "log", "w") as log:
        for errors, wanted in ((log, str(tmp_path / "log")), (subprocess.PIPE, "")):
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                check=True,
            )
            assert done.stdout.strip().rpartition("\n")[2] == wanted


def test_one_that_ends_well_is_no_news(start: Start) -> None:
    other, third = start("-S", "-c", OTHER, 0), start("-S", "-c", OTHER, 5)
    process = watching(start, (1, other.pid, "here"), (2, third.pid, "here"))
    end(other)
    end(third)
    _, errors = process.communicate(timeout=20)
    said = "ended with status 5; see what it says itself"
    assert untimed(errors) == f"ERROR rank 2 (process {third.pid}) {said}\n"


def test_a_launcher_that_is_killed_ends_its_processes() -> None:
    code = "import subprocess, sys\np = subprocess.Popen(sys.argv[2:])\np.wait()"
    words = [sys.executable, "-c", WATCH, "[]", "5"]
    launcher = subprocess.Popen(
        [sys.executable, "-c", code, "paddle.distributed.launch", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "up\n"
    launcher.kill()
    _, errors = launcher.communicate(timeout=20)  # until its process has closed them, too
    assert untimed(errors) == f"ERROR the launcher (process {launcher.pid}) has ended\nterminated\n"


def test_endings_are_named() -> None:
    assert ending(signal.SIGSEGV) == "was killed by SIGSEGV"
    assert ending(signal.SIGSEGV | 0x80) == "was killed by SIGSEGV"  # with a dump of its memory
    assert ending(63) == "was killed by signal 63"
    assert ending(2 << 8) == "ended with status 2; see what it says itself"
