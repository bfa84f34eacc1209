"""Locks: who holds one is said, who is dead holds none."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import FileError
from core.settings import locks
from core.settings.locks import Holder, Lock, claim, use, user_of

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import os, sys, time
from pathlib import Path
from core.settings.locks import Lock
lock = Lock(Path(sys.argv[1]), Path("what"))
if sys.argv[2:] == ["fork"] and os.fork() == 0:
    time.sleep(1.0)  # as a reader of data, which outlives its killed parent for a moment
    os._exit(0)
print("held", flush=True)
time.sleep(60)
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def holding() -> Iterator[Start]:
    """Start a process that holds a lock; it ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, *map(str, words)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_lock_names_its_process_and_is_gone_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with Lock(file, tmp_path):
        assert json.loads(file.read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
    assert not file.exists()
    with pytest.raises(ZeroDivisionError), Lock(file, tmp_path):
        raise ZeroDivisionError
    assert not file.exists()


def test_a_second_process_is_told_who_holds_it(tmp_path: Path, holding: Start) -> None:
    process = holding(tmp_path / "lock")
    who = f"process {process.pid} on {socket.gethostname()}"
    with pytest.raises(FileError) as caught:
        Lock(tmp_path / "lock", Path("the/folder"))
    assert str(caught.value) == (
        f"the/folder: in use by {who}; wait until that has ended, or name another folder"
    )


@pytest.mark.parametrize("words", [(), ("fork",)], ids=["alone", "with a child"])
def test_the_lock_of_a_killed_process_is_taken_over(
    tmp_path: Path, holding: Start, words: tuple[str, ...]
) -> None:
    process = holding(tmp_path / "lock", *words)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with Lock(tmp_path / "lock", tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_who_waits_gets_it_next(tmp_path: Path) -> None:
    first = Lock(tmp_path / "lock", tmp_path)
    threading.Timer(0.3, first.release).start()
    begin = time.monotonic()
    with Lock(tmp_path / "lock", tmp_path, wait=True):
        assert time.monotonic() - begin > 0.2


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "try_lock", lambda descriptor, shared=False: None)


@pytest.mark.parametrize(
    ("pid", "host", "free"),
    [
        (os.getpid(), None, False),
        (2**22 + 1, None, True),  # above the largest that Linux gives
        (2**22 + 1, "elsewhere", False),  # nobody can tell
        (None, None, True),
    ],
    ids=["alive", "dead", "another host", "no content"],
)
def test_without_locks_of_the_kernel_the_file_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: Any, host: Any, free: bool
) -> None:
    without_locks(monkeypatch)
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    content = json.dumps({"pid": pid, "host": host or socket.gethostname()}) if pid else ""
    (tmp_path / "lock").write_text(content)
    if free:
        Lock(tmp_path / "lock", tmp_path).release()
        assert not (tmp_path / "lock").exists()
    else:
        with pytest.raises(FileError, match=rf"in use by process {pid} on "):
            Lock(tmp_path / "lock", tmp_path)
        assert (tmp_path / "lock").read_text() == content


def test_what_cannot_be_locked_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("folder", "link", "absent/lock"):
        with pytest.raises(FileError, match=r"^what: cannot be written: "):
            Lock(tmp_path / name, Path("what"))
    assert not (tmp_path / "elsewhere").exists()


def test_a_zombie_and_a_dead_process_have_ended_and_others_not() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    here = socket.gethostname()
    assert Holder(process.pid, here).ended()
    process.wait()
    assert Holder(process.pid, here).ended()
    assert not Holder(process.pid, "elsewhere").ended()
    assert not Holder(os.getpid(), here).ended()


def test_a_file_in_use_cannot_be_claimed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    one, two = use(file), use(file)
    assert one is not None
    assert two is not None
    assert claim(file) is None
    assert user_of(file) == Holder(os.getpid(), socket.gethostname())
    one.end()
    assert claim(file) is None
    del two  # it lasts as long as the object
    alone = claim(file)
    assert alone is not None
    assert use(file) is None
    alone.end()
    assert use(file) is not None
