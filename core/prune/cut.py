"""Cut channels out of a live model, check that it still fits together, do it again elsewhere."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.base.framework import EagerParamBase
from paddle.nn import Layer
from paddle.nn.layer import conv, norm
from paddle.static import InputSpec

from core.errors import CheckpointError, ExportError
from core.network.channels import ChannelShuffle, ChannelSplit
from core.prune.structure.analysis import Analysis, TracedLabels
from core.prune.structure.graph import ModelGraph, Operator, TraceError, trace_operators
from core.prune.structure.labels import Array
from core.settings.config import read
from core.strategy import Record

Undo = Callable[[], None]
_TRANSPOSED = (nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose)
Indices = dict[str, dict[int, list[int]]]  # weight -> axis -> positions that are kept


@dataclass(frozen=True)
class ChannelEdit:
    """A cut of a model as plain numbers.

    Attributes:
        kept: Positions kept on each axis of each weight that gets smaller.
        settings: New values of attributes, by layer.
    """

    kept: Indices
    settings: dict[str, dict[str, Any]]

    def to_record(self) -> Record:
        """Return it as plain JSON; equal lists of positions are written once."""
        lists: dict[str, int] = {}
        weights: dict[str, dict[str, int]] = {}
        for name, axes in self.kept.items():
            for axis, positions in axes.items():
                place = lists.setdefault(json.dumps(positions), len(lists))
                weights.setdefault(name, {})[str(axis)] = place
        positions = [json.loads(text) for text in lists]
        return {"positions": positions, "weights": weights, "settings": self.settings}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> ChannelEdit:
        """Read what `to_record` wrote.

        Raises:
            ConfigError: A key is missing or unknown, or a value of another kind.
            CheckpointError: Numbers that mean nothing.
        """
        cut = read(_Record, record)
        for number, positions in enumerate(cut.positions):
            if not positions or list(positions) != sorted(
                {each for each in positions if each >= 0}
            ):
                raise CheckpointError(f"positions.{number}: expected positions in rising order")
        kept: Indices = {}
        for name, axes in cut.weights.items():
            for axis, place in axes.items():
                if not axis.isdecimal() or not 0 <= place < len(cut.positions):
                    raise CheckpointError(f"weights.{name}.{axis}: expected an axis and a list")
                kept.setdefault(name, {})[int(axis)] = list(cut.positions[place])
        return ChannelEdit(kept, {name: dict(values) for name, values in cut.settings.items()})


@dataclass(frozen=True)
class _Record:
    """An edit in a file: lists of positions, for each weight which one on which axis, settings."""

    positions: tuple[tuple[int, ...], ...]
    weights: dict[str, dict[str, int]]
    settings: dict[str, dict[str, int | list[int] | None]]


def plan_edit(model: Layer, analysis: Analysis, keep: Array) -> ChannelEdit:
    """List the channels that each weight and layer keeps, for a mask [labels] of labels to keep."""
    kept: Indices = {}
    for name, axes in analysis.weights.items():
        for axis, labels in axes.items():
            mask = keep[labels]
            if not mask.all():
                kept.setdefault(name, {})[axis] = np.flatnonzero(mask).tolist()
    settings: dict[str, dict[str, Any]] = {}
    layers = dict(model.named_sublayers())
    for setting in analysis.settings:
        count = int(keep[setting.labels].sum())
        if count == len(setting.labels):
            continue
        own = settings.setdefault(setting.layer, {})
        if setting.position is None:
            own[setting.attribute] = count
        else:
            value = own.get(setting.attribute, getattr(layers[setting.layer], setting.attribute))
            own[setting.attribute] = [*value]
            own[setting.attribute][setting.position] = count
    for moved in analysis.rearrangements:
        together = np.concatenate(moved.inputs)
        if keep[together].all():
            continue
        layer = layers[moved.layer]
        if isinstance(layer, ChannelSplit):
            settings[moved.layer] = {"sizes": [int(keep[part].sum()) for part in moved.parts]}
        elif isinstance(layer, ChannelShuffle):
            place = np.cumsum(keep[together]) - 1
            old = layer.positions(len(together))
            order = [int(place[position]) for position in old if keep[together[position]]]
            settings[moved.layer] = {"order": layer.simplified(order)}
    return ChannelEdit(kept, settings)


def apply_edit(model: Layer, edit: ChannelEdit) -> Undo:
    """Cut a model; weights that get smaller become new tensors.

    Returns:
        A function that puts the very tensors and numbers back that the model had.

    Raises:
        CheckpointError: The model has no such weights or layers, or they are too small.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    layers = dict(model.named_sublayers(include_self=True))
    unknown = [name for name in edit.kept if name not in tensors]
    unknown += [name for name in edit.settings if name not in layers]
    unknown += [
        f"{path}.{name}"
        for path, settings in edit.settings.items()
        for name, value in settings.items()
        if path in layers and not _fits(value, name, _attributes(layers[path]))
    ]
    if unknown:
        raise CheckpointError(f"{unknown[0]}: pruned in the checkpoint, but the model has none")
    depthwise = {path for path, layer in layers.items() if _is_depthwise(layer)}
    smaller = {
        id(tensors[name]): _select(name, tensors[name], edit.kept[name]) for name in edit.kept
    }
    changes: list[tuple[dict[str, Any], str, Any]] = []  # a dict, a key, what it held

    def change(held: dict[str, Any], key: str, value: Any) -> None:
        changes.append((held, key, held[key]))
        held[key] = value

    for layer in layers.values():
        for held in (layer._parameters, layer._buffers):
            for key, tensor in held.items():
                if tensor is not None and id(tensor) in smaller:
                    change(held, key, smaller[id(tensor)])
    for path, settings in edit.settings.items():
        for name, value in settings.items():
            change(_attributes(layers[path]), name, value)
    for layer in layers.values():
        for name, value in _sizes(layer).items():
            change(_attributes(layer), name, value)

    def undo() -> None:
        for held, key, value in reversed(changes):
            held[key] = value

    wrong = next((path for path in depthwise if not _is_depthwise(layers[path])), None)
    if wrong is not None:
        undo()
        raise CheckpointError(
            f"{wrong}: pruned in the checkpoint to channels that its groups do not fit"
        )
    return undo


