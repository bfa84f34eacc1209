"""Run tests in a process of their own.

Tests that raise signals must not share a process with others: runtimes that other tests load
directly leave handlers and stacks behind, which may end the process when a signal comes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run_alone(file: str) -> None:
    """Run the tests of a file, which pytest does not collect by itself, and show what fails."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", file],
        cwd=ROOT,
        env=own,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
