"""Convolutions, transposed ones and what is computed as one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from core.export.onnx.node_writer import Attribute, NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.operators.layouts import channels_second, same_pads, spatial, told_pads
from core.export.onnx.paddle_operator import PaddleOperator

_LAYOUT = "data_format"


def _convolution(op: PaddleOperator, to: NodeWriter) -> None:
    weight = op.source("Filter")
    kernel = list(op.shape(weight)[2:])
    window = _window(op, kernel)
    algorithm = op.text("padding_algorithm", "EXPLICIT")
    if algorithm == "SAME":
        window["dilations"] = [1] * len(kernel)
        sizes = spatial(op, op.source("Input"), _LAYOUT)
        if min(sizes) > 0:
            window["pads"] = same_pads(sizes, kernel, _strides(op, len(kernel)))
        else:
            window["auto_pad"] = "SAME_UPPER"
    else:
        window["pads"] = _pads(op, len(kernel))
    _write(op, to, "Conv", window)


def _transposed(op: PaddleOperator, to: NodeWriter) -> None:
    weight, source = op.source("Filter"), op.source("Input")
    kernel = list(op.shape(weight)[2:])
    window, strides = _window(op, kernel), _strides(op, len(kernel))
    sizes, wanted = spatial(op, source, _LAYOUT), spatial(op, op.target("Output"), _LAYOUT)
    known = min(*sizes, *wanted) > 0
    same = op.text("padding_algorithm", "EXPLICIT") == "SAME"
    if same:
        if not known:
            raise op.refusal("its padding is SAME, and the size of its map is free")
        window["dilations"] = [1] * len(kernel)
        pads = same_pads(sizes, kernel, strides)
    else:
        pads = _pads(op, len(kernel))
    window["pads"] = pads
    more = op.integers("output_padding") or [0] * len(kernel)
    if known:
        dilations = [1] * len(kernel) if same else op.integers("dilations") or [1] * len(kernel)
        more = [
            wanted[i]
            - ((sizes[i] - 1) * strides[i] - pads[i] - pads[i + len(kernel)])
            - ((kernel[i] - 1) * dilations[i] + 1)
            for i in range(len(kernel))
        ]
    elif op.integers("output_size") or op.sources("OutputSizeTensor"):
        raise op.refusal("it makes a map of a fixed size of one whose size is free")
    if any(more):
        window["output_padding"] = more
    _write(op, to, "ConvTranspose", window)


def _write(op: PaddleOperator, to: NodeWriter, kind: str, window: Mapping[str, Attribute]) -> None:
    rest = [op.source("Filter"), *(name for name in [op.source("Bias")] if name)]

    def inner(source: str, target: str) -> str:
        return to.add(kind, [source, *rest], target, **window)

    ends = op.source("Input"), op.target("Output")
    channels_second(op, to, ends, _LAYOUT, inner)


def _window(op: PaddleOperator, kernel: list[int]) -> dict[str, Attribute]:
    dilations = op.integers("dilations") or [1] * len(kernel)
    return {
        "kernel_shape": kernel,
        "strides": _strides(op, len(kernel)),
        "dilations": dilations,
        "group": op.integer("groups", 1),
    }


def _strides(op: PaddleOperator, count: int) -> list[int]:
    return op.integers("strides") or [1] * count


def _pads(op: PaddleOperator, count: int) -> list[int]:
    if op.text("padding_algorithm", "EXPLICIT") == "VALID":
        return [0] * (2 * count)
    return told_pads(op, count)


def _unfold(op: PaddleOperator, to: NodeWriter) -> None:
    """Write the windows of a map as columns, [N, C kh kw, L]: a convolution that picks places."""
    x, kernel = op.source(), op.integers("kernel_sizes")
    channels = op.shape(x)[1]
    if channels < 1:
        raise op.refusal("the number of its channels is free")
    inputs = [x, _picks(to, channels, kernel, op.dtype(x))]
    made = to.add("Conv", inputs, group=channels, **_columns(op, kernel))
    to.reshape(made, [0, channels * kernel[0] * kernel[1], -1], op.target("Y"))


def _fold(op: PaddleOperator, to: NodeWriter) -> None:
    """Add columns up to the map whose windows they are: the transpose of `_unfold`."""
    x, kernel, wanted = op.source(), op.integers("kernel_sizes"), op.integers("output_sizes")
    channels = op.shape(x)[1] // (kernel[0] * kernel[1])
    if channels < 1:
        raise op.refusal("the number of its channels is free")
    columns = _columns(op, kernel)
    pads, more, windows = columns["pads"], [], []
    for axis in (0, 1):
        reach = columns["dilations"][axis] * (kernel[axis] - 1) + 1
        room = wanted[axis] + pads[axis] + pads[axis + 2] - reach
        windows.append(room // columns["strides"][axis] + 1)
        more.append(room % columns["strides"][axis])
    maps = to.reshape(x, [0, channels * kernel[0] * kernel[1], *windows])
    inputs = [maps, _picks(to, channels, kernel, op.dtype(x))]
    attributes = {"group": channels, **columns, "output_padding": more}
    to.add("ConvTranspose", inputs, op.target("Y"), **attributes)


def _columns(op: PaddleOperator, kernel: list[int]) -> dict[str, list[int]]:
    pads = op.integers("paddings")  # top, left, bottom, right, as in ONNX
    return {
        "kernel_shape": kernel,
        "strides": op.integers("strides"),
        "dilations": op.integers("dilations"),
        "pads": pads if len(pads) == 4 else [*pads, *pads],
    }


def _picks(to: NodeWriter, channels: int, kernel: list[int], dtype: np.dtype) -> str:
    """Return the weight [C kh kw, 1, kh, kw] that picks each place of a window."""
    places = kernel[0] * kernel[1]
    picks = np.eye(places).reshape(places, 1, *kernel)
    return to.constant(np.tile(picks, (channels, 1, 1, 1)), dtype)


TABLE: Mapping[str, Write] = MappingProxyType(
    {
        "conv2d": _convolution,
        "depthwise_conv2d": _convolution,
        "conv3d": _convolution,
        "conv2d_transpose": _transposed,
        "depthwise_conv2d_transpose": _transposed,
        "conv3d_transpose": _transposed,
        "unfold": _unfold,
        "fold": _fold,
    }
)
