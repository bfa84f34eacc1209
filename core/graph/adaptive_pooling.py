"""Adaptive average pooling whose bins differ in size, as products with matrices.

ONNX has pooling with bins of one size and one distance only. Where the map does not divide into the
bins, as where pyramid pooling makes 6 bins of 15 rows, the converter writes such a pooling none the
less, of other bins. Each output is a mean over rows and columns, so it is A X B with two constant
matrices, in every runtime.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.graph.operators import attribute, only, operator, variable
from core.graph.program import Graph


def expand_adaptive_pools(graph: Graph) -> Graph:
    """Return a graph without adaptive average pooling of unequal bins; the given one stays.

    Pooling of maps whose size is free stays as it is.
    """
    return graph.replaced(lambda op: _is_uneven(graph, op), _expand)


def averaging_matrix(length: int, bins: int) -> np.ndarray:
    """Return the matrix [bins, length] that averages the bins of adaptive pooling.

    Bin i reaches from floor(i length / bins) to ceil((i + 1) length / bins), without the latter.
    """
    matrix = np.zeros((bins, length), np.float32)
    for index in range(bins):
        begin, end = index * length // bins, -(-(index + 1) * length // bins)
        matrix[index, begin:end] = 1 / (end - begin)
    return matrix


def _is_uneven(graph: Graph, op: Any) -> bool:
    if op.type != "pool2d" or not attribute(op, "adaptive", False):
        return False
    sizes, bins = graph.shape(only(op.inputs, "X"))[2:], graph.shape(only(op.outputs, "Out"))[2:]
    known = min(*sizes, *bins) > 0 and attribute(op, "pooling_type") == "avg"
    return known and any(size % count for size, count in zip(sizes, bins))


def _expand(graph: Graph, op: Any) -> None:
    source, target = only(op.inputs, "X"), only(op.outputs, "Out")
    shape, bins = graph.shape(source), graph.shape(target)[2:]
    dtype = graph.dtype(source)
    rows, columns, between = (f"{target}@{role}" for role in ("rows", "columns", "between"))
    matrices = {
        rows: averaging_matrix(shape[2], bins[0]),
        columns: averaging_matrix(shape[3], bins[1]).T,
    }
    for name, matrix in matrices.items():
        graph.weights[name] = np.ascontiguousarray(matrix.astype(dtype))
        graph.variables[name] = variable(name, matrix.shape, dtype, persistable=True)
    graph.variables[between] = variable(between, (*shape[:3], bins[1]), dtype)
    plain = {"trans_x": False, "trans_y": False}
    graph.operators += [
        operator("matmul_v2", {"X": source, "Y": columns}, {"Out": between}, plain),
        operator("matmul_v2", {"X": rows, "Y": between}, {"Out": target}, plain),
    ]
