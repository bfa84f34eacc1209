"""Padding of any axes, as padding of the last three axes of five.

Paddle Inference computes `pad` with oneDNN, which writes past the end of the tensor: the process
ends with damaged memory, or answers wrongly. Windows of Swin transformers are padded so. `pad3d` is
right there.
"""

from __future__ import annotations

from typing import Any

from core.graph.operators import attribute, only, operator, variable
from core.graph.program import Graph

AXES, PADDED = 5, 3  # of what `pad3d` takes, and of these the last ones


def pad_last_axes(graph: Graph) -> Graph:
    """Return a graph in which `pad3d` does what oneDNN does wrong; the given one stays.

    What pads an axis before the last three stays as it is.
    """
    return graph.replaced(lambda op: damages_memory(op) and _padded(op) is not None, _as_pad3d)


def damages_memory(op: Any) -> bool:
    """Tell whether an operator does so in oneDNN: `pad`, unless it pads by nothing."""
    return op.type == "pad" and any(attribute(op, "paddings") or ())


def _pairs(op: Any) -> list[tuple[int, int]]:
    """Return how many places are added in front of each axis and behind it."""
    paddings = list(attribute(op, "paddings") or ())
    return list(zip(paddings[::2], paddings[1::2]))


def _padded(op: Any) -> list[int] | None:
    """Return the paddings of `pad3d`, those of the last axis first; None if it cannot."""
    pairs = _pairs(op)
    if len(pairs) > AXES or any(pair != (0, 0) for pair in pairs[:-PADDED]):
        return None
    last = [*[(0, 0)] * PADDED, *pairs][-PADDED:]
    return [count for pair in reversed(last) for count in pair]


def _as_pad3d(graph: Graph, op: Any) -> None:
    source, target = only(op.inputs, "X"), only(op.outputs, "Out")
    options: dict[str, Any] = {
        "paddings": _padded(op),
        "mode": "constant",
        "value": float(attribute(op, "pad_value", 0.0)),
        "data_format": "NCDHW",
    }
    front = [1] * (AXES - len(graph.shape(source)))
    wide, padded = f"{target}@wide", f"{target}@padded"
    axes: dict[str, Any] = {"axes": list(range(len(front)))}
    steps = [
        ("unsqueeze2", source, wide, [*front, *graph.shape(source)], axes),
        ("pad3d", wide, padded, [*front, *graph.shape(target)], options),
        ("squeeze2", padded, target, graph.shape(target), axes),
    ]
    if not front:
        steps = [("pad3d", source, target, graph.shape(target), options)]
    for kind, before, after, shape, how in steps:
        outputs = {"Out": after}
        graph.variables[after] = variable(after, shape, graph.dtype(source))
        if kind != "pad3d":  # Paddle's others tell the shape of before, too
            outputs["XShape"] = f"{after}@before"
            told = variable(outputs["XShape"], (0, *graph.shape(before)), graph.dtype(source))
            graph.variables[told.name] = told
        graph.operators.append(operator(kind, {"X": before}, outputs, how))
