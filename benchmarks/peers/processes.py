"""Run a peer in a process of its own, as PaddleSlim 2.6.0 needs the old IR and leaves a process
other than it was, and as Paddle Inference ends the whole process where a primitive fails.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core.settings.processes import last_words

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 240  # of processor time


class PeerError(RuntimeError):
    """A peer did not do it, in its own words."""


def last_line(text: str) -> str:
    """Return the last line that says something, shortened; a line about an error before others."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" -=\t")]
    told = [line for line in lines if "Error" in line]
    return (told or lines or ["no word"])[-1][:240]


def run_script(
    script: str, arguments: Sequence[str], variables: dict[str, str], seconds: float = LIMIT_SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run a script of ours on one thread, in a process that ends after so much processor time."""
    ends = math.ceil(seconds), resource.RLIM_INFINITY
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, os.path.abspath(script), *arguments],
        env={**os.environ, **own, **variables},
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_CPU, ends),
        capture_output=True,
        text=True,
        errors="replace",
    )


def ask_paddleslim(script: str, arguments: Sequence[str], result: Path, seconds: float) -> Any:
    """Return what a script that calls PaddleSlim writes as JSON.

    Args:
        script: Path.
        arguments: What it is given.
        result: The file that it writes at its end.
        seconds: Of processor time that it may take.

    Raises:
        PeerError: It failed, or took too long.
    """
    done = run_script(script, arguments, {"FLAGS_enable_pir_api": "0"}, seconds)
    if done.returncode == -signal.SIGXCPU:
        raise PeerError(f"not done after {seconds:g} s of processor time")
    if done.returncode < 0:
        raise PeerError(last_words(done))
    if not result.is_file():
        raise PeerError(last_line(done.stderr))
    return json.loads(result.read_text(encoding="utf-8"))