def _is_depthwise(layer: Layer) -> bool:
    """Tell whether a convolution has a group for each output, of one input."""
    if not isinstance(layer, nn.Conv2D) or layer.weight.shape[1] != 1:
        return False
    return bool(layer.weight.shape[0] == layer._groups)


def _attributes(layer: Layer) -> dict[str, Any]:
    """Return the plain attributes of a layer, such as its numbers of channels, to read and set."""
    return cast("dict[str, Any]", vars(layer))


def _fits(value: Any, name: str, held: Mapping[str, Any]) -> bool:
    """Tell whether a layer holds a number of this name, or a list, as the new value is one."""
    if name not in held:
        return False
    current = held[name]
    if isinstance(value, int):
        return isinstance(current, int) and not isinstance(current, bool)
    return current is None or isinstance(current, (list, tuple))


def _select(name: str, tensor: Tensor, axes: Mapping[int, list[int]]) -> Tensor:
    values = tensor.numpy()
    for axis, positions in axes.items():
        if axis >= values.ndim or max(positions) >= values.shape[axis]:
            raise CheckpointError(
                f"{name}: channel {max(positions)} is kept on axis {axis}, "
                f"its shape is {list(tensor.shape)}"
            )
        values = values.take(positions, axis)
    if not isinstance(tensor, EagerParamBase):
        smaller = paddle.to_tensor(values, stop_gradient=tensor.stop_gradient)
        smaller.name, smaller.persistable = tensor.name, tensor.persistable
        return smaller
    parameter = EagerParamBase(shape=list(values.shape), dtype=tensor.dtype, name=tensor.name)
    parameter.set_value(values)
    for name in ("optimize_attr", "regularizer", "do_model_average", "need_clip", "is_distributed"):
        setattr(parameter, name, getattr(tensor, name))
    parameter.stop_gradient = tensor.stop_gradient
    return parameter


