"""How channels flow through each operator of Paddle.

A rule labels the outputs of an operator, joins what must be cut together and notes what a layer
must be told when it happens. Names and attributes are those of the old IR.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from core.prune.graph import Graph, Operator
from core.prune.labels import Array, Labels, Reason


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
    """What the rules write down while they walk through a graph."""

    graph: Graph
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


Rule = Callable[[Flow, Operator], None]


def apply_rule(flow: Flow, op: Operator) -> None:
    """Let the channels flow through an operator; one that is unknown keeps them all."""
    rule = RULES.get(op.type)
    if rule is not None:
        rule(flow, op)
    elif any(flow.labels.axes(name) for names in op.inputs.values() for name in names):
        flow.pin_inputs(op, "an operator this project does not know")


def _same(flow: Flow, op: Operator) -> None:
    axes = flow.labels.axes(op.input("X"))
    for slot in ("Out", "Y", "Mask"):
        flow.labels.put(op.output(slot), axes)


def _no_channels(flow: Flow, op: Operator) -> None:
    """Shapes and constants: nothing flows."""


def _convolution(flow: Flow, op: Operator) -> None:
    weight = op.input("Filter")
    if not _is_plain(flow, op, weight):
        return
    groups = int(op.attribute("groups") or 1)
    x = _second_axis(flow, op, op.input("Input"))
    out = flow.labels.get(weight, 0)
    assert out is not None
    dense = True
    if groups == 1:
        _feed(flow, op, weight, 1, x)
    else:
        dense = not _group(flow, op, weight, groups, x, out)
    flow.producers[weight, 0] = flow.producers.get((weight, 0), True) and dense
    flow.labels.put(op.output("Output"), {1: out})


def _group(flow: Flow, op: Operator, weight: str, groups: int, x: Array | None, out: Array) -> bool:
    """Join the channels of a grouped convolution; return whether whole groups go.

    Either whole groups go (in depthwise ones a group is a channel, with all the channels it is
    multiplied to), or the same positions in every group, whichever leaves more of a choice.
    """
    if x is None:
        flow.pin(op, out, "grouped, and its input is fixed")
        return True
    ins, outs = x.reshape(groups, -1), out.reshape(groups, -1)
    if groups >= ins.shape[1]:
        first = flow.labels.join_columns(ins.T)
        flow.labels.join(first, flow.labels.join_columns(outs.T))
        flow.settings.append(Setting(_owner(weight), "_groups", first))
        return True
    columns = flow.labels.join_columns(ins)
    flow.labels.join_columns(outs)
    _feed(flow, op, weight, 1, columns)
    return False


def _transposed_convolution(flow: Flow, op: Operator) -> None:
    weight = op.input("Filter")  # [in, out / groups, height, width]
    if not _is_plain(flow, op, weight):
        return
    groups = int(op.attribute("groups") or 1)
    x = _second_axis(flow, op, op.input("Input"))
    per_group = flow.labels.get(weight, 1) if groups == 1 or flow.shape(weight)[1] > 1 else None
    if groups == 1:
        assert per_group is not None
        _feed(flow, op, weight, 0, x)
        flow.producers[weight, 1] = True
        flow.labels.put(op.output("Output"), {1: per_group})
        return
    ins = flow.labels.get(weight, 0)
    assert ins is not None
    _feed(flow, op, weight, 0, x)
    rows = flow.labels.join_columns(ins.reshape(groups, -1).T)
    if per_group is not None:
        flow.pin(op, per_group, "the outputs of a group go together")
    flow.producers[weight, 0] = False
    flow.settings.append(Setting(_owner(weight), "_groups", rows))
    flow.labels.put(op.output("Output"), {1: np.repeat(rows, flow.shape(weight)[1])})


def _is_plain(flow: Flow, op: Operator, weight: str) -> bool:
    if not flow.labels.is_weight(weight):
        flow.pin_inputs(op, "its kernel is computed")
        return False
    if op.attribute("data_format") not in ("NCHW", "AnyLayout", "NCDHW"):
        flow.pin_inputs(op, "channels must be the second axis")
        flow.pin(op, flow.labels.get(weight, 0), "channels must be the second axis")
        flow.producers.setdefault((weight, 0), True)
        return False
    return True


def _second_axis(flow: Flow, op: Operator, name: str) -> Array | None:
    """Return the labels of channels, and keep what other axes hold."""
    for axis, labels in flow.labels.axes(name).items():
        if axis != 1:
            flow.pin(op, labels, "channels must be the second axis")
    return flow.labels.get(name, 1)


def _feed(flow: Flow, op: Operator, weight: str, axis: int, x: Array | None) -> None:
    """Join the axis of a weight that takes an input in with that input."""
    labels = flow.labels.get(weight, axis)
    assert labels is not None
    if x is None:
        flow.pin(op, labels, "its input is fixed")
    else:
        flow.labels.join(labels, x)


def _owner(weight: str) -> str:
    return weight.rpartition(".")[0]


def _per_channel(flow: Flow, op: Operator, x: Array | None, slots: Sequence[str]) -> None:
    for slot in slots:
        name = op.input(slot)
        if x is not None and name:
            labels = flow.labels.get(name, 0)
            if labels is None:
                flow.pin(op, x, f"its {slot.lower()} is computed")
            else:
                flow.labels.join(x, labels)


def _batch_norm(flow: Flow, op: Operator) -> None:
    name = op.input("X")
    if len(flow.shape(name)) > 2 and op.attribute("data_layout") != "NCHW":
        flow.pin_inputs(op, "channels must be the second axis")
        return
    x = flow.labels.get(name, 1)
    _per_channel(flow, op, x, ("Scale", "Bias", "Mean", "Variance"))
    if x is not None and op.input("Scale") not in flow.norms:
        flow.norms.append(op.input("Scale"))
    flow.labels.put(op.output("Y"), flow.labels.axes(name))


def _instance_norm(flow: Flow, op: Operator) -> None:
    name = op.input("X")
    _per_channel(flow, op, flow.labels.get(name, 1), ("Scale", "Bias"))
    flow.labels.put(op.output("Y"), flow.labels.axes(name))


def _group_norm(flow: Flow, op: Operator) -> None:
    name, groups = op.input("X"), int(op.attribute("groups"))
    x = flow.labels.get(name, 1)
    _per_channel(flow, op, x, ("Scale", "Bias"))
    if x is not None and groups > 1:
        first = flow.labels.join_columns(x.reshape(groups, -1).T)
        flow.settings.append(Setting(_norm_layer(op), "_num_groups", first))
    flow.labels.put(op.output("Y"), flow.labels.axes(name))


def _layer_norm(flow: Flow, op: Operator) -> None:
    name, begin = op.input("X"), int(op.attribute("begin_norm_axis"))
    shape, axes = flow.shape(name), flow.labels.axes(name)
    normed = {axis: labels for axis, labels in axes.items() if axis >= begin}
    if len(normed) > 1:
        flow.pin_inputs(op, "more than one of its axes holds channels")
    for axis, labels in normed.items() if len(normed) == 1 else ():
        flat = _spread(labels, axis - begin, shape[begin:]).ravel()
        _per_channel(flow, op, flat, ("Scale", "Bias"))
        flow.settings.append(Setting(_norm_layer(op), "_normalized_shape", labels, axis - begin))
    flow.labels.put(op.output("Y"), axes)


def _norm_layer(op: Operator) -> str:
    return _owner(op.input("Scale")) if op.input("Scale") else op.layer


def _prelu(flow: Flow, op: Operator) -> None:
    name, alpha = op.input("X"), op.input("Alpha")
    x = flow.labels.get(name, 1)
    shape = flow.shape(alpha)
    if x is not None and np.prod(shape) > 1:
        labels = flow.labels.get(alpha, int(np.argmax(shape)))
        if op.attribute("mode") == "channel" and labels is not None and len(labels) == len(x):
            flow.labels.join(x, labels)
        else:
            flow.pin(op, x, "it has one slope for each number")
    flow.labels.put(op.output("Out"), flow.labels.axes(name))


def _elementwise(flow: Flow, op: Operator) -> None:
    x, y = op.input("X"), op.input("Y")
    rank = max(len(flow.shape(x)), len(flow.shape(y)))
    start = op.attribute("axis") if op.type.startswith("elementwise") else -1
    shifts = {x: rank - len(flow.shape(x)), y: rank - len(flow.shape(y))}
    if start not in (None, -1) and len(flow.shape(y)) < rank:
        shifts[y] = int(start)
    out = _broadcast(flow, op, shifts, range(rank))
    flow.labels.put(op.output("Out"), out)


def _where(flow: Flow, op: Operator) -> None:
    names = [op.input(slot) for slot in ("Condition", "X", "Y")]
    rank = max(len(flow.shape(name)) for name in names)
    shifts = {name: rank - len(flow.shape(name)) for name in names}
    flow.labels.put(op.output("Out"), _broadcast(flow, op, shifts, range(rank)))


def _broadcast(
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


def _axis(value: int, rank: int) -> int:
    return value + rank if value < 0 else value


def _concat(flow: Flow, op: Operator) -> None:
    names = op.inputs["X"]
    rank = len(flow.shape(names[0]))
    if op.input("AxisTensor"):
        flow.pin_inputs(op, "its axis is computed")
        return
    axis = _axis(int(op.attribute("axis")), rank)
    out: dict[int, Array | None] = {}
    for other in range(rank):
        found = [flow.labels.get(name, other) for name in names]
        if all(labels is None for labels in found):
            continue
        if other == axis:
            parts = [
                flow.labels.fresh(flow.shape(name)[axis]) if labels is None else labels
                for name, labels in zip(names, found)
            ]
            for part, labels in zip(parts, found):
                if labels is None:
                    flow.pin(op, part, "one of its inputs is fixed")
            out[axis] = np.concatenate(parts)
        else:
            out[other] = _all_alike(flow, op, found)
    flow.labels.put(op.output("Out"), out)


def _all_alike(flow: Flow, op: Operator, found: Sequence[Array | None]) -> Array:
    labelled = [labels for labels in found if labels is not None]
    for labels in labelled[1:]:
        flow.labels.join(labelled[0], labels)
    if len(labelled) < len(found):
        flow.pin(op, labelled[0], "another operand has a fixed size")
    return labelled[0]


def _stack(flow: Flow, op: Operator) -> None:
    names = op.inputs["X"]
    rank = len(flow.shape(names[0]))
    axis = _axis(int(op.attribute("axis")), rank + 1)
    out: dict[int, Array | None] = {}
    for own in range(rank):
        found = [flow.labels.get(name, own) for name in names]
        if any(labels is not None for labels in found):
            out[own + (own >= axis)] = _all_alike(flow, op, found)
    flow.labels.put(op.output("Y"), out)


def _split(flow: Flow, op: Operator) -> None:
    name = op.input("X")
    if op.input("AxisTensor") or op.inputs.get("SectionsTensorList"):
        flow.pin_inputs(op, "where it cuts is computed")
        return
    shape, axes = flow.shape(name), dict(flow.labels.axes(name))
    axis, count = _axis(int(op.attribute("axis")), len(shape)), int(op.attribute("num") or 0)
    outputs = op.outputs["Out"]
    labels = axes.pop(axis, None)
    if labels is None:
        parts: list[Array | None] = [None] * len(outputs)
    elif count > 0:
        # equal parts stay equal when all lose the same positions
        flow.labels.join_columns(labels.reshape(count, -1))
        parts = list(labels.reshape(count, -1))
    else:
        sizes = [int(size) for size in op.attribute("sections")]
        rest = shape[axis] - sum(size for size in sizes if size > 0)
        ends = np.cumsum([size if size > 0 else rest for size in sizes])
        parts = list(np.split(labels, ends[:-1]))
    for output, part in zip(outputs, parts):
        flow.labels.put(output, {**axes, axis: part})


def _slice(flow: Flow, op: Operator) -> None:
    name = op.input("Input")
    kept = dict(flow.labels.axes(name))
    for axis in op.attribute("axes") or ():
        flow.pin(op, kept.pop(int(axis), None), "it takes channels by their number")
    dropped = sorted(int(axis) for axis in op.attribute("decrease_axis") or ())
    flow.labels.put(op.output("Out"), _without(kept, dropped))


def _without(axes: Mapping[int, Array | None], dropped: Sequence[int]) -> dict[int, Array | None]:
    """Move labels to where their axes are once other axes are gone."""
    return {
        axis - sum(gone < axis for gone in dropped): labels
        for axis, labels in axes.items()
        if axis not in dropped
    }


def _transpose(flow: Flow, op: Operator) -> None:
    axes = flow.labels.axes(op.input("X"))
    order = [int(axis) for axis in op.attribute("axis")]
    flow.labels.put(op.output("Out"), {new: axes.get(old) for new, old in enumerate(order)})


def _reshape(flow: Flow, op: Operator) -> None:
    name, output = op.input("X"), op.output("Out")
    axes = flow.labels.axes(name)
    before, after = flow.shape(name), flow.shape(output)
    if axes and -1 in (*before, *after):
        flow.pin_inputs(op, "its shape depends on values")
        return
    out: dict[int, Array | None] = {}
    for ins, outs in _segments(before, after):
        labelled = [axis for axis in ins if axis in axes and before[axis] > 1]
        if len(labelled) > 1 or (labelled and not outs):
            for axis in labelled:
                flow.pin(op, axes[axis], "it merges two axes of channels")
        elif labelled:
            axis = labelled[0]
            sizes = [before[each] for each in ins]
            spread = _spread(axes[axis], ins.index(axis), sizes)
            held, labels = _hold(flow, spread.reshape([after[each] for each in outs]))
            out[outs[held]] = labels
    flow.labels.put(output, out)


def _segments(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair the axes that a reshape turns into each other, in the smallest pieces there are."""
    ins = [axis for axis, size in enumerate(before) if size != 1]
    outs = [axis for axis, size in enumerate(after) if size != 1]
    segments = []
    while ins and outs:
        left, right = [ins.pop(0)], [outs.pop(0)]
        have, want = before[left[0]], after[right[0]]
        while have != want:
            if have < want:
                left.append(ins.pop(0))
                have *= before[left[-1]]
            else:
                right.append(outs.pop(0))
                want *= after[right[-1]]
        segments.append((left, right))
    return segments


