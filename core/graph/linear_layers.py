"""Convolutions and matrix products of a graph: slots of what they read and of their weights."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np

from core.graph.operators import attribute, only
from core.graph.program import Graph

# operator -> slots of what it reads and of its weight
LAYER_SLOTS = MappingProxyType(
    {
        "conv2d": ("Input", "Filter"),
        "depthwise_conv2d": ("Input", "Filter"),
        "conv2d_transpose": ("Input", "Filter"),
        "depthwise_conv2d_transpose": ("Input", "Filter"),
        "matmul_v2": ("X", "Y"),
    }
)


def layers_of(graph: Graph) -> list[tuple[Any, str, str]]:
    """Return the operators that can be quantized, each with what it reads and its weight."""
    found = []
    for op in graph.operators:
        source, slot = LAYER_SLOTS.get(op.type, ("", ""))
        weight = only(op.inputs, slot)
        if weight in graph.weights and _is_layer(op, graph.weights[weight]):
            found.append((op, only(op.inputs, source), weight))
    return found


def _is_layer(op: Any, weight: np.ndarray) -> bool:
    if op.type == "matmul_v2":
        return weight.ndim == 2 and not attribute(op, "trans_x", False)
    return True
