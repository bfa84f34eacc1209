"""Analysis of a model: groups of channels that can be cut together, and their cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from paddle.nn import Layer

from core.graph.cost import counted_parameters
from core.network.channels import ChannelShuffle, ChannelSplit
from core.prune.structure.cost import AxisLabels, NetworkCost, measure_cost
from core.prune.structure.flow import Flow, Setting
from core.prune.structure.graph import Call, ModelGraph
from core.prune.structure.labels import Array, Labels, Reason
from core.prune.structure.rules import apply_rule

Axis = tuple[str, int]  # a weight and one of its axes
Key = TypeVar("Key")
FIXED_OUTPUT = "it is an output of the network"


@dataclass(frozen=True)
class Group:
    """Channels that the same layers make; each unit of a group can be cut alone.

    Attributes:
        name: Path of the layer that makes the channels, the first one if there are more.
        units: Labels, in the order of the first producer's channels.
        producers: Axes of weights that make the channels, depthwise ones left out where others
            are, each with its labels.
        members: Axes of all weights that are cut with them, producers included.
        norms: Scales of batch normalization over these channels.
        keep_one: Positions in `units`, in sets of which one unit each must stay.
    """

    name: str
    units: Array
    producers: Mapping[Axis, Array]
    members: tuple[Axis, ...]
    norms: tuple[str, ...]
    keep_one: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True)
class Fixed:
    """Channels that stay: which layer makes them, how many, and why."""

    layer: str
    channels: int
    reason: Reason


@dataclass(frozen=True)
class Rearrangement:
    """A `ChannelSplit` or `ChannelShuffle` with the labels that go through it."""

    layer: str
    inputs: tuple[Array, ...]
    parts: tuple[Array, ...] = ()  # parts of a split


@dataclass(frozen=True)
class Analysis:
    """The structure of a model; labels are numbers from 0 to `count` - 1.

    Attributes:
        groups: Groups of channels that can be cut.
        fixed: Channels that cannot be cut.
        makers: Layers that make channels.
        weights: Labels of each labelled axis of parameters and buffers.
        settings: Settings of layers that change with a cut.
        rearrangements: Layers that deal channels out.
        cost: Multiply-accumulates and parameters by which labels are kept.
        count: Number of labels.
        graphs: Traces, with the labels of their activations, to check the cut model against.
    """

    groups: list[Group]
    fixed: list[Fixed]
    makers: frozenset[str]
    weights: AxisLabels
    settings: list[Setting]
    rearrangements: list[Rearrangement]
    cost: NetworkCost
    count: int
    graphs: list[TracedLabels]

    def keep_all(self) -> Array:
        """Return the mask [labels] that keeps every channel."""
        return np.ones(self.count, bool)


@dataclass(frozen=True)
class TracedLabels:
    """One trace of the model: in training mode or not."""

    graph: ModelGraph
    training: bool
    activations: AxisLabels


@dataclass(frozen=True)
class Pins:
    """Channels to keep for reasons that no rule knows.

    Attributes:
        layers: Paths of layers that keep the channels they or layers in them make, with why.
        operators: (training, position) of operators that turned out to hold fixed numbers.
        inputs: Paths of layers whose code computes with the number of channels that come in.
    """

    layers: Mapping[str, str] = field(default_factory=dict)
    operators: frozenset[tuple[bool, int]] = frozenset()
    inputs: frozenset[str] = frozenset()


def analyze_graphs(
    model: Layer, graphs: Mapping[bool, ModelGraph], pins: Pins = Pins()
) -> Analysis:
    """Group the channels of a model.

    Args:
        model: The traced model; left as it is.
        graphs: Graphs of `trace_modes`, in training and in evaluation mode.
        pins: Other channels that must stay.
    """
    weights = {
        name: graph.shapes[name]
        for graph in graphs.values()
        for name in graph.weights - _computed(graph)
        if graph.shapes.get(name)  # a weight may be declared and read by no operator
    }
    labels = Labels(weights)
    layers = dict(model.named_sublayers())
    flow = Flow(graphs[False], labels)
    traced, rearrangements = [], []
    for training, graph in graphs.items():
        flow.graph, labels.activations = graph, {}
        rearrangements.append(_walk(flow, layers, pins, training))
        traced.append((graph, training, labels.activations))
    for (weight, axis), _ in flow.producers.items():
        layer = weight.rpartition(".")[0]
        why = next((pins.layers[path] for path in upwards(layer) if path in pins.layers), None)
        if why is not None:
            own = labels.get(weight, axis)
            assert own is not None
            labels.pin(own, Reason(layer, "", why))
    # a layer without the attribute takes the number from its input, or the check will tell
    flow.settings = [s for s in flow.settings if hasattr(layers.get(s.layer), s.attribute)]
    parameters = {path: tuple(t.shape) for path, t in counted_parameters(model).items()}
    return _finish(flow, traced, rearrangements[-1], parameters)


def upwards(path: str) -> list[str]:
    """Return a layer's path and those of all layers around it."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _computed(graph: ModelGraph) -> set[str]:
    """Return the weights that operators compute, such as the kernel of a weight norm."""
    return {
        name
        for op in graph.operators
        for name in {name for names in op.outputs.values() for name in names}
        - {name for names in op.inputs.values() for name in names}
    }