def _spread(labels: Array, axis: int, shape: Sequence[int]) -> Array:
    """Repeat the labels of one axis over all the others."""
    view = [1] * len(shape)
    view[axis] = len(labels)
    return np.broadcast_to(labels.reshape(view), shape)


def _hold(flow: Flow, labels: Array) -> tuple[int, Array]:
    """Choose the axis that gets smaller when channels of a reshaped tensor go.

    If channels were dealt out over several axes, the largest is taken and the others keep their
    size: groups, heads or the square of a pixel shuffle. Then whole lines go together.
    """
    varying = [
        axis
        for axis, size in enumerate(labels.shape)
        if size > 1 and (labels != labels.take([0], axis)).any()
    ] or list(range(labels.ndim))
    axis = max(varying, key=lambda each: (labels.shape[each], each))
    lines = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
    return axis, flow.labels.join_columns(lines.T)


def _squeeze(flow: Flow, op: Operator) -> None:
    _reshape(flow, op)


def _spatial(flow: Flow, op: Operator) -> None:
    """Pooling and resizing work on each channel alone."""
    name = op.input("X")
    layout = op.attribute("data_layout") if "interp" in op.type else op.attribute("data_format")
    if layout not in (None, "NCHW", "AnyLayout", "NCDHW", "NCL", "NCW"):
        flow.pin_inputs(op, "channels must be the second axis")
        return
    channels = _second_axis(flow, op, name)
    for slot in ("Out", "Mask"):
        flow.labels.put(op.output(slot), {1: channels})


