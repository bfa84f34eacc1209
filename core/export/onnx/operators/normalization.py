"""Batch, layer, instance and group norms, and vectors scaled to a length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.operators.layouts import channels_second, has_channels_last
from core.export.onnx.paddle_operator import PaddleOperator

LAYER_NORM_OPSET = 17


def _batch_norm(op: PaddleOperator, to: NodeWriter) -> None:
    rest = [op.source(slot) for slot in ("Scale", "Bias", "Mean", "Variance")]

    def inner(source: str, target: str) -> str:
        epsilon = op.number("epsilon", 1e-5)
        return to.add("BatchNormalization", [source, *rest], target, epsilon=epsilon)

    channels_second(op, to, (op.source(), op.target("Y")), "data_layout", inner)


def _layer_norm(op: PaddleOperator, to: NodeWriter) -> None:
    x, begin = op.source(), op.integer("begin_norm_axis", 1)
    rank, epsilon = op.rank(x), op.number("epsilon", 1e-5)
    axes = list(range(begin, rank))
    weights = {slot: op.source(slot) for slot in ("Scale", "Bias")}
    if len(axes) > 1:  # Paddle stores them as one vector
        shape = op.shape(x)[begin:]
        weights = {slot: to.reshape(name, shape) if name else "" for slot, name in weights.items()}
    scale, bias = weights["Scale"], weights["Bias"]
    if to.opset >= LAYER_NORM_OPSET and scale:
        inputs = [x, scale, *([bias] if bias else [])]
        to.add("LayerNormalization", inputs, op.target("Y"), axis=begin, epsilon=epsilon)
        return
    current = _standardized(to, x, axes, epsilon, op.dtype(x))
    _scaled(to, current, scale, bias, op.target("Y"))


def _standardized(
    to: NodeWriter, x: str, axes: Sequence[int], epsilon: float, dtype: np.dtype
) -> str:
    """Subtract the mean and divide by the deviation, in the nodes that runtimes fuse."""
    centred = to.add("Sub", [x, to.reduce("ReduceMean", x, axes, keep=True)])
    squares = to.add("Pow", [centred, to.number(2.0, dtype)])
    variance = to.reduce("ReduceMean", squares, axes, keep=True)
    deviation = to.add("Sqrt", [to.add("Add", [variance, to.number(epsilon, dtype)])])
    return to.add("Div", [centred, deviation])


def _scaled(to: NodeWriter, current: str, scale: str, bias: str, target: str) -> None:
    steps = [(kind, name) for kind, name in (("Mul", scale), ("Add", bias)) if name]
    for place, (kind, name) in enumerate(steps):
        current = to.add(kind, [current, name], target if place == len(steps) - 1 else "")
    if not steps:
        to.add("Identity", [current], target)


def _instance_norm(op: PaddleOperator, to: NodeWriter) -> None:
    x = op.source()
    scale, bias = (op.source(slot) for slot in ("Scale", "Bias"))
    channels = op.shape(x)[1]
    if channels < 1 and not (scale and bias):
        raise op.refusal("the number of its channels is free")
    dtype = op.dtype(x)
    scale = scale or to.constant(np.ones(max(channels, 1)), dtype)
    bias = bias or to.constant(np.zeros(max(channels, 1)), dtype)
    epsilon = op.number("epsilon", 1e-5)
    to.add("InstanceNormalization", [x, scale, bias], op.target("Y"), epsilon=epsilon)


def _group_norm(op: PaddleOperator, to: NodeWriter) -> None:
    """Write the norm of each group as that of an instance with all of the group's places."""
    x, groups = op.source(), op.integer("groups", 1)
    dtype, rank = op.dtype(x), op.rank(x)
    sizes = op.shape(x)
    if has_channels_last(op, "data_layout"):
        sizes = (sizes[0], sizes[-1], *sizes[1:-1])
    scale, bias = (
        to.reshape(name, [-1, *[1] * (rank - 2)]) if name else ""
        for name in (op.source("Scale"), op.source("Bias"))
    )

    def inner(source: str, target: str) -> str:
        grouped = to.reshape(source, [0, groups, -1])
        ones, zeros = (to.constant(np.full(groups, each), dtype) for each in (1.0, 0.0))
        epsilon = op.number("epsilon", 1e-5)
        made = to.add("InstanceNormalization", [grouped, ones, zeros], epsilon=epsilon)
        free = sizes[1:].count(-1)
        if free > 1:
            whole = to.add("Shape", [source])
            made = to.add("Reshape", [made, whole])
        else:
            made = to.reshape(made, [0, *sizes[1:]])
        target = target or to.new_name("Add")
        _scaled(to, made, scale, bias, target)
        return target

    channels_second(op, to, (x, op.target("Y")), "data_layout", inner)


def _norm(op: PaddleOperator, to: NodeWriter) -> None:
    """Divide by the square root of the sum of squares along an axis."""
    x, axis = op.source(), op.axis(op.source(), op.integer("axis", 1))
    squares = to.reduce("ReduceSum", to.add("Mul", [x, x]), [axis], keep=True)
    epsilon = to.number(op.number("epsilon", 1e-10), op.dtype(x))
    to.add("Div", [x, to.add("Sqrt", [to.add("Add", [squares, epsilon])])], op.target())


def _p_norm(op: PaddleOperator, to: NodeWriter) -> None:
    """Write the norm of vectors along an axis, or of all numbers."""
    x, power, keep = op.source(), op.number("porder", 2.0), op.flag("keepdim")
    everything = op.flag("asvector")
    axes = list(range(op.rank(x))) if everything else [op.axis(x, op.integer("axis", -1))]
    dtype, target = op.dtype(x), op.target()
    if power in (1.0, 2.0):
        to.reduce(f"ReduceL{power:.0f}", x, axes, keep, target)
        return
    sizes = to.add("Abs", [x])
    if np.isinf(power):
        to.reduce("ReduceMax" if power > 0 else "ReduceMin", sizes, axes, keep, target)
        return
    if power == 0.0:
        raise op.refusal("it counts what is not zero")
    powers = to.add("Pow", [sizes, to.number(power, dtype)])
    total = to.reduce("ReduceSum", powers, axes, keep)
    to.add("Pow", [total, to.number(1 / power, dtype)], target)


TABLE: Mapping[str, Write] = MappingProxyType(
    {
        "batch_norm": _batch_norm,
        "sync_batch_norm": _batch_norm,
        "layer_norm": _layer_norm,
        "instance_norm": _instance_norm,
        "group_norm": _group_norm,
        "norm": _norm,
        "p_norm": _p_norm,
    }
)
