"""Layers of a graph with the operators right behind them: the addition of a bias, a batch norm.

A tensor that several operators read, or that is an output of the graph, ends a pattern: what is
behind it does not belong to the layer alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from core.graph.linear_layers import LAYER_SLOTS
from core.graph.operators import attribute, names_of, only
from core.graph.program import Graph


@dataclass(frozen=True)
class LayerPattern:
    """A convolution or a product of a matrix [N, C] with a weight, with the operators behind it.

    Attributes:
        op: Operator of the convolution or product.
        weight: Name of its weight.
        add: Operator that adds the bias; None if there is none.
        bias: Name of the weight that is added to each channel; empty if there is none.
        norm: The batch norm behind; None if there is none.
        end: Name of the tensor behind all that.
    """

    op: Any
    weight: str
    add: Any | None
    bias: str
    norm: Any  # or None
    end: str


def layer_patterns(graph: Graph) -> list[LayerPattern]:
    """Return the layers of a graph, in the order in which they run."""
    return _Matcher(graph).patterns()


def is_nchw(op: Any) -> bool:
    """Tell whether an operator takes channels from the second axis."""
    layout = attribute(op, "data_format") or attribute(op, "data_layout") or "NCHW"
    return layout in ("NCHW", "AnyLayout")


class _Matcher:
    """Finds the patterns of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._consumers = graph.consumers()
        self._writers: dict[str, Any] = {}
        self._written: Counter[str] = Counter()
        for op in graph.operators:
            for name in names_of(op.outputs):
                self._writers[name] = op
                self._written[name] += 1

    def patterns(self) -> list[LayerPattern]:
        found = (self._match(op) for op in self._graph.operators)
        return [pattern for pattern in found if pattern is not None]

    def _match(self, op: Any) -> LayerPattern | None:
        if op.type not in LAYER_SLOTS:
            return None
        slots = LAYER_SLOTS[op.type]
        weight, end = only(op.inputs, slots.weight), only(op.outputs, slots.output)
        if weight not in self._graph.weights or only(op.inputs, "Bias"):
            return None
        if end not in self._graph.variables or len(self._graph.shape(end)) < 2:
            return None
        if not (self._is_product(op, weight) if op.type == "matmul_v2" else is_nchw(op)):
            return None
        add, bias, norm = None, "", None
        channels = self._graph.shape(end)[1]
        behind = self._behind(end)
        if behind is not None and behind.type == "elementwise_add":
            bias = self._bias(behind, channels) if only(behind.inputs, "X") == end else ""
            if bias:
                add, end = behind, only(behind.outputs, "Out")
                behind = self._behind(end)
        if behind is not None and behind.type == "batch_norm" and is_nchw(behind):
            norm, end = behind, only(behind.outputs, "Y")
        return LayerPattern(op, weight, add, bias, norm, end)

    def _is_product(self, op: Any, weight: str) -> bool:
        """Tell whether a product multiplies vectors [N, C] by a weight [C, K]."""
        if attribute(op, "trans_x", False) or attribute(op, "trans_y", False):
            return False
        source = only(op.inputs, LAYER_SLOTS[op.type].source)
        return len(self._graph.shape(source)) == 2 and self._graph.weights[weight].ndim == 2

    def _behind(self, name: str) -> Any | None:
        """Return the one operator that reads a tensor; None if others see it too."""
        found = self._consumers.get(name, [])
        alone = len(found) == 1 and name not in self._graph.outputs and self._written[name] == 1
        return found[0] if alone else None

    def _bias(self, add: Any, channels: int) -> str:
        """Return the name of the weight that is added to each channel; empty if none is."""
        graph = self._graph
        name, axis = only(add.inputs, "Y"), attribute(add, "axis", -1)
        reshape = self._writers.get(name)
        if reshape is not None and reshape.type == "reshape2" and self._behind(name) is add:
            name = only(reshape.inputs, "X")
            shape = attribute(reshape, "shape")
        else:
            shape = list(graph.weights[name].shape) if name in graph.weights else None
        if name not in graph.weights or graph.weights[name].size != channels:
            return ""
        rank = len(graph.shape(only(add.outputs, "Out")))
        along = axis % rank if axis >= 0 else rank - len(shape or ())
        # seen with all axes, it must be [1, C, 1, ...]
        full = [1] * along + list(shape or ())
        full += [1] * (rank - len(full))
        return name if full == [1, channels] + [1] * (rank - 2) else ""
