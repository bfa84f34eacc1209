"""Convolutions and matrix products of a graph: their slots, and the weights that they use."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from core.graph.operators import attribute, only
from core.graph.program import Graph


class LayerSlots(NamedTuple):
    """Names of the slots of an operator that has a weight."""

    source: str
    weight: str
    output: str


_CONVOLUTION = LayerSlots("Input", "Filter", "Output")
LAYER_SLOTS: Mapping[str, LayerSlots] = MappingProxyType(
    {
        "conv2d": _CONVOLUTION,
        "depthwise_conv2d": _CONVOLUTION,
        "conv2d_transpose": _CONVOLUTION,
        "depthwise_conv2d_transpose": _CONVOLUTION,
        "matmul_v2": LayerSlots("X", "Y", "Out"),
    }
)


def layers_of(graph: Graph) -> list[tuple[Any, str, str]]:
    """Return the operators that can be quantized, each with its input and its weight."""
    found = []
    for op in graph.operators:
        slots = LAYER_SLOTS.get(op.type)
        weight = only(op.inputs, slots.weight) if slots else ""
        if slots and weight in graph.weights and _is_layer(op, graph.weights[weight]):
            found.append((op, only(op.inputs, slots.source), weight))
    return found


def _is_layer(op: Any, weight: np.ndarray) -> bool:
    if op.type == "matmul_v2":
        return weight.ndim == 2 and not attribute(op, "trans_x", False)
    return True
