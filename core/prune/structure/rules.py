"""Table of the rules for operators of Paddle; names and attributes are those of the old IR.

A rule labels the outputs of an operator, joins what must be cut together and notes what a layer
must be told when it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from core.prune.structure import shape_rules, weight_rules
from core.prune.structure.flow import Flow, broadcast, positive_axis
from core.prune.structure.graph import Operator

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


def _elementwise(flow: Flow, op: Operator) -> None:
    x, y = op.input("X"), op.input("Y")
    rank = max(len(flow.shape(x)), len(flow.shape(y)))
    start = op.attribute("axis") if op.type.startswith("elementwise") else -1
    shifts = {x: rank - len(flow.shape(x)), y: rank - len(flow.shape(y))}
    if start not in (None, -1) and len(flow.shape(y)) < rank:
        shifts[y] = int(start)
    out = broadcast(flow, op, shifts, range(rank))
    flow.labels.put(op.output("Out"), out)


def _where(flow: Flow, op: Operator) -> None:
    names = [op.input(slot) for slot in ("Condition", "X", "Y")]
    rank = max(len(flow.shape(name)) for name in names)
    shifts = {name: rank - len(flow.shape(name)) for name in names}
    flow.labels.put(op.output("Out"), broadcast(flow, op, shifts, range(rank)))


def _softmax(flow: Flow, op: Operator) -> None:
    name = op.input("X")
    axes = flow.labels.axes(name)
    axis = positive_axis(int(op.attribute("axis")), len(flow.shape(name)))
    flow.pin(op, axes.get(axis), "its channels are alternatives")
    flow.labels.put(op.output("Out"), axes)


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
        **dict.fromkeys((*_INTERPOLATION, *_POOLING), shape_rules.spatial),
        **dict.fromkeys(_REDUCTION, shape_rules.reduce),
        **dict.fromkeys(("conv2d", "depthwise_conv2d", "conv3d"), weight_rules.convolution),
        **dict.fromkeys(
            ("conv2d_transpose", "depthwise_conv2d_transpose"), weight_rules.transposed_convolution
        ),
        **dict.fromkeys(("batch_norm", "sync_batch_norm"), weight_rules.batch_norm),
        **dict.fromkeys(
            ("reshape2", "flatten_contiguous_range", "squeeze2", "unsqueeze2"), shape_rules.reshape
        ),
        **dict.fromkeys(("pad", "pad3d"), shape_rules.pad),
        **dict.fromkeys(("softmax", "log_softmax"), _softmax),
        **dict.fromkeys(("expand_v2", "expand_as_v2", "tile"), shape_rules.expand),
        "instance_norm": weight_rules.instance_norm,
        "group_norm": weight_rules.group_norm,
        "layer_norm": weight_rules.layer_norm,
        "prelu": weight_rules.prelu,
        "where": _where,
        "concat": shape_rules.concat,
        "stack": shape_rules.stack,
        "split": shape_rules.split,
        "slice": shape_rules.slice_,
        "roll": shape_rules.roll,
        "set_value": shape_rules.set_value,
        "transpose2": shape_rules.transpose,
        "matmul_v2": weight_rules.matmul,
        "pixel_shuffle": shape_rules.pixel_shuffle,
        "pixel_unshuffle": shape_rules.pixel_unshuffle,
        "channel_shuffle": shape_rules.channel_shuffle,
    }
)
