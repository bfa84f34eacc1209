"""Modules of this project run in processes of their own, wherever the user stands."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import psutil

from core.settings.files import scratch
from core.settings.home import IMPORTED_FROM, own_module

_KILL = 9  # SIGKILL, which Windows has no name for
# becomes another program in a process that the kernel ends with the one that started it (Linux)
_TETHER = """\
import ctypes, os, sys
number, parent, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(number))
if os.getppid() != int(parent):
    os._exit(1)
os.execv(command[0], command)
"""


def tethered(command: Sequence[str], number: int = _KILL) -> list[str]:
    """Return a command whose process ends when this one does, however it does (Linux).

    Args:
        command: Begins with the path of a program.
        number: Number of the signal that it gets then. The signal also comes when the thread that
            started it ends, so that thread has to wait for it.
    """
    if sys.platform != "linux":
        return list(command)
    before = [sys.executable, "-I", "-S", "-c", _TETHER]
    return [*before, str(int(number)), str(os.getpid()), *command]


def run_beside(command: Sequence[str], log: BinaryIO | None = None) -> int:
    """Run a command that prints its own messages, and return its status.

    If this process is asked to end, so is that one, which may finish its work.

    Args:
        command: Begins with the path of a program.
        log: File for all that it says; None: where this process speaks.
    """
    said = None if log is None else subprocess.STDOUT
    process = subprocess.Popen(tethered(command, signal.SIGTERM), stdout=log, stderr=said)
    try:
        return process.wait()
    except BaseException as error:
        if type(error) is not KeyboardInterrupt:  # Ctrl-C reaches both processes
            process.terminate()
        try:
            process.wait()
        finally:
            process.kill()  # at the second signal, as this one ends at once
        raise


@contextlib.contextmanager
def ending_children() -> Iterator[None]:
    """Kill the processes that a block has started if it raises.

    A thread may be waiting for one, and this process for the thread.
    """
    before = {child.pid for child in psutil.Process().children()}
    try:
        yield
    except BaseException:
        for child in psutil.Process().children():
            if child.pid not in before:
                child.kill()
        raise


def run_module(
    module: str, *arguments: str, seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS...` to its end.

    `-m` imports from the working directory first, and there may be anything: a `numpy.py` beside a
    checkpoint, for instance. So the process works in an empty folder, and imports what this one
    does.

    Args:
        module: Module of `core`.
        *arguments: Paths among them must be absolute.
        seconds: After which it is stopped.

    Raises:
        subprocess.TimeoutExpired: It was stopped.
    """
    with scratch() as nowhere:
        return subprocess.run(
            tethered([sys.executable, "-m", own_module(module), *arguments]),
            cwd=nowhere,
            env={**os.environ, "PYTHONPATH": search_path()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=seconds,
        )


def search_path() -> str:
    """Return a `PYTHONPATH` that means the same in every working directory."""
    known = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    return os.pathsep.join(str(Path(each).resolve()) for each in (str(IMPORTED_FROM), *known))


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Say in one line how a process failed."""
    if done.returncode < 0:
        try:
            return f"killed by {signal.Signals(-done.returncode).name}"
        except ValueError:
            return f"killed by signal {-done.returncode}"
    return (lines_of(done) or [f"status {done.returncode}"])[-1]


def lines_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines that a process printed, those on standard error last; none is empty."""
    return [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]


def own_command() -> str:
    """Return the command of this process as someone would type it."""
    program, *arguments = sys.argv
    if not program.startswith("trislim "):  # the name its commands start with
        program = f"python {shlex.quote(program)}"
    return f"{program} {shlex.join(arguments)}"
