"""Record that the rules of all operators fill, and functions that they share.

The labels of an axis are an array [channels], or None where the axis holds no channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from core.prune.structure.graph import ModelGraph, Operator
from core.prune.structure.labels import Array, Labels, Reason


@dataclass(frozen=True)
class Setting:
    """A number that a layer holds and that follows from how many of these channels are kept.

    `position` is the place in a list, if the attribute is one.
    """

    layer: str
    attribute: str
    labels: Array
    position: int | None = None


@dataclass
class Flow:
    """Record that the rules fill while they walk through a graph."""

    graph: ModelGraph
    labels: Labels
    producers: dict[tuple[str, int], bool] = field(default_factory=dict)  # weight axis -> is dense
    norms: list[str] = field(default_factory=list)  # scales of batch normalization
    settings: list[Setting] = field(default_factory=list)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.graph.shapes[name]

    def pin(self, op: Operator, labels: Array | None, why: str) -> None:
        if labels is not None:
            self.labels.pin(labels, Reason(op.layer, op.type, why))

    def pin_inputs(self, op: Operator, why: str) -> None:
        for name in sorted({name for names in op.inputs.values() for name in names}):
            for labels in self.labels.axes(name).values():
                self.pin(op, labels, why)


def second_axis(flow: Flow, op: Operator, name: str) -> Array | None:
    """Return the labels [channels] of the second axis, and pin those of the other axes."""
    for axis, labels in flow.labels.axes(name).items():
        if axis != 1:
            flow.pin(op, labels, "channels must be the second axis")
    return flow.labels.get(name, 1)


def broadcast(
    flow: Flow, op: Operator, shifts: Mapping[str, int], axes: Sequence[int]
) -> dict[int, Array | None]:
    """Join operands along these axes of the result.

    `shifts` says at which of its axes an operand begins.
    """
    out: dict[int, Array | None] = {}
    for axis in axes:
        sized = [
            (name, axis - shift)
            for name, shift in shifts.items()
            if 0 <= axis - shift < len(flow.shape(name)) and flow.shape(name)[axis - shift] > 1
        ]
        found = [flow.labels.get(name, own) for name, own in sized]
        labelled = [labels for labels in found if labels is not None]
        for labels in labelled[1:]:
            flow.labels.join(labelled[0], labels)
        if labelled:
            if len(labelled) < len(found):
                flow.pin(op, labelled[0], "the other operand has a fixed size")
            out[axis] = labelled[0]
    return out


def positive_axis(value: int, rank: int) -> int:
    """Count an axis from the first."""
    return value + rank if value < 0 else value


def without(axes: Mapping[int, Array | None], dropped: Sequence[int]) -> dict[int, Array | None]:
    """Move labels to where their axes are once other axes are gone."""
    return {
        axis - sum(gone < axis for gone in dropped): labels
        for axis, labels in axes.items()
        if axis not in dropped
    }


def spread(labels: Array, axis: int, shape: Sequence[int]) -> Array:
    """Repeat the labels of one axis over all the others."""
    view = [1] * len(shape)
    view[axis] = len(labels)
    return np.broadcast_to(labels.reshape(view), shape)
