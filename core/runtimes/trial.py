"""Open a model that somebody else made, and run it once: `python -m core.runtimes.trial DIR
BACKEND`.

It stands in a process of its own because runtimes do not survive every damaged program: Paddle
Inference reads past the end of memory, for instance, some programs when it opens them and more when
it runs them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from paddle.base.proto import framework_pb2

from core.errors import UserError
from core.graph.operators import DTYPES, only
from core.runtimes.formats import find_files, format_of
from core.runtimes.predictor import UNUSABLE, load_predictor

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
        file = find_files(folder, predictor.backend)[0]
        zeros = _onnx_zeros if format_of(predictor.backend) == "onnx" else _paddle_zeros
        predictor._run(dict(zeros(file)))
    except Exception as error:  # noqa: BLE001 - sizes are guessed; only a process that dies counts
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    return 0


def _paddle_zeros(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    program = framework_pb2.ProgramDesc()
    if file.suffix != ".json":
        program.ParseFromString(file.read_bytes())
    for block in program.blocks[:1]:
        variables = {each.name: each.type.dense_tensor.tensor for each in block.vars}
        for op in block.ops:
            if op.type == "feed":
                tensor = variables[only(op.outputs, "Out")]
                yield only(op.outputs, "Out"), _zeros(tensor.dims, DTYPES[tensor.data_type])


def _onnx_zeros(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    graph = onnx.load(str(file), load_external_data=False).graph
    weights = {each.name for each in graph.initializer}
    for port in graph.input:
        if port.name not in weights:
            kind = port.type.tensor_type
            sizes = [each.dim_value for each in kind.shape.dim]
            yield port.name, _zeros(sizes, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))


def _zeros(sizes: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    known = [size if size > 0 else _SIDE if axis else 1 for axis, size in enumerate(sizes)]
    return np.zeros(known, dtype)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
