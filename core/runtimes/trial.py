"""Open a model from elsewhere, and run it once: `python -m core.runtimes.trial DIR
BACKEND`.

It stands in a process of its own because runtimes do not survive every damaged program: Paddle
Inference reads past the end of memory, for instance, some programs when it opens them and more when
it runs them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.runtimes.description import Port
from core.runtimes.predictor import load_predictor
from core.runtimes.survived import UNUSABLE

_SIDE = 224  # where a size is free: what most networks can take


def main(arguments: Sequence[str]) -> int:
    """Return 0 if the runtime has opened the model and the process is still there in the end."""
    folder, backend = Path(arguments[0]), arguments[1]
    try:
        predictor = load_predictor(folder, backend, own=True)  # type: ignore[arg-type]
    except UserError as error:
        sys.stdout.write(f"\n{error}\n")
        return UNUSABLE
    try:
        zeros = {port.name: _zeros(port) for port in predictor.description.inputs}
        predictor._run(zeros)
    except Exception as error:  # noqa: BLE001 - sizes are guessed; only a process that dies counts
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    return 0


def _zeros(port: Port) -> np.ndarray:
    known = [size if size > 0 else _SIDE if axis else 1 for axis, size in enumerate(port.shape)]
    return np.zeros(known, port.dtype or "float32")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
