"""Bilinear resizing of an output as two products with constant matrices.

A segmentation network ends by scaling its scores up to the size of the image. OpenVINO resizes with
channels last and turns the large result around afterwards, which takes up to a third of the time of
a fast network in int8. Bilinear resizing is linear in each axis, so `out = rows @ x @ columns`,
which makes the result as it is wanted; two numbers of each row of a matrix are not zero. The terms
are the same, their sums differ in the last bits.

Paddle Inference with oneDNN hands what a convolution makes to a product in blocks of channels, as
it lies there, and answers wrongly (3.1.1). Behind a reshape to the same shape channels lie apart;
the other runtimes drop it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from core.graph.layer_patterns import is_nchw
from core.graph.operators import attribute, only, operator, variable
from core.graph.program import Graph

LONGEST = 128  # rows or columns of the map; longer ones cost more products than they save
_RESIZING = "bilinear_interp_v2"


def multiply_resized_outputs(graph: Graph, kept: Collection[str] = ()) -> Graph:
    """Return a graph that makes its resized outputs by products; the given one stays as it is.

    Args:
        graph: Float graph.
        kept: Tensors that are rounded in int8 files; how they are made stays as it is.
    """
    made = graph.replaced(lambda op: _pays(graph, op, kept), _write)
    if made is not graph:
        made.drop_unused()  # the operators that computed the sizes
    return made


def resizing_matrix(op: Any, axis: int, size: int, wanted: int) -> np.ndarray:
    """Return the matrix [wanted, size] that resizes one axis as Paddle's bilinear operator does.

    Args:
        op: The operator, with its attributes `align_corners`, `align_mode` and `scale`.
        axis: 0 for the height, 1 for the width.
        size: Length of the axis before.
        wanted: Length afterwards.
    """
    aligned = attribute(op, "align_corners", False)
    scales = attribute(op, "scale") or []
    scale = scales[axis] if len(scales) == 2 else 0.0
    if aligned:
        step = (size - 1) / (wanted - 1) if wanted > 1 else 0.0
    else:
        step = 1 / scale if scale > 0 else size / wanted
    place: np.ndarray = step * np.arange(wanted, dtype=np.float64)
    if not aligned and attribute(op, "align_mode", 1) == 0:  # centres of pixels
        place = step * (np.arange(wanted) + 0.5) - 0.5
    place = np.clip(place, 0, size - 1)
    first = np.floor(place).astype(int)
    share = place - first
    matrix = np.zeros((wanted, size))
    np.add.at(matrix, (np.arange(wanted), first), 1 - share)
    np.add.at(matrix, (np.arange(wanted), np.minimum(first + 1, size - 1)), share)
    return matrix.astype(np.float32)


def _pays(graph: Graph, op: Any, kept: Collection[str]) -> bool:
    """Tell whether an operator makes a larger output of a small map of known size."""
    if op.type != _RESIZING or not is_nchw(op):
        return False
    source, out = only(op.inputs, "X"), only(op.outputs, "Out")
    if out not in graph.outputs or out in kept or graph.readers()[out] > 1:
        return False
    sizes, wanted = graph.shape(source)[2:], graph.shape(out)[2:]
    if len(sizes) != 2 or min(*sizes, *wanted) < 1 or graph.dtype(out) != np.float32:
        return False
    return max(sizes) <= LONGEST and all(b >= a for a, b in zip(sizes, wanted)) and sizes != wanted


def _write(graph: Graph, op: Any) -> None:
    """Write the two products, the cheaper one first."""
    source, out = only(op.inputs, "X"), only(op.outputs, "Out")
    batch, channels, height, width = graph.shape(source)
    rows, columns = graph.shape(out)[2:]
    down = resizing_matrix(op, 0, height, rows)  # [rows, height]
    across = resizing_matrix(op, 1, width, columns).T  # [width, columns]
    for name, matrix in ((f"{out}@rows", down), (f"{out}@columns", across)):
        graph.weights[name] = np.ascontiguousarray(matrix)
        graph.variables[name] = variable(name, matrix.shape, matrix.dtype, persistable=True)
    plain, half = f"{out}@plain", f"{out}@half"
    graph.variables[plain] = variable(plain, graph.shape(source), graph.dtype(source))
    graph.variables[f"{plain}.shape"] = variable(
        f"{plain}.shape", (0, *graph.shape(source)), graph.dtype(source)
    )
    ends = {"Out": plain, "XShape": f"{plain}.shape"}  # Paddle Lite wants the second, too
    same = {"shape": [0, 0, height, width]}
    graph.operators.append(operator("reshape2", {"X": source}, ends, same))
    rows_first = rows * width * (height + columns) <= height * columns * (width + rows)
    shape = (batch, channels, rows, width) if rows_first else (batch, channels, height, columns)
    graph.variables[half] = variable(half, shape, graph.dtype(source))
    steps = [(f"{out}@rows", None), (None, f"{out}@columns")]
    current = plain
    for (left, right), made in zip(steps if rows_first else steps[::-1], (half, out)):
        ends = {"X": left or current, "Y": right or current}
        sides = {"trans_x": False, "trans_y": False}
        graph.operators.append(operator("matmul_v2", ends, {"Out": made}, sides))
        current = made
