"""Rounding to int8 and back, as Paddle stores quantized models."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.paddle_operator import PaddleOperator


def _write(kind: str) -> Write:
    """Return a function that writes one of both.

    Paddle's scale is the largest magnitude, that of ONNX the step; both multiply one number or one
    for each place of an axis.
    """

    def write(op: PaddleOperator, to: NodeWriter) -> None:
        axis = op.integer("quant_axis", -1)
        inputs = [op.source(), *_grid(op, to)]
        options = {"axis": axis} if axis >= 0 else {}
        to.add(kind, inputs, op.target("Y"), **options)

    return write


def _grid(op: PaddleOperator, to: NodeWriter) -> list[str]:
    """Return the names of step and zero point."""
    if op.integer("bit_length", 8) != 8:
        raise op.refusal(f"it rounds to {op.integer('bit_length', 8)} bits; ONNX here holds 8")
    scale, zero = (to.constants.get(op.source(slot)) for slot in ("Scale", "ZeroPoint"))
    if scale is None:
        raise op.refusal("its scale is computed while it runs")
    per_axis = op.integer("quant_axis", -1) >= 0
    step = (scale.astype(np.float32) / np.float32(op.integer("qmax", 127))).ravel()
    points = np.zeros_like(step) if zero is None else np.broadcast_to(zero.ravel(), step.shape)
    if not per_axis:
        step, points = step[0], points[0]
    return [to.constant(step, np.float32), to.constant(points, np.int8)]


TABLE: Mapping[str, Write] = MappingProxyType(
    {
        "quantize_linear": _write("QuantizeLinear"),
        "dequantize_linear": _write("DequantizeLinear"),
    }
)
