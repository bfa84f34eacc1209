"""Channels that are scaled alike, so that a network answers as before; see `core.quant.balance`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from core.graph.layer_patterns import LayerPattern, is_nchw
from core.graph.linear_layers import LAYER_SLOTS
from core.graph.operators import attribute, names_of, only
from core.graph.program import Graph
from core.quant.equalize import (
    HOMOGENEOUS,
    in_groups,
    rescalable_layers,
)

FIXED = 0  # the group of all channels that must stay as they are
_Side = tuple[str, str]  # path of a weight, `in` or `out`


class ChannelGroups:
    """Which channels of which layers must be scaled alike.

    Attributes:
        layers: By path of the weight; those alone are rescaled.
    """

    def __init__(self) -> None:
        self.layers: dict[str, LayerPattern] = {}
        self._parents = [FIXED]
        self._sides: dict[_Side, np.ndarray] = {}

    def side(self, weight: str, which: str) -> np.ndarray:
        """Return the groups of the channels [C] that a layer reads (`in`) or writes (`out`)."""
        return np.array([self._root(each) for each in self._sides[weight, which]])

    def __len__(self) -> int:
        return len(self._parents)

    def add(self, graph: Graph, kept: Collection[str] = ()) -> None:
        """Follow the channels through a graph, beside those followed before.

        Args:
            graph: Operators, and which layer made which tensor.
            kept: Paths of layers whose outputs stay as they are.
        """
        _Follower(self, graph).run(kept)

    def fresh(self, key: _Side, count: int) -> np.ndarray:
        """Return the channels [C] of a side of a layer, new ones where it was not seen before."""
        if key not in self._sides:
            start = len(self._parents)
            self._parents.extend(range(start, start + count))
            self._sides[key] = np.arange(start, start + count)
        return self._sides[key]

    def tie(self, some: np.ndarray, others: np.ndarray | int) -> None:
        """Let channels be scaled alike, those of two arrays [C] or of an array and a single one."""
        for one, other in np.broadcast(some, others):
            first, second = self._root(int(one)), self._root(int(other))
            low, high = min(first, second), max(first, second)
            self._parents[high] = low  # so that FIXED stays a root

    def leave(self, weight: str) -> None:
        """Keep all channels of a layer, and those tied to them, as they are."""
        for which in ("in", "out"):
            self.tie(self._sides[weight, which], FIXED)
        del self.layers[weight]

    def _root(self, channel: int) -> int:
        while self._parents[channel] != channel:
            self._parents[channel] = self._parents[self._parents[channel]]
            channel = self._parents[channel]
        return channel


class _Follower:
    """Goes through the operators of a graph.

    The channels of a tensor [N, ...] are an array over its axes from 1 on; axes that it does not
    have are places.
    """

    def __init__(self, groups: ChannelGroups, graph: Graph) -> None:
        self._groups, self._graph = groups, graph
        self._channels: dict[str, np.ndarray] = {}
        found = rescalable_layers(graph)
        self._layers = {id(layer.op): layer for layer in found.values()}
        self._inside = {name for layer in found.values() for name in _made_by(layer)}
        groups.layers.update(
            {path: each for path, each in found.items() if path not in groups.layers}
        )

    def run(self, kept: Collection[str]) -> None:
        for op in self._graph.operators:
            if id(op) in self._layers:
                self._layer(self._layers[id(op)])
            elif self._inside.isdisjoint(names_of(op.outputs)) and not self._moves(op):
                for name in names_of(op.inputs):
                    self._fix(name)
        made = [self._graph.made[path] for path in kept if path in self._graph.made]
        for name in (*self._graph.outputs, *made):
            self._fix(name)

    def _of(self, name: str) -> np.ndarray:
        if name in self._channels:
            return self._channels[name]
        shape = self._graph.shape(name)
        return np.full(shape[1] if len(shape) > 1 and shape[1] > 0 else 1, FIXED)

    def _fix(self, name: str) -> None:
        if name in self._channels:
            self._groups.tie(self._channels[name], FIXED)

    def _layer(self, layer: LayerPattern) -> None:
        groups = in_groups(layer.op, self._graph.weights[layer.weight])
        count, outputs, inputs = groups.shape[:3]
        read = self._groups.fresh((layer.weight, "in"), count * inputs)
        made = self._groups.fresh((layer.weight, "out"), count * outputs)
        source = only(layer.op.inputs, LAYER_SLOTS[layer.op.type].source)
        given = self._of(source)
        fits = given.ndim == 1 and given.size == read.size
        self._groups.tie(read, given if fits else FIXED)
        if not fits:
            self._fix(source)
        if layer.norm is not None and not only(layer.norm.inputs, "Scale"):
            self._groups.tie(made, FIXED)
        self._channels[layer.end] = made

    def _moves(self, op: Any) -> bool:
        """Follow an operator that keeps channels apart; tell whether it is one."""
        kind, source = op.type, only(op.inputs, "X")
        if kind in HOMOGENEOUS or kind == "scale":
            fits = is_nchw(op) and not (kind == "scale" and attribute(op, "bias", 0.0))
            if fits and source in self._channels:
                self._channels[only(op.outputs, "Out")] = self._channels[source]
            return fits
        if kind == "elementwise_add":
            return self._add(op)
        if kind == "concat" and attribute(op, "axis", 0) == 1:
            parts = [self._of(name) for name in names_of(op.inputs)]
            if all(part.ndim == 1 for part in parts):
                self._channels[only(op.outputs, "Out")] = np.concatenate(parts)
                return True
        if kind == "split" and attribute(op, "axis", 0) == 1 and self._of(source).ndim == 1:
            made = names_of(op.outputs)
            sizes = [self._graph.shape(name)[1] for name in made]
            parts = np.split(self._of(source), np.cumsum(sizes)[:-1])
            self._channels.update(zip(made, parts))
            return True
        if kind in ("reshape2", "transpose2"):
            return self._rearrange(op, source)
        return False

    def _add(self, op: Any) -> bool:
        one, other = only(op.inputs, "X"), only(op.inputs, "Y")
        pair, shapes = (
            (self._of(one), self._of(other)),
            [self._graph.shape(n) for n in (one, other)],
        )
        if len(shapes[0]) != len(shapes[1]) or pair[0].shape != pair[1].shape:
            return False
        self._groups.tie(*pair)
        self._channels[only(op.outputs, "Out")] = pair[0]
        return True

    def _rearrange(self, op: Any, source: str) -> bool:
        """Follow channels that become several axes, change places and become one again."""
        channels, made = self._of(source), only(op.outputs, "Out")
        before, after = self._graph.shape(source), self._graph.shape(made)
        if op.type == "transpose2":
            order, axes = attribute(op, "axis", []), channels.ndim + 1
            still = [0, *range(axes, len(order))]
            if [order[axis] for axis in still] != still:
                return False
            self._channels[made] = channels.transpose([axis - 1 for axis in order[1:axes]])
            return True
        places = before[1 + channels.ndim :]
        axes = len(after) - len(places)
        if after[axes:] != places or int(np.prod(after[1:axes])) != channels.size:
            return False
        self._channels[made] = channels.reshape(after[1:axes])
        return True


def _made_by(layer: LayerPattern) -> set[str]:
    """Return the names of the tensors that a layer makes, with its bias as it is added."""
    made = set() if layer.add is None else {only(layer.add.inputs, "Y")}
    for op in (layer.op, layer.add, layer.norm):
        made |= set() if op is None else set(names_of(op.outputs))
    return made