def _walk(
    flow: Flow, layers: Mapping[str, Layer], pins: Pins, training: bool
) -> list[Rearrangement]:
    graph, labels = flow.graph, flow.labels
    special = {
        call.first: call
        for call in graph.calls
        if isinstance(layers.get(call.layer), (ChannelSplit, ChannelShuffle))
    }
    done, resume_at = [], 0
    held = [call for call in graph.calls if call.layer in pins.inputs]
    for op in graph.operators:
        for call in held:
            if call.first == op.index:
                _pin_inputs(labels, call)
        if op.index in special:
            call = special[op.index]
            done.append(_rearrange(flow, call, layers[call.layer]))
            resume_at = call.end
        if op.index < resume_at:
            continue
        if (training, op.index) in pins.operators:
            flow.pin_inputs(op, "its code holds or computes numbers of channels")
        apply_rule(flow, op)
    for name, variable in graph.outputs.items():
        for own in labels.axes(variable).values():
            labels.pin(own, Reason("", "", f"{name}: {FIXED_OUTPUT}"))
    return done


def _pin_inputs(labels: Labels, call: Call) -> None:
    why = "its code computes with the number of channels of its input"
    for name in call.inputs:
        for own in labels.axes(name).values():
            labels.pin(own, Reason(call.layer, "", why))


def _rearrange(flow: Flow, call: Call, layer: Layer) -> Rearrangement:
    labels, inputs = flow.labels, []
    for name in call.inputs:
        own = labels.get(name, 1)
        if own is None:
            own = labels.fresh(flow.shape(name)[1])
            labels.pin(own, Reason(call.layer, type(layer).__name__, "its input is fixed"))
        inputs.append(own)
    together = np.concatenate(inputs)
    if isinstance(layer, ChannelSplit):
        parts = tuple(np.split(together, np.cumsum(layer.sizes)[:-1]))
        for name, part in zip(call.outputs, parts):
            labels.put(name, {1: part})
        return Rearrangement(call.layer, tuple(inputs), parts)
    assert isinstance(layer, ChannelShuffle)
    labels.put(call.outputs[0], {1: together[layer.positions(len(together))]})
    return Rearrangement(call.layer, tuple(inputs))


def _finish(
    flow: Flow,
    traced: Sequence[tuple[ModelGraph, bool, AxisLabels]],
    rearrangements: Sequence[Rearrangement],
    parameters: Mapping[str, Sequence[int]],
) -> Analysis:
    """Replace labels by their representatives and build the groups."""
    labels, roots = flow.labels, flow.labels.roots()

    def settled(axes: AxisLabels) -> dict[str, dict[int, Array]]:
        return {name: {a: roots[own] for a, own in by.items()} for name, by in axes.items() if by}

    weights = settled(labels.weights)
    graphs = [TracedLabels(graph, training, settled(by)) for graph, training, by in traced]
    producers = {axis: (weights[axis[0]][axis[1]], dense) for axis, dense in flow.producers.items()}
    moved = [
        Rearrangement(r.layer, tuple(roots[i] for i in r.inputs), tuple(roots[p] for p in r.parts))
        for r in rearrangements
    ]
    narrow = [part for r in moved for part in (*r.inputs, *r.parts)]
    reasons = {root: labels.reason(root) for root in np.unique(roots).tolist()}
    groups, fixed = _group(producers, weights, reasons, flow.norms, narrow)
    settings = {
        (s.layer, s.attribute, s.position): Setting(
            s.layer, s.attribute, roots[s.labels], s.position
        )
        for s in flow.settings
    }
    return Analysis(
        groups=groups,
        fixed=fixed,
        makers=frozenset(weight.rpartition(".")[0] for weight, _ in producers),
        weights=weights,
        settings=list(settings.values()),
        rearrangements=moved,
        cost=measure_cost(graphs[-1].graph, graphs[-1].activations, weights, parameters),
        count=len(roots),
        graphs=graphs,
    )


