"""Padding of maps and of tensors of any rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.operators.layouts import has_channels_last
from core.export.onnx.paddle_operator import PaddleOperator
from core.export.onnx.told import named, told

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "edge": "edge"}


def _pad3d(op: PaddleOperator, to: NodeWriter) -> None:
    """Write paddings [left, right, top, bottom, front, back] of a map [N, C, D, H, W]."""
    pads = told(op, to, ["Paddings"], "paddings")
    if isinstance(pads, str):
        raise op.refusal("its paddings are computed while it runs")
    begins, ends = pads[::2][::-1], pads[1::2][::-1]
    if has_channels_last(op, "data_format"):
        begins, ends = [0, *begins, 0], [0, *ends, 0]
    else:
        begins, ends = [0, 0, *begins], [0, 0, *ends]
    mode = op.text("mode", "constant")
    if mode == "circular":
        _wrap(op, to, begins, ends)
        return
    _write(op, to, [*begins, *ends], mode, op.number("value", 0.0))


def _pad2d(op: PaddleOperator, to: NodeWriter) -> None:
    """Write paddings [top, bottom, left, right]."""
    pads = told(op, to, ["Paddings"], "paddings")
    if isinstance(pads, str):
        raise op.refusal("its paddings are computed while it runs")
    top, bottom, left, right = pads
    last = has_channels_last(op, "data_format")
    begins, ends = ([0, top, left, 0], [0, bottom, right, 0])
    if not last:
        begins, ends = ([0, 0, top, left], [0, 0, bottom, right])
    _write(op, to, [*begins, *ends], op.text("mode", "constant"), op.number("pad_value", 0.0))


def _pad(op: PaddleOperator, to: NodeWriter) -> None:
    """Write paddings of each axis, begin and end side by side."""
    pads = op.integers("paddings")
    _write(op, to, [*pads[::2], *pads[1::2]], "constant", op.number("pad_value", 0.0))


def _write(
    op: PaddleOperator, to: NodeWriter, pads: Sequence[int], mode: str, value: float
) -> None:
    if mode not in _MODES:
        raise op.refusal(f"its mode is {mode!r}")
    x = op.source()
    inputs = [x, named(to, [*pads])]
    if mode == "constant":
        inputs.append(to.number(value, op.dtype(x)))
    to.add("Pad", inputs, op.target(), mode=_MODES[mode])


def _wrap(op: PaddleOperator, to: NodeWriter, begins: Sequence[int], ends: Sequence[int]) -> None:
    """Put the end of each axis in front of it, and its begin behind."""
    current = op.source()
    for axis, (begin, end) in enumerate(zip(begins, ends)):
        parts = [current]
        if begin:
            parts.insert(0, to.slice(current, axis, -begin, np.iinfo(np.int64).max))
        if end:
            parts.append(to.slice(current, axis, 0, end))
        if len(parts) > 1:
            current = to.add("Concat", parts, axis=axis)
    to.add("Identity", [current], op.target())


TABLE: Mapping[str, Write] = MappingProxyType({"pad3d": _pad3d, "pad2d": _pad2d, "pad": _pad})
