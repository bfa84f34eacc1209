"""Take the channel shuffles out of a graph: weights are permuted, and blocks pass their parts on.

What is computed between two shuffles (convolutions by channel and over all channels, weighting,
addition) commutes with a permutation of the channels, so splits, concatenations and shuffles are
only followed, see `core.graph.channel_reader`, until something must be stored in one tensor. There
the parts are sliced and joined; where later parts are to be slices again, one shuffle of more
groups does the work of several, or one selection where pruning has left no regular shuffle. Every
number is computed from the same numbers as before; only sums over channels are taken in another
order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from paddle.base.proto import framework_pb2

from core.graph.channel_orders import HeldTensor, Layout, WeightOrder, runs_of
from core.graph.channel_reader import CONVOLUTIONS, ChannelReader, Step
from core.graph.operators import attribute, names_of, only, operator, variable
from core.graph.program import Graph

# costs of moves; the unit is one channel of one pixel that a shuffle moves
COPY, PIECE, SHUFFLE = 0.25, 4.0, 1.0


def dissolve_shuffles(graph: Graph, kept: Collection[str] = ()) -> Graph:
    """Return a graph without the shuffles that can be spared, or the same one if none can.

    Args:
        graph: Float graph with folded batch norms; stays as it is.
        kept: Tensors that keep their names, with their channels in any order.
    """
    made = (follow_channels(graph, kept, with_shuffles) for with_shuffles in (True, False))
    # channels that no output depends on are gone, and so may be what is kept
    whole = [each for each in made if each.variables.keys() >= set(kept)]
    return min([graph, *whole], key=movement_cost)


def follow_channels(graph: Graph, kept: Collection[str] = (), with_shuffles: bool = True) -> Graph:
    """Return a graph that moves channels only where they must lie in one tensor.

    Args:
        graph: Float graph with folded batch norms; stays as it is.
        kept: Tensors that keep their names, with their channels in any order.
        with_shuffles: Put parts that are sliced again in the order of the network, by shuffles of
            several groups; otherwise slice by slice.
    """
    reader = ChannelReader(graph, kept)
    reader.read()
    reader.orders.choose(with_shuffles)
    writer = _Writer(graph, reader)
    writer.write()
    return writer.made


def movement_cost(graph: Graph) -> float:
    """Estimate the cost of the splits, concatenations and shuffles of a graph, by pixel."""
    cost = 0.0
    for op in graph.operators:
        names = names_of(op.outputs) if op.type == "split" else names_of(op.inputs)
        if op.type in ("split", "concat") and attribute(op, "axis") == 1:
            sizes = [graph.shape(name) for name in names]
            pixels = abs(int(np.prod(sizes[0][2:])))
            cost += pixels * (COPY * sum(abs(size[1]) for size in sizes) + PIECE * len(sizes))
        elif op.type == "transpose2" and attribute(op, "axis") == [0, 2, 1, 3, 4]:
            cost += SHUFFLE * abs(int(np.prod(graph.shape(only(op.inputs, "X"))[1:])))
        elif op.type == "index_select":
            cost += SHUFFLE * abs(int(np.prod(graph.shape(only(op.outputs, "Out"))[1:])))
    return cost


@dataclass
class _Gathering:
    """How a tensor is put together.

    Attributes:
        slices: Holder, first position and length of each part.
        groups: Groups of a shuffle behind it; 1 if there is none.
        selected: Place among the joined parts of each channel that is selected behind; None if all
            lie as they should.
    """

    slices: list[tuple[HeldTensor, int, int]]
    groups: int = 1
    selected: np.ndarray | None = None


class _Writer:
    """Writes the graph that a reader has read, once the orders are chosen."""

    def __init__(self, graph: Graph, reader: ChannelReader) -> None:
        self._graph, self._reader = graph, reader
        self.made = replace(graph, operators=[], variables=dict(graph.variables))
        self.made.weights = dict(graph.weights)
        self.made.permuted = dict(graph.permuted)
        self._names: dict[int, str] = {}  # names of stored tensors, by identity
        self._pieces: dict[tuple[int, int], str] = {}  # by holder and first position
        self._cuts: dict[int, list[int]] = {}
        self._gatherings: dict[int, _Gathering] = {}

    def write(self) -> None:
        """Write operators, weights and variables."""
        self._plan()
        for name in self._graph.inputs:
            if name in self._reader.layouts:
                self._cut(self._reader.layouts[name].holders[0])
        for step in self._reader.steps:
            if step.op is None and step.made is not None:
                self._gather(step.made)
            elif step.op is not None:
                self._copy(step, step.op)
            if step.made is not None:
                self._cut(step.made)
            elif step.op is not None:
                self._cut_all(step.op)
        left = {name for op in self.made.operators for name in names_of(op.outputs)}
        self.made.made = {path: name for path, name in self._graph.made.items() if name in left}
        self.made.drop_unused()

    def _plan(self) -> None:
        """Decide how each tensor is gathered, and where others must be cut for that."""
        for name, like in self._reader.origins.items():
            self._describe(name, like, self._graph.shape(like)[1])
        for stored in self._reader.orders.gathered:
            plan = _plan_of(stored, self.made.shape(stored.name))
            self._gatherings[id(stored)] = plan
            for holder, start, length in plan.slices:
                cuts = self._cuts.setdefault(id(holder), [])
                cuts += [start, start + length]

    def _cut(self, stored: HeldTensor) -> None:
        """Split a tensor into all pieces that are gathered somewhere."""
        count = stored.order_class.count
        ends = sorted({0, count, *self._cuts.get(id(stored), ())})
        name = self._name(stored)
        if len(ends) == 2:
            self._pieces[id(stored), 0] = name
            return
        parts = [f"{name}@from{start}" for start in ends[:-1]]
        sizes = [int(size) for size in np.diff(ends)]
        split = operator("split", {"X": name}, {}, {"axis": 1, "num": 0, "sections": sizes})
        split.outputs.add(parameter="Out", arguments=parts)
        self.made.operators.append(split)
        for part, start, size in zip(parts, ends, sizes):
            self._describe(part, name, size)
            self._pieces[id(stored), start] = part

    def _cut_all(self, op: Any) -> None:
        for name in names_of(op.outputs):
            if name in self._reader.layouts:
                stored = self._reader.layouts[name].holders[0]
                if stored.name == self._reader.renamed.get(name, name):
                    self._cut(stored)

    def _gather(self, stored: HeldTensor) -> None:
        """Join pieces, and shuffle them if their order is that of a shuffle."""
        plan, name = self._gatherings[id(stored)], stored.name
        pieces = [piece for each in plan.slices for piece in self._pieces_of(*each)]
        outer = name in self._graph.outputs or name in self._reader.kept
        behind = plan.groups > 1 or plan.selected is not None
        if len(pieces) == 1 and not behind:
            if not outer:
                self._names[id(stored)] = pieces[0]
                return
            self.made.operators.append(operator("assign", {"X": pieces[0]}, {"Out": name}, {}))
            return
        target = f"{name}@parts" if behind else name
        join = operator("concat", {}, {"Out": target}, {"axis": 1})
        join.inputs.add(parameter="X", arguments=pieces)
        self.made.operators.append(join)
        if behind:
            self._describe(target, name, stored.order_class.count)
        if plan.groups > 1:
            self._shuffle(target, name, plan.groups)
        elif plan.selected is not None:
            self._select(target, name, plan.selected)

    def _select(self, source: str, name: str, order: np.ndarray) -> None:
        """Select rows: OpenVINO 2026.4 gathers wrong channels from maps of 4 axes."""
        (batch, count, *size), dtype = self.made.shape(name), self.made.dtype(name)
        rows, chosen, index = (f"{name}@{role}" for role in ("rows", "chosen", "order"))
        self.made.weights[index] = order.astype(np.int32)
        whole = np.dtype("int32")
        self.made.variables[index] = variable(index, order.shape, whole, persistable=True)
        for each in (rows, chosen):
            shape = (batch, count, size[0] * size[1])
            self.made.variables[each] = variable(each, shape, dtype)
        flat = {"start_axis": 2, "stop_axis": 3}
        before = variable(f"{rows}@before", (0, *self.made.shape(name)), dtype)
        self.made.variables[before.name] = before
        outputs = {"Out": rows, "XShape": before.name}
        self.made.operators += [
            operator("flatten_contiguous_range", {"X": source}, outputs, flat),
            operator("index_select", {"X": rows, "Index": index}, {"Out": chosen}, {"dim": 1}),
        ]
        self._reshape("reshape2", chosen, name, {"shape": [0, count, *size]})

    def _shuffle(self, source: str, name: str, groups: int) -> None:
        _, count, *size = self.made.shape(name)
        grouped, turned = f"{name}@grouped", f"{name}@turned"
        parts = [groups, count // groups]
        self._reshape("reshape2", source, grouped, {"shape": [0, *parts, *size]})
        self._reshape("transpose2", grouped, turned, {"axis": [0, 2, 1, 3, 4]})
        self._reshape("reshape2", turned, name, {"shape": [0, count, *size]})

    def _reshape(self, kind: str, source: str, target: str, how: dict[str, list[int]]) -> None:
        """Add an operator that gives a tensor another shape, with the output Paddle wants of it."""
        before, dtype = self.made.shape(source), self.made.dtype(source)
        after = [before[axis] for axis in how.get("axis", ())]
        after = after or [before[0], *how["shape"][1:]]
        for each, shape in ((target, after), (f"{target}@before", (0, *before))):
            self.made.variables[each] = variable(each, shape, dtype)
        outputs = {"Out": target, "XShape": f"{target}@before"}
        self.made.operators.append(operator(kind, {"X": source}, outputs, how))

    def _pieces_of(self, holder: HeldTensor, start: int, length: int) -> list[str]:
        count = holder.order_class.count
        ends = sorted({0, count, *self._cuts.get(id(holder), ())})
        starts = [each for each in ends if start <= each < start + length]
        return [self._pieces[id(holder), each] for each in starts]

    def _copy(self, step: Step, original: Any) -> None:
        op = framework_pb2.OpDesc()
        op.CopyFrom(original)
        names = {
            name: self._name(layout.holders[0])
            for name, layout in step.reads.items()
            if layout.whole() is not None
        }
        for slot in op.inputs:
            slot.arguments[:] = [names.get(name, name) for name in slot.arguments]
        for slot in op.outputs:
            slot.arguments[:] = [self._reader.renamed.get(each, each) for each in slot.arguments]
        self.made.operators.append(op)
        if step.made is not None:
            self._permute(step, op, step.made.channels())

    def _permute(self, step: Step, op: Any, outputs: np.ndarray) -> None:
        """Permute the weights of an operator."""
        weights = self.made.weights
        for name in step.vectors:
            value = weights[name]
            axis = list(value.shape).index(len(outputs))
            weights[name] = np.ascontiguousarray(value.take(outputs, axis))
        if op.type not in CONVOLUTIONS or not step.weight:
            return
        (layout,) = step.reads.values()
        inputs, value = _channels_read(layout), weights[step.weight][outputs]
        if value.shape[1] == len(inputs):
            value = value[:, inputs]
        weights[step.weight] = np.ascontiguousarray(value)
        order = WeightOrder(inputs, outputs).after(self._graph.permuted.get(step.weight))
        if not order.is_former():
            self.made.permuted[step.weight] = order

    def _name(self, stored: HeldTensor) -> str:
        return self._names.get(id(stored), stored.name)

    def _describe(self, name: str, like: str, count: int) -> None:
        shape = self.made.shape(like)
        made = variable(name, (shape[0], count, *shape[2:]), self.made.dtype(like))
        self.made.variables[name] = made


def _channels_read(layout: Layout) -> np.ndarray:
    """Return the channel, as the reader of a layout counts them, at each position."""
    read: np.ndarray = np.argsort(layout.channels)[layout.holders[0].channels()]
    return read


def _plan_of(stored: HeldTensor, shape: Sequence[int]) -> _Gathering:
    """Choose the cheapest way to gather a tensor: slices alone, or put in order behind."""
    layout = stored.gathered
    if layout is None:
        raise ValueError(f"{stored.name}: is not gathered")
    channels, groups = stored.channels(), layout.groups()
    runs = runs_of(layout, channels)
    if len(shape) != 4 or min(shape[1:]) < 1:
        return _Gathering(runs)
    moved = (SHUFFLE + COPY) * len(layout)
    costs = [(PIECE * len(runs) + COPY * len(layout), _Gathering(runs))]
    if groups > 1 and np.array_equal(channels, np.arange(len(layout))):
        residues = [np.arange(start, len(layout), groups) for start in range(groups)]
        parts = runs_of(layout, np.concatenate(residues))
        costs.append((PIECE * len(parts) + moved, _Gathering(parts, groups)))
    lying = _as_they_lie(layout)
    parts, places = runs_of(layout, lying), np.argsort(lying)[channels]
    costs.append((PIECE * len(parts) + 1.5 * moved, _Gathering(parts, 1, places)))
    return min(costs, key=lambda each: each[0])[1]


def _as_they_lie(layout: Layout) -> np.ndarray:
    """Return the channels of a layout tensor by tensor, as these hold them."""
    places = {id(each): (n, each.positions()) for n, each in enumerate(layout.holder_list())}

    def place(channel: int) -> tuple[int, int]:
        number, positions = places[id(layout.holders[channel])]
        return number, int(positions[layout.channels[channel]])

    return np.array(sorted(range(len(layout)), key=place))
