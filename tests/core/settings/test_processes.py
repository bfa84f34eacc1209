"""Processes of ours end with the one that started them, however that ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from core.settings.processes import ending_children, run_beside, run_module, tethered

ROOT = Path(__file__).resolve().parents[3]
SLEEP = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(60)"]
PARENT = """
import subprocess, sys
from core.settings.processes import tethered
child = subprocess.Popen(tethered(sys.argv[1:]), stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_ends_with_its_parent(sent: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *SLEEP], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.cmdline() == SLEEP  # nothing of the tether is left
    parent.send_signal(sent)
    parent.communicate()
    child.wait(10)


def test_one_whose_parent_is_gone_already_does_not_begin() -> None:
    command = tethered(SLEEP)
    command[-len(SLEEP) - 1] = "1"  # as if it were an orphan
    assert subprocess.run(command, timeout=20).returncode == 1


def test_children_are_killed_when_a_block_fails() -> None:
    said: list[int] = []

    def wait() -> None:
        said.append(subprocess.run(SLEEP, capture_output=True).returncode)

    other = subprocess.Popen(SLEEP, stdout=subprocess.PIPE)
    thread = threading.Thread(target=wait)

    def fail() -> None:
        with ending_children():
            thread.start()
            while len(psutil.Process().children()) < 2:
                time.sleep(0.01)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    thread.join(20)
    assert said == [-signal.SIGKILL]
    assert other.poll() is None  # it was there before
    other.kill()
    other.communicate()


def test_a_command_beside_us_is_asked_to_end_and_may_finish(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, sys, time\n"
        "def end(*_): pathlib.Path('done').touch(); sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "pathlib.Path('up').touch()\ntime.sleep(60)\n"
    )
    (tmp_path / "tool.py").write_text(code)
    main = (
        "import os, sys\nfrom core import cli\n"
        "from core.settings.processes import run_beside\n"
        "os.chdir(sys.argv[1])\n"
        "cli.run(lambda: run_beside([sys.executable, 'tool.py']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", main, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "up").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (143, "terminated\n")
    assert (tmp_path / "done").exists()


def test_the_status_of_a_command_is_returned() -> None:
    assert run_beside([sys.executable, "-S", "-c", "raise SystemExit(5)"]) == 5


def test_a_module_still_runs_in_an_empty_folder(tmp_path: Path) -> None:
    done = run_module("base64", "-e", "/dev/null")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