def _pad(flow: Flow, op: Operator) -> None:
    name = op.input("X")
    axes: dict[int, Array | None] = dict(flow.labels.axes(name))
    if op.type == "pad":
        paddings = list(op.attribute("paddings"))
        for axis in list(axes):
            if any(paddings[2 * axis : 2 * axis + 2]):
                flow.pin(op, axes.pop(axis), "it pads channels")
    elif op.attribute("data_format") != "NCDHW":
        flow.pin_inputs(op, "channels must be the second axis")
        return
    else:
        axes = {1: _second_axis(flow, op, name)}
    flow.labels.put(op.output("Out"), axes)


def _reduce(flow: Flow, op: Operator) -> None:
    name = op.input("X")
    rank = len(flow.shape(name))
    if op.attribute("reduce_all"):
        return
    gone = sorted(_axis(int(axis), rank) for axis in op.attribute("dim"))
    axes = {axis: labels for axis, labels in flow.labels.axes(name).items() if axis not in gone}
    kept = axes if op.attribute("keep_dim") else _without(axes, gone)
    flow.labels.put(op.output("Out"), kept)


def _softmax(flow: Flow, op: Operator) -> None:
    name = op.input("X")
    axes = flow.labels.axes(name)
    axis = _axis(int(op.attribute("axis")), len(flow.shape(name)))
    flow.pin(op, axes.get(axis), "its channels are alternatives")
    flow.labels.put(op.output("Out"), axes)


