"""Measure the memory that one exported model needs, in a process of its own.

`python -m core.runtimes.memory` is what `peak_memory_mb` starts: it prints one number.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from core.errors import ExportError
from core.settings.processes import last_words, run_module
from core.targets.names import Backend

_RUNS = 3
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory_mb(
    model_dir: Path, backend: Backend, threads: int, inputs: Sequence[np.ndarray]
) -> float:
    """Return the peak memory of a fresh process that loads and runs the model, in MB.

    Inputs are arrays [N, ...] in the order of the model. What the process needed before it loaded
    the model (Python, the imported runtime) is taken off.

    Raises:
        ExportError: The process failed.
    """
    shapes = [[list(array.shape), array.dtype.name] for array in inputs]
    arguments = [str(model_dir.resolve()), backend, str(threads), json.dumps(shapes)]
    done = run_module("core.runtimes.memory", *arguments)
    if done.returncode != 0:
        reason = last_words(done)
        raise ExportError(f"{model_dir}: measuring memory with {backend} failed: {reason}")
    return float(done.stdout.strip().splitlines()[-1])


def main(arguments: Sequence[str]) -> None:
    """Load and run the model, then print the peak above the baseline."""
    from core.settings.startup import load_paddle

    load_paddle()
    from core.runtimes.predictor import load_predictor

    model_dir, backend, threads, shapes = arguments
    importlib.import_module(backend)
    inputs = [np.ones(shape, dtype) for shape, dtype in json.loads(shapes)]
    baseline = psutil.Process().memory_info().rss
    with contextlib.suppress(OSError):
        _RESET.write_text("5")  # forget the peak that importing has left
    predictor = load_predictor(model_dir, backend, int(threads), own=True)  # type: ignore[arg-type]
    for _ in range(_RUNS):
        predictor.run(*inputs)
    sys.stdout.write(f"{max(_peak_bytes() - baseline, 0) / 1e6:.1f}\n")


def _peak_bytes() -> int:
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # Windows has no module `resource`, but counts the peak itself
    windows_peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if windows_peak is not None:
        return int(windows_peak)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
