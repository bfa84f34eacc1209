"""Pooling: global, adaptive and in windows."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.operators.layouts import (
    channels_second,
    same_pads,
    spatial,
    told_pads,
)
from core.export.onnx.paddle_operator import PaddleOperator

_LAYOUT = "data_format"


def _pool(op: PaddleOperator, to: NodeWriter) -> None:
    if op.is_read(op.target("Mask")):
        raise op.refusal("the places of its maxima are read")
    if op.sources("KernelSize"):
        raise op.refusal("its window is computed while it runs")
    kernel, adaptive = op.integers("ksize"), op.flag("adaptive")
    whole = op.flag("global_pooling") or (adaptive and set(kernel) == {1})

    def inner(source: str, target: str) -> str:
        if whole:
            return to.add(f"Global{_kind(op)}", [source], target)
        if adaptive:
            return _adaptive(op, to, source, target)
        return _windows(op, to, source, target)

    channels_second(op, to, (op.source(), op.target()), _LAYOUT, inner)


def _kind(op: PaddleOperator) -> str:
    is_max = op.text("pooling_type", "max") == "max"
    return "MaxPool" if is_max else "AveragePool"


def _adaptive(op: PaddleOperator, to: NodeWriter, source: str, target: str) -> str:
    sizes, bins = spatial(op, op.source(), _LAYOUT), op.integers("ksize")
    if min(sizes) < 1 and _kind(op) == "AveragePool" and len(sizes) == 2:
        return _averaged_bins(op, to, source, target, bins)
    if min(sizes) < 1:
        raise op.refusal(
            f"it makes {bins} bins of a map whose size is free; give the size of the image "
            "(--input_shape)"
        )
    if not any(size % count for size, count in zip(sizes, bins)):
        window = [size // count for size, count in zip(sizes, bins)]
        return to.add(_kind(op), [source], target, kernel_shape=window, strides=window)
    if _kind(op) == "AveragePool":
        raise op.refusal(f"it makes {bins} bins of {sizes}, which do not divide")
    for place, (size, count) in enumerate(zip(sizes, bins)):
        last = place == len(sizes) - 1
        source = _largest_of_bins(to, source, 2 + place, size, count, target if last else "")
    return source


def _averaged_bins(
    op: PaddleOperator, to: NodeWriter, source: str, target: str, bins: list[int]
) -> str:
    """Average the bins of a map of any size by matrices that are computed from the size."""
    shape, dtype = to.add("Shape", [source]), op.dtype(op.source())
    rows, columns = (
        _averaging(to, to.slice(shape, 0, axis, axis + 1), bins[axis - 2], dtype) for axis in (2, 3)
    )
    across = to.add("MatMul", [source, to.transpose(columns, [1, 0])])
    return to.add("MatMul", [rows, across], target)


def _averaging(to: NodeWriter, length: str, bins: int, dtype: np.dtype) -> str:
    """Return the matrix [bins, length] of `core.graph.adaptive_pooling.averaging_matrix`."""
    zero, one = to.constant(0, np.int64), to.constant(1, np.int64)
    places = to.add("Range", [zero, to.squeeze(length, [0]), one])
    edges = [np.arange(bins).reshape(-1, 1), np.arange(1, bins + 1).reshape(-1, 1)]
    count = to.constant(bins, np.int64)
    begin, end = (to.add("Mul", [to.constant(each, np.int64), length]) for each in edges)
    begin = to.add("Div", [begin, count])
    end = to.add("Div", [to.add("Add", [end, to.constant(bins - 1, np.int64)]), count])
    inside = to.add(
        "And", [to.add("GreaterOrEqual", [places, begin]), to.add("Less", [places, end])]
    )
    width = to.cast(to.add("Sub", [end, begin]), dtype)
    return to.add("Div", [to.cast(inside, dtype), width])


def _largest_of_bins(
    to: NodeWriter, source: str, axis: int, size: int, bins: int, target: str
) -> str:
    """Take the largest of each bin along an axis; bins may share places."""
    parts = []
    for index in range(bins):
        begin, end = index * size // bins, -(-(index + 1) * size // bins)
        part = to.slice(source, axis, begin, end)
        parts.append(to.reduce("ReduceMax", part, [axis], keep=True))
    return to.add("Concat", parts, target, axis=axis)


def _windows(op: PaddleOperator, to: NodeWriter, source: str, target: str) -> str:
    kernel = op.integers("ksize")
    count = len(kernel)
    strides = op.integers("strides") or [1] * count
    sizes, pads = spatial(op, op.source(), _LAYOUT), _pads(op, kernel, strides)
    attributes: dict[str, int | list[int]] = {"kernel_shape": kernel, "strides": strides}
    average = _kind(op) == "AveragePool"
    if average and not op.flag("exclusive", True) and any(pads):
        source = _padded(op, to, source, pads)
        sizes = [s if s < 1 else s + pads[i] + pads[i + count] for i, s in enumerate(sizes)]
        pads = [0] * (2 * count)
    if op.flag("ceil_mode"):
        if min(sizes) < 1:
            attributes["ceil_mode"] = 1
        else:
            for i, size in enumerate(sizes):
                rest = (size + pads[i] + pads[i + count] - kernel[i]) % strides[i]
                pads[i + count] += strides[i] - rest if rest else 0
    return to.add(_kind(op), [source], target, pads=pads, **attributes)


def _padded(op: PaddleOperator, to: NodeWriter, source: str, pads: list[int]) -> str:
    """Pad with zeros that count in the mean, unlike what is behind the last window."""
    count = len(pads) // 2
    both = [0, 0, *pads[:count], 0, 0, *pads[count:]]
    return to.add("Pad", [source, to.sizes(both), to.number(0.0, op.dtype(op.source()))])


def _pads(op: PaddleOperator, kernel: list[int], strides: list[int]) -> list[int]:
    algorithm = op.text("padding_algorithm", "EXPLICIT")
    if algorithm == "VALID":
        return [0] * (2 * len(kernel))
    if algorithm == "SAME":
        sizes = spatial(op, op.source(), _LAYOUT)
        if min(sizes) < 1:
            raise op.refusal("its padding is SAME, and the size of its map is free")
        return same_pads(sizes, kernel, strides)
    return told_pads(op, len(kernel))


TABLE: Mapping[str, Write] = MappingProxyType(
    {
        "pool2d": _pool,
        "pool3d": _pool,
        "max_pool2d_with_index": _pool,
    }
)