def _matmul(flow: Flow, op: Operator) -> None:
    x, y, out = op.input("X"), op.input("Y"), op.output("Out")
    ranks = {name: len(flow.shape(name)) for name in (x, y)}
    if min(ranks.values()) < 2:
        flow.pin_inputs(op, "a product with a vector")
        return
    x_row, x_inner = (-1, -2) if op.attribute("trans_x") else (-2, -1)
    y_inner, y_column = (-1, -2) if op.attribute("trans_y") else (-2, -1)
    rank = max(ranks.values())
    axes = _batch_axes(flow, op, ranks, rank)
    inner = [(x, ranks[x] + x_inner), (y, ranks[y] + y_inner)]
    _contract(flow, op, inner)
    axes[rank - 2] = _outer(flow, x, ranks[x] + x_row)
    axes[rank - 1] = _outer(flow, y, ranks[y] + y_column)
    flow.labels.put(out, axes)


def _batch_axes(
    flow: Flow, op: Operator, ranks: Mapping[str, int], rank: int
) -> dict[int, Array | None]:
    shifts = {name: rank - own for name, own in ranks.items() if own > 2}
    return _broadcast(flow, op, shifts, range(rank - 2))


def _contract(flow: Flow, op: Operator, inner: Sequence[tuple[str, int]]) -> None:
    found = [flow.labels.get(name, axis) for name, axis in inner]
    labelled = [labels for labels in found if labels is not None]
    if len(labelled) == 2:
        flow.labels.join(*labelled)
    elif labelled:
        flow.pin(op, labelled[0], "its input is fixed")