def _group(
    producers: Mapping[Axis, tuple[Array, bool]],
    weights: AxisLabels,
    reasons: Mapping[int, Reason | None],
    norms: Sequence[str],
    narrow: Sequence[Array],
) -> tuple[list[Group], list[Fixed]]:
    """Gather units that a weight makes together; channels that stay are listed by their layer."""
    families = _Families()
    for own, _ in producers.values():
        families.join([unit for unit in own.tolist() if reasons[unit] is None])
    makers = families.axes_of((axis, own) for axis, (own, _) in producers.items())
    members = families.axes_of(
        ((name, dimension), np.unique(own))
        for name, by in weights.items()
        for dimension, own in by.items()
    )
    # no axis may lose all it has, be it one of several that a depthwise convolution ties together
    whole = {own.tobytes(): own for by in weights.values() for own in by.values()}
    free_axes = [
        own
        for own in [*narrow, *whole.values()]
        if all(reasons[unit] is None for unit in own.tolist())
    ]
    narrow_of = families.axes_of((own, np.unique(own)) for own in free_axes)
    free_units = {unit for unit, reason in reasons.items() if reason is None}
    groups = [
        _make_group(
            axes, producers, members[family], set(norms), narrow_of.get(family, ()), free_units
        )
        for family, axes in makers.items()
    ]
    return _told_apart(groups), _fixed_channels(producers, reasons)


def _fixed_channels(
    producers: Mapping[Axis, tuple[Array, bool]], reasons: Mapping[int, Reason | None]
) -> list[Fixed]:
    """List the layers that keep channels, with the reason of the first."""
    fixed = []
    for (weight, _), (own, _) in producers.items():
        found = [reasons[unit] for unit in own.tolist()]
        pinned = [reason for reason in found if reason is not None]
        if pinned:
            fixed.append(Fixed(weight.rpartition(".")[0], len(pinned), pinned[0]))
    return fixed


class _Families:
    """Units that are joined directly or through others; each family is named by its least unit."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def join(self, units: Sequence[int]) -> None:
        """Put units into one family."""
        for unit in units:
            one, other = self._find(units[0]), self._find(unit)
            self._parent[max(one, other)] = min(one, other)

    def axes_of(self, axes: Iterable[tuple[Key, Array]]) -> dict[int, list[Key]]:
        """Return for each family the axes that have units of it; units of no family are left out.

        Args:
            axes: Each with its units, [channels].
        """
        found: dict[int, list[Key]] = {}
        for axis, own in axes:
            for family in {self._find(unit) for unit in own.tolist() if unit in self._parent}:
                found.setdefault(family, []).append(axis)
        return found

    def _find(self, unit: int) -> int:
        while self._parent.setdefault(unit, unit) != unit:
            unit = self._parent[unit]
        return unit


def _told_apart(groups: Sequence[Group]) -> list[Group]:
    """Name groups of one layer by their weights."""
    names = [group.name for group in groups]
    return [
        replace(group, name=next(iter(group.producers))[0])
        if names.count(group.name) > 1
        else group
        for group in groups
    ]


def _make_group(
    made_by: Sequence[Axis],
    producers: Mapping[Axis, tuple[Array, bool]],
    members: Sequence[Axis],
    norms: set[str],
    narrow: Sequence[Array],
    free: set[int],
) -> Group:
    dense = [axis for axis in made_by if producers[axis][1]] or list(made_by)
    every = np.concatenate([producers[axis][0] for axis in made_by])
    order = {unit: place for place, unit in reversed(list(enumerate(every.tolist())))}
    units = np.array(sorted(free & set(order), key=order.__getitem__), dtype=np.int64)
    place = {unit: index for index, unit in enumerate(units.tolist())}
    sets = {frozenset(place[u] for u in part.tolist() if u in place) for part in narrow}
    return Group(
        name=dense[0][0].rpartition(".")[0],
        units=units,
        producers={axis: producers[axis][0] for axis in dense},
        members=tuple(members),
        norms=tuple(name for name, _ in members if name in norms),
        keep_one=tuple(np.array(sorted(s)) for s in sets if 0 < len(s) < len(units)),
    )
