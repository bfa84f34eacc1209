"""Outputs that a softmax makes, and the logits behind them.

Probabilities near 0 and 1 hide what rounding does to a network, and of two of them one says all. So
files are compared by the logits, which the probabilities give back but for their mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.graph.operators import attribute, names_of, only
from core.graph.program import Graph

LEAST = 1e-30  # probability; smaller ones are 0 in some runtimes


def softmax_axes(graph: Graph) -> dict[str, int]:
    """Return the axis of the softmax that makes an output, for each such output."""
    makers = {name: op for op in graph.operators for name in names_of(op.outputs)}
    axes = {}
    for output in graph.outputs:
        name = output
        while name in makers and _is_copy(makers[name]):
            name = only(makers[name].inputs, "X")
        if name in makers and makers[name].type == "softmax":
            axes[output] = int(attribute(makers[name], "axis", -1))
    return axes


def logits_of(probabilities: np.ndarray, axis: int) -> np.ndarray:
    """Return logits of mean 0 along an axis; probabilities may have any shape."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), LEAST))
    centred: np.ndarray = logs - logs.mean(axis=axis, keepdims=True)
    return centred


def before_softmax(pairs: Sequence[np.ndarray], axis: int | None) -> list[np.ndarray]:
    """Return arrays of any shape as they are, or their logits if a softmax made them."""
    return list(pairs) if axis is None else [logits_of(each, axis) for each in pairs]


def _is_copy(op: object) -> bool:
    kind = getattr(op, "type", "")
    unscaled = attribute(op, "scale", 1.0) == 1.0 and attribute(op, "bias", 0.0) == 0.0
    return kind == "assign" or (kind == "scale" and unscaled)