def _outer(flow: Flow, name: str, axis: int) -> Array | None:
    labels = flow.labels.get(name, axis)
    if flow.labels.is_weight(name):
        flow.producers[name, axis] = True
    return labels


def _pixel_shuffle(flow: Flow, op: Operator) -> None:
    x = _second_axis(flow, op, op.input("X"))
    if op.attribute("data_format") != "NCHW":
        flow.pin_inputs(op, "channels must be the second axis")
    elif x is not None:
        square = int(op.attribute("upscale_factor")) ** 2
        flow.labels.put(op.output("Out"), {1: flow.labels.join_columns(x.reshape(-1, square).T)})


def _pixel_unshuffle(flow: Flow, op: Operator) -> None:
    x = _second_axis(flow, op, op.input("X"))
    if op.attribute("data_format") != "NCHW":
        flow.pin_inputs(op, "channels must be the second axis")
    elif x is not None:
        square = int(op.attribute("downscale_factor")) ** 2
        flow.labels.put(op.output("Out"), {1: np.repeat(x, square)})


def _channel_shuffle(flow: Flow, op: Operator) -> None:
    x = _second_axis(flow, op, op.input("X"))
    if op.attribute("data_format") != "NCHW":
        flow.pin_inputs(op, "channels must be the second axis")
    elif x is not None:
        groups = int(op.attribute("groups"))
        columns = flow.labels.join_columns(x.reshape(groups, -1))
        flow.labels.put(op.output("Out"), {1: np.repeat(columns, groups)})


