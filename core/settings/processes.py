"""Modules of this project run in processes of their own, wherever the user stands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

_TOP = Path(__file__).resolve().parents[2]  # where `core` and `tasks` are imported from


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
    with tempfile.TemporaryDirectory() as nowhere:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
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
    return os.pathsep.join(str(Path(each).resolve()) for each in (str(_TOP), *known))


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Say in one line how a process ended that was to end otherwise."""
    if done.returncode < 0:
        try:
            return f"killed by {signal.Signals(-done.returncode).name}"
        except ValueError:
            return f"killed by signal {-done.returncode}"
    return (lines_of(done) or [f"status {done.returncode}"])[-1]


def lines_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines that a process printed, those on standard error last; none is empty."""
    return [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
