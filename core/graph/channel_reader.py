"""Read a graph as layouts of channels: what splits, joins and shuffles say, and who moves data.

See `core.graph.channel_orders`. The reader goes through the operators once and notes, for each one
that stays, what it reads and makes; splits, concatenations and shuffles leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.graph.channel_moves import Move, find_moves
from core.graph.channel_orders import HeldTensor, Layout, Orders
from core.graph.layer_patterns import is_nchw
from core.graph.operators import attribute, names_of, only
from core.graph.program import Graph

# operators that compute each channel by itself, alike for all of them
_BY_CHANNEL = frozenset(
    {
        *("relu", "relu6", "sigmoid", "tanh", "leaky_relu", "hard_swish", "hard_sigmoid", "swish"),
        *("silu", "mish", "elu", "gelu", "softplus", "abs", "exp", "sqrt", "square", "clip"),
        *("scale", "pool2d", "nearest_interp_v2", "bilinear_interp_v2", "bicubic_interp_v2"),
    }
)
_TWO_TERMS = frozenset(
    f"elementwise_{kind}" for kind in ("add", "sub", "mul", "div", "max", "min", "pow")
)
CONVOLUTIONS = ("conv2d", "depthwise_conv2d")


@dataclass
class Step:
    """An operator that stays, or the gathering of a tensor.

    Attributes:
        op: The operator; None where a tensor is gathered.
        made: Its outputs by channel; None where they are not known by channel.
        reads: Layout of each tensor that it reads, by name.
        weight: The weight of a convolution.
        vectors: Weights with a number for each channel.
    """

    op: Any | None
    made: HeldTensor | None
    reads: dict[str, Layout] = field(default_factory=dict)
    weight: str = ""
    vectors: list[str] = field(default_factory=list)


class ChannelReader:
    """Goes through a graph.

    Args:
        graph: Stays as it is.
        kept: Tensors that are stored under their names, with their channels in any order.
    """

    def __init__(self, graph: Graph, kept: Collection[str] = ()) -> None:
        self._graph, self.kept = graph, frozenset(kept)
        self.orders = Orders()
        self.steps: list[Step] = []
        self.layouts: dict[str, Layout] = {}
        self.renamed: dict[str, str] = {}  # new names of tensors, by their names in the graph
        self.origins: dict[str, str] = {}  # tensor of the graph that a new one is alike, by name
        self._held: dict[str, HeldTensor] = {}
        self._read = graph.readers()
        moves = [move for move in find_moves(graph) if self._may_follow(move)]
        self._ends = {id(move.operators[-1]): move for move in moves}
        self._skipped = {id(op) for move in moves for op in move.operators[:-1]}

    def read(self) -> None:
        """Read all operators, and give the outputs the order of the network."""
        for name in self._graph.inputs:
            self._made(name, pinned=True)
        for op in self._graph.operators:
            if id(op) in self._skipped:
                continue
            if not (self._rearranges(op) or self._convolves(op) or self._is_by_channel(op)):
                self._stays(op)
            for name in names_of(op.outputs):
                if name in self.kept and name in self.layouts:
                    self._stored(name)
        for name in self._graph.outputs:
            if name in self.layouts:  # else it has no channels, as what an argmax makes
                self._pinned(name)

    def _channels(self, name: str) -> int:
        """Return how many channels a tensor has; 0 if that is not known."""
        if name not in self._graph.variables:
            return 0
        shape = self._graph.shape(name)
        return shape[1] if len(shape) >= 2 and shape[1] > 0 else 0

    def _made(self, name: str, pinned: bool = False) -> HeldTensor | None:
        count = self._channels(name)
        if not count or name in self._graph.weights:
            return None
        stored = self._held[name] = self.orders.make(name, count, pinned)
        self.layouts[name] = Layout.of(stored)
        return stored

    def _rearranges(self, op: Any) -> bool:
        """Follow operators that only move channels."""
        if op.type == "split":
            return self._splits(op)
        if op.type == "concat":
            return self._joins(op)
        return id(op) in self._ends and self._moves(self._ends[id(op)])

    def _splits(self, op: Any) -> bool:
        source, parts = only(op.inputs, "X"), names_of(op.outputs)
        sizes = [self._channels(name) for name in parts]
        layout = self.layouts.get(source)
        along = attribute(op, "axis") == 1 and len(names_of(op.inputs)) == 1
        if layout is None or not along or sum(sizes) != len(layout) or 0 in sizes:
            return False
        for name, end, size in zip(parts, np.cumsum(sizes), sizes):
            self.layouts[name] = layout.select(range(end - size, end))
        return True

    def _joins(self, op: Any) -> bool:
        names, out = names_of(op.inputs), only(op.outputs, "Out")
        if attribute(op, "axis") != 1 or any(name not in self.layouts for name in names):
            return False
        if len(self._graph.shape(out)) < 2:
            return False
        self.layouts[out] = Layout.join([self.layouts[name] for name in names])
        return True

    def _may_follow(self, move: Move) -> bool:
        """Tell whether a move is of activations, with nothing inside that is stored."""
        inside = {name for op in move.operators[:-1] for name in names_of(op.outputs)}
        return self._graph.weights.keys().isdisjoint(move.sources) and not inside & self.kept

    def _moves(self, move: Move) -> bool:
        """Follow operators that put channels in another order, at the last of them."""
        joined = Layout.join([self.layouts[name] for name in move.sources])
        self.layouts[only(move.operators[-1].outputs, "Out")] = joined.select(move.order)
        return True

    def _convolves(self, op: Any) -> bool:
        source, weight = only(op.inputs, "Input"), only(op.inputs, "Filter")
        if op.type not in CONVOLUTIONS or source not in self.layouts or not is_nchw(op):
            return False
        value = self._graph.weights.get(weight)
        if value is None or self._read[weight] != 1 or len(names_of(op.inputs)) != 2:
            return False
        groups, out = attribute(op, "groups", 1), only(op.outputs, "Output")
        count = len(self.layouts[source])
        if groups == 1 and value.shape[1] == count and self._channels(out) == len(value):
            reads = {source: self._stored(source)}
            self.steps.append(Step(op, self._made(out), reads, weight))
            return True
        if groups == count == len(value) and value.shape[1] == 1:
            return self._follows(op, source, out, Step(op, None, {}, weight))
        return False

    def _is_by_channel(self, op: Any) -> bool:
        out = only(op.outputs, "Out")
        if op.type in _BY_CHANNEL:
            source = only(op.inputs, "X")
            alone = len(names_of(op.inputs)) == 1 and is_nchw(op)
            return alone and self._follows(op, source, out, Step(op, None))
        if op.type in _TWO_TERMS:
            return self._has_two_terms(op, out)
        return False

    def _follows(self, op: Any, source: str, out: str, step: Step) -> bool:
        """Note an operator that makes each channel of one of the same number."""
        layout = self.layouts.get(source)
        if layout is None or len(layout) != self._channels(out):
            return False
        layout = self._stored(source)
        step.made = self._held[out] = self.orders.follow(out, layout)
        step.reads[source] = layout
        self.layouts[out] = Layout.of(step.made)
        self.steps.append(step)
        return True

    def _has_two_terms(self, op: Any, out: str) -> bool:
        first, second = only(op.inputs, "X"), only(op.inputs, "Y")
        if first not in self.layouts or len(names_of(op.inputs)) != 2:
            return False
        count, step = len(self.layouts[first]), Step(op, None)
        if second in self._graph.weights:
            value = self._graph.weights[second]
            if value.size == 1:
                return self._follows(op, first, out, step)
            if self._read[second] != 1 or not self._is_vector(op, first, value):
                return False
            step.vectors.append(second)
            return self._follows(op, first, out, step)
        alike = len(self._graph.shape(first)) == len(self._graph.shape(second))
        if second not in self.layouts or not alike:
            return False
        if len(self.layouts[second]) != count or self._channels(out) != count:
            return False
        a, b = self._stored(first), self._stored(second)
        if not self.orders.tie(a, b):
            b = self._gathered(second, b)
            if not self.orders.tie(a, b):
                raise ValueError(f"{second}: what is gathered has no order that {first} may have")
        step.reads[second] = b
        return self._follows(op, first, out, step)

    def _is_vector(self, op: Any, source: str, value: np.ndarray) -> bool:
        """Tell whether a weight has one number for each channel."""
        rank, axis = len(self._graph.shape(source)), attribute(op, "axis", -1)
        along = axis if axis >= 0 else rank - value.ndim
        full = [1] * along + list(value.shape)
        full += [1] * (rank - len(full))
        return full == [1, len(self.layouts[source])] + [1] * (rank - 2)

    def _stays(self, op: Any) -> None:
        """Note an operator that is not known: it reads and makes the order of the network."""
        step = Step(op, None)
        for name in dict.fromkeys(names_of(op.inputs)):
            if name in self.layouts:
                step.reads[name] = self._pinned(name)
        for name in names_of(op.outputs):
            self._made(name, pinned=True)
        self.steps.append(step)

    def _stored(self, name: str) -> Layout:
        """Return the layout of a tensor that is stored as one, gathered if it must be."""
        layout = self.layouts[name]
        source = layout.whole()
        if source is None or (name in self.kept and source.name != name):
            layout = self._gathered(name, layout)
        return layout

    def _gathered(self, name: str, layout: Layout) -> Layout:
        """Put a tensor together under its name; if another one has that name, one is renamed.

        It is the older one where the graph has the name as an output.
        """
        new, older = name, self._held.get(name)
        if older is not None and name in self._graph.outputs:
            older.name = self.renamed[name] = f"{name}@unordered"
            self.origins[older.name] = name
        elif older is not None:
            new = f"{name}@ordered{len(self.steps)}"
        gathered = self._held[new] = self.orders.gather(new, layout)
        self.origins[new] = name
        self.steps.append(Step(None, gathered))
        self.layouts[name] = Layout.of(gathered)
        return self.layouts[name]

    def _pinned(self, name: str) -> Layout:
        """Return the layout of a tensor that is stored in the order of the network."""
        layout = self._stored(name)
        output = name in self._graph.outputs
        source = layout.whole()
        renamed = output and source is not None and source.name != name
        if renamed or not self.orders.pin(layout):
            layout = self._gathered(name, layout)
            self.orders.pin(layout)
        return layout