def _expand(flow: Flow, op: Operator) -> None:
    name, output = op.input("X"), op.output("Out")
    before, after = flow.shape(name), flow.shape(output)
    shift = len(after) - len(before)
    out: dict[int, Array | None] = {}
    for axis, labels in flow.labels.axes(name).items():
        if after[axis + shift] == before[axis]:
            out[axis + shift] = labels
        else:
            flow.pin(op, labels, "it repeats channels")
    flow.labels.put(output, out)


_UNARY = [
    "abs",
    "assign",
    "cast",
    "ceil",
    "celu",
    "clip",
    "cos",
    "dropout",
    "elu",
    "erf",
    "exp",
    "floor",
    "gelu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_swish",
    "label_smooth",
    "leaky_relu",
    "log",
    "log1p",
    "logsigmoid",
    "mish",
    "pow",
    "relu",
    "relu6",
    "reciprocal",
    "round",
    "rsqrt",
    "scale",
    "selu",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "softplus",
    "softshrink",
    "softsign",
    "sqrt",
    "square",
    "swish",
    "tanh",
    "tanh_shrink",
    "thresholded_relu",
    "brelu",
    "isnan_v2",
    "logical_not",
    "fill_any_like",
]
_BINARY = [
    "elementwise_add",
    "elementwise_sub",
    "elementwise_mul",
    "elementwise_div",
    "elementwise_max",
    "elementwise_min",
    "elementwise_pow",
    "elementwise_mod",
    "elementwise_floordiv",
    "greater_than",
    "less_than",
    "greater_equal",
    "less_equal",
    "equal",
    "not_equal",
    "logical_and",
    "logical_or",
]
_CONSTANT = [
    "shape",
    "fill_constant",
    "assign_value",
    "range",
    "gaussian_random",
    "uniform_random",
    "feed",
    "fetch",
]
_INTERPOLATION = [f"{kind}_interp_v2" for kind in ("nearest", "bilinear", "bicubic", "linear")]
_POOLING = ["pool2d", "max_pool2d_with_index", "pool3d"]
_REDUCTION = [f"reduce_{kind}" for kind in ("mean", "sum", "max", "min", "prod")]

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(_UNARY, _same),
        **dict.fromkeys(_BINARY, _elementwise),
        **dict.fromkeys(_CONSTANT, _no_channels),
        **dict.fromkeys((*_INTERPOLATION, *_POOLING), _spatial),
        **dict.fromkeys(_REDUCTION, _reduce),
        **dict.fromkeys(("conv2d", "depthwise_conv2d", "conv3d"), _convolution),
        **dict.fromkeys(
            ("conv2d_transpose", "depthwise_conv2d_transpose"), _transposed_convolution
        ),
        **dict.fromkeys(("batch_norm", "sync_batch_norm"), _batch_norm),
        **dict.fromkeys(
            ("reshape2", "flatten_contiguous_range", "squeeze2", "unsqueeze2"), _reshape
        ),
        **dict.fromkeys(("pad", "pad3d"), _pad),
        **dict.fromkeys(("softmax", "log_softmax"), _softmax),
        **dict.fromkeys(("expand_v2", "expand_as_v2", "tile"), _expand),
        "instance_norm": _instance_norm,
        "group_norm": _group_norm,
        "layer_norm": _layer_norm,
        "prelu": _prelu,
        "where": _where,
        "concat": _concat,
        "stack": _stack,
        "split": _split,
        "slice": _slice,
        "transpose2": _transpose,
        "matmul_v2": _matmul,
        "pixel_shuffle": _pixel_shuffle,
        "pixel_unshuffle": _pixel_unshuffle,
        "channel_shuffle": _channel_shuffle,
    }
)