def _sizes(layer: Layer) -> dict[str, int]:
    """Return the numbers that a layer prints, and some code asks for, as its weights have them."""
    weight = layer._parameters.get("weight")
    if isinstance(layer, conv._ConvNd) and weight is not None:
        ends = ("_in_channels", "_out_channels")
        names = ends if isinstance(layer, _TRANSPOSED) else reversed(ends)
        return dict(zip(names, (weight.shape[0], weight.shape[1] * layer._groups)))
    if isinstance(layer, norm._BatchNormBase):
        return {"_num_features": layer._mean.shape[0]}
    if isinstance(layer, norm._InstanceNormBase) and layer.scale is not None:
        return {"_num_features": layer.scale.shape[0]}
    if isinstance(layer, nn.GroupNorm) and weight is not None:
        return {"_num_channels": weight.shape[0]}
    if isinstance(layer, nn.PReLU):
        return {"_num_parameters": layer._weight.shape[0]}
    return {}


@contextlib.contextmanager
def cut_for_now(model: Layer, edit: ChannelEdit) -> Iterator[None]:
    """Cut a model inside; afterwards it is whole again, with the very tensors it had."""
    undo = apply_edit(model, edit)
    try:
        yield
    finally:
        undo()


def check_cut(
    model: Layer, specs: Sequence[InputSpec], analysis: Analysis, keep: Array
) -> dict[tuple[bool, int], str]:
    """Trace a cut model again and compare every tensor with what the analysis foresaw.

    Code may hold numbers of channels that no graph shows (`x.reshape([0, 64, -1])`).

    Returns:
        The operators that turned out to do so, by mode and position, each with what was found;
        empty if all is well.
    """
    layers = dict(model.named_sublayers())
    for expected in analysis.graphs:
        try:
            found = trace_operators(model, specs, expected.training)
        except TraceError as error:
            misfits = _misfits(expected, error.graph, layers, keep) if error.graph else {}
            own = _within(expected.graph, error.layer)
            if not misfits and not own:
                raise
            return misfits or {(expected.training, index): str(error) for index in own}
        ours, theirs = (_outside(graph, layers) for graph in (expected.graph, found))
        if list(map(_kind, ours)) != list(map(_kind, theirs)):
            raise ExportError(f"{type(model).__name__}: runs other operators once it is pruned")
        misfits = _misfits(expected, found, layers, keep)
        if misfits:
            return misfits
    return {}


def _misfits(
    expected: TracedLabels, found: ModelGraph, layers: Mapping[str, Layer], keep: Array
) -> dict[tuple[bool, int], str]:
    """Return the operators that put out other shapes than foreseen, with what was found.

    Both graphs are compared as far as they run the same operators. What reads such an output is
    not held against its own operator.
    """
    misfits: dict[tuple[bool, int], str] = {}
    spoilt: set[str] = set()
    for one, two in zip(_outside(expected.graph, layers), _outside(found, layers)):
        if _kind(one) != _kind(two):
            break
        read = {name for names in one.inputs.values() for name in names}
        wrong = "" if read & spoilt else _misfit(one, two, expected, found, keep)
        if wrong:
            misfits[expected.training, one.index] = wrong
        if wrong or read & spoilt:
            spoilt.update(name for names in one.outputs.values() for name in names)
    return misfits


def _kind(op: Operator) -> str:
    # a depthwise convolution of a single channel that is left is a plain one
    return op.type.removeprefix("depthwise_")


def _within(graph: ModelGraph, layer: str) -> list[int]:
    """Return the operators that a layer called itself, else all that its sublayers called."""
    own = [op.index for op in graph.operators if op.layer == layer]
    if own:
        return own
    below = f"{layer}." if layer else ""
    return [op.index for op in graph.operators if op.layer.startswith(below)]


def _outside(graph: ModelGraph, layers: Mapping[str, Layer]) -> list[Operator]:
    inside = {
        index
        for call in graph.calls
        if isinstance(layers.get(call.layer), (ChannelSplit, ChannelShuffle))
        for index in range(call.first, call.end)
    }
    return [op for op in graph.operators if op.index not in inside]


def _misfit(
    one: Operator, two: Operator, expected: TracedLabels, found: ModelGraph, keep: Array
) -> str:
    for slot in ("Out", "Output", "Y"):
        for name, other in zip(one.outputs.get(slot, ()), two.outputs.get(slot, ())):
            shape = list(expected.graph.shapes.get(name) or ())
            for axis, labels in expected.activations.get(name, {}).items():
                shape[axis] = int(keep[labels].sum())
            now = list(found.shapes.get(other) or ())
            if shape != now:
                where = f"{one.layer}: " if one.layer else ""
                return f"{where}{one.type} puts out {now} instead of {shape}"
    return ""
