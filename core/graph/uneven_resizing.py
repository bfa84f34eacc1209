"""Resizing to the nearest place by no whole factor, as a choice of rows and columns.

Paddle Inference computes it with oneDNN, which takes other places than Paddle does where a side is
not a whole multiple of what it was (MobileViT resizes 3 x 3 to 4 x 4). Rows and columns that are
gathered by their numbers are the same in every runtime.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.graph.operators import attribute, names_of, only, operator, variable
from core.graph.program import Graph


def gather_uneven_resizing(graph: Graph) -> Graph:
    """Return a graph without such resizing of maps of known sizes; the given one stays."""
    return graph.replaced(lambda op: _is_uneven(graph, op), _gather)


def nearest_places(length: int, wanted: int, scale: float) -> np.ndarray:
    """Return the places [wanted] out of `length` that Paddle takes; a scale of 0 is not given."""
    ratio = np.float32(1 / scale if scale > 0 else length / wanted)
    places = np.floor(ratio * np.arange(wanted, dtype=np.float32)).astype(np.int32)
    return np.asarray(np.minimum(places, length - 1))


def _is_uneven(graph: Graph, op: Any) -> bool:
    if op.type != "nearest_interp_v2" or attribute(op, "data_layout", "NCHW") != "NCHW":
        return False
    computed = [each for each in op.inputs if each.parameter != "X"]
    if attribute(op, "align_corners", False) or names_of(computed):
        return False
    before, after = (
        graph.shape(only(slots, slot))[2:]
        for slots, slot in ((op.inputs, "X"), (op.outputs, "Out"))
    )
    known = min(*before, *after) > 0
    return known and any(wanted % length for length, wanted in zip(before, after))


def _gather(graph: Graph, op: Any) -> None:
    source, target = only(op.inputs, "X"), only(op.outputs, "Out")
    shape, wanted = list(graph.shape(source)), graph.shape(target)
    scales = (list(attribute(op, "scale") or ()) + [0.0, 0.0])[:2]
    moved = [axis for axis in (2, 3) if shape[axis] != wanted[axis]]
    for axis in moved:
        index = f"{target}@places{axis}"
        places = nearest_places(shape[axis], wanted[axis], scales[axis - 2])
        graph.weights[index] = places
        graph.variables[index] = variable(index, places.shape, places.dtype, persistable=True)
        shape[axis] = wanted[axis]
        made = target if axis == moved[-1] else f"{target}@rows"
        graph.variables[made] = variable(made, shape, graph.dtype(source))
        inputs = {"X": source, "Index": index}
        graph.operators.append(operator("gather", inputs, {"Out": made}, {"axis": axis}))
        source = made
