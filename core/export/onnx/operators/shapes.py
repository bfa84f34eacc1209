"""Operators that move, repeat or regroup numbers, and those that tell shapes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.operators.layouts import channels_second, has_channels_last
from core.export.onnx.paddle_operator import PaddleOperator
from core.export.onnx.told import named, told


def _reshape(op: PaddleOperator, to: NodeWriter) -> None:
    """Write a Reshape; 0 copies a size and -1 is what is left, in Paddle as in ONNX."""
    numbers = told(op, to, ["Shape", "ShapeTensor"], "shape")
    to.add("Reshape", [op.source(), named(to, numbers)], op.target())


def _flatten_range(op: PaddleOperator, to: NodeWriter) -> None:
    x = op.source()
    first, last = (
        op.axis(x, op.integer(name, default))
        for name, default in (("start_axis", 1), ("stop_axis", 1))
    )
    sizes = op.shape(x)
    if not sizes:
        to.reshape(x, [-1], op.target())
        return
    behind = sizes[last + 1 :]
    if -1 not in behind:
        to.reshape(x, [*[0] * first, -1, *behind], op.target())
        return
    whole = to.add("Shape", [x])
    parts = [to.slice(whole, 0, 0, first)] if first else []
    parts += [to.sizes([-1]), to.slice(whole, 0, last + 1, len(sizes))]
    to.add("Reshape", [x, to.add("Concat", parts, axis=0)], op.target())


def _flatten(op: PaddleOperator, to: NodeWriter) -> None:
    to.add("Flatten", [op.source()], op.target(), axis=op.integer("axis", 1))


def _transpose(op: PaddleOperator, to: NodeWriter) -> None:
    order = [op.axis(op.source(), each) for each in op.integers("axis")]
    to.transpose(op.source(), order, op.target())


def _squeeze(op: PaddleOperator, to: NodeWriter) -> None:
    """Drop axes of size 1; those of other sizes stay, in Paddle."""
    x = op.source()
    sizes = op.shape(x)
    axes = sorted({op.axis(x, each) for each in op.integers("axes")}) or range(len(sizes))
    to.squeeze(x, [axis for axis in axes if sizes[axis] == 1], op.target())


def _unsqueeze(op: PaddleOperator, to: NodeWriter) -> None:
    """Insert axes one after the other, as Paddle counts them; ONNX counts those of the result."""
    numbers = told(op, to, ["AxesTensor", "AxesTensorList"], "axes")
    if isinstance(numbers, str):
        raise op.refusal("its axes are computed while it runs")
    is_new = [False] * op.rank(op.source())
    for axis in numbers:
        is_new.insert(axis + len(is_new) + 1 if axis < 0 else axis, True)
    axes = [place for place, new in enumerate(is_new) if new]
    to.unsqueeze(op.source(), axes, op.target())


def _expand(op: PaddleOperator, to: NodeWriter) -> None:
    """Repeat axes of size 1; -1 keeps a size."""
    numbers = told(op, to, ["Shape", "expand_shapes_tensor"], "shape")
    if isinstance(numbers, list):
        numbers = [1 if each == -1 else each for each in numbers]
    to.add("Expand", [op.source(), named(to, numbers)], op.target())


def _expand_as(op: PaddleOperator, to: NodeWriter) -> None:
    other = op.source("Y")
    if other:
        shape = to.add("Shape", [other])
    else:
        shape = to.sizes([max(each, 1) for each in op.integers("target_shape")])
    to.add("Expand", [op.source(), shape], op.target())


def _tile(op: PaddleOperator, to: NodeWriter) -> None:
    """Repeat a tensor; the shorter of its shape and the repeats gets ones in front."""
    x, numbers = op.source(), told(op, to, ["RepeatTimes", "repeat_times_tensor"], "repeat_times")
    rank = op.rank(x)
    count = op.rank(op.target()) if isinstance(numbers, str) else len(numbers)
    if count > rank:
        x = to.unsqueeze(x, list(range(count - rank)))
    if isinstance(numbers, list):
        numbers = [1] * (rank - count) + numbers
    to.add("Tile", [x, named(to, numbers)], op.target())


def _shape(op: PaddleOperator, to: NodeWriter) -> None:
    dtype = op.dtype(op.target())
    if dtype == np.int64:
        to.add("Shape", [op.source("Input")], op.target())
    else:
        to.cast(to.add("Shape", [op.source("Input")]), dtype, op.target())


def _size(op: PaddleOperator, to: NodeWriter) -> None:
    to.cast(to.add("Size", [op.source("Input")]), op.dtype(op.target()), op.target())


def _pixel_shuffle(op: PaddleOperator, to: NodeWriter) -> None:
    factor = op.integer("upscale_factor", 1)

    def inner(source: str, target: str) -> str:
        return to.add("DepthToSpace", [source], target, blocksize=factor, mode="CRD")

    channels_second(op, to, (op.source(), op.target()), "data_format", inner)


def _pixel_unshuffle(op: PaddleOperator, to: NodeWriter) -> None:
    """Write the channels of a block behind each other: ONNX's SpaceToDepth orders them anew."""
    x, factor = op.source(), op.integer("downscale_factor", 1)
    channels, height, width = op.shape(x)[1:]
    if has_channels_last(op, "data_format") or min(channels, height, width) < 1:
        raise op.refusal("channels that lie last, or a map whose size is free")
    high, wide = height // factor, width // factor
    blocks = to.reshape(x, [0, channels, high, factor, wide, factor])
    turned = to.transpose(blocks, [0, 1, 3, 5, 2, 4])
    to.reshape(turned, [0, channels * factor * factor, high, wide], op.target())


def _channel_shuffle(op: PaddleOperator, to: NodeWriter) -> None:
    x = op.source()
    groups = op.integer("groups" if op.type == "channel_shuffle" else "group", 1)
    channels, *sizes = op.shape(x)[1:]
    if has_channels_last(op, "data_format") or min(channels, *sizes) < 1:
        raise op.refusal("channels that lie last, or a map whose size is free")
    split = to.reshape(x, [0, groups, channels // groups, *sizes])
    turned = to.transpose(split, [0, 2, 1, *range(3, 3 + len(sizes))])
    to.reshape(turned, [0, channels, *sizes], op.target())


TABLE: Mapping[str, Write] = MappingProxyType(
    {
        "reshape2": _reshape,
        "reshape": _reshape,
        "flatten_contiguous_range": _flatten_range,
        "flatten2": _flatten,
        "flatten": _flatten,
        "transpose2": _transpose,
        "transpose": _transpose,
        "squeeze2": _squeeze,
        "squeeze": _squeeze,
        "unsqueeze2": _unsqueeze,
        "unsqueeze": _unsqueeze,
        "expand_v2": _expand,
        "expand_as_v2": _expand_as,
        "tile": _tile,
        "shape": _shape,
        "shape64": _shape,
        "size": _size,
        "pixel_shuffle": _pixel_shuffle,
        "pixel_unshuffle": _pixel_unshuffle,
        "channel_shuffle": _channel_shuffle,
        "shuffle_channel": _channel_shuffle,
    }
)
