"""Operators that pick numbers by their places."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.paddle_operator import PaddleOperator
from core.export.onnx.told import told_axis

TRIANGLE_OPSET, GRID_OPSET = 14, 16


def _gather(op: PaddleOperator, to: NodeWriter) -> None:
    axis = told_axis(op, to, "Axis", "axis", 0)
    _picked(op, to, op.axis(op.source(), axis))


def _index_select(op: PaddleOperator, to: NodeWriter) -> None:
    _picked(op, to, op.axis(op.source(), op.integer("dim", 0)))


def _picked(op: PaddleOperator, to: NodeWriter, axis: int) -> None:
    index = op.source("Index")
    if op.rank(index) > 1:
        index = to.reshape(index, [-1])
    to.add("Gather", [op.source(), index], op.target(), axis=axis)


def _gather_nd(op: PaddleOperator, to: NodeWriter) -> None:
    index = op.source("Index")
    if op.dtype(index) != np.int64:
        index = to.cast(index, np.dtype(np.int64))
    to.add("GatherND", [op.source(), index], op.target())


def _take_along_axis(op: PaddleOperator, to: NodeWriter) -> None:
    source = op.source("Input")
    axis = op.axis(source, op.integer("Axis", 0))
    to.add("GatherElements", [source, op.source("Index")], op.target("Result"), axis=axis)


def _index_sample(op: PaddleOperator, to: NodeWriter) -> None:
    to.add("GatherElements", [op.source(), op.source("Index")], op.target(), axis=1)


def _embedding(op: PaddleOperator, to: NodeWriter) -> None:
    if op.integer("padding_idx", -1) >= 0:
        raise op.refusal("a number of its vocabulary stands for padding")
    to.add("Gather", [op.source("W"), op.source("Ids")], op.target(), axis=0)


def _one_hot(op: PaddleOperator, to: NodeWriter) -> None:
    depth, dtype = op.integer("depth", -1), op.dtype(op.target())
    if op.source("depth_tensor") or depth < 1:
        raise op.refusal("the number of its classes is computed while it runs")
    ends = to.constant([0, 1], dtype)
    to.add("OneHot", [op.source(), to.constant(depth, np.int64), ends], op.target(), axis=-1)


def _nonzero(op: PaddleOperator, to: NodeWriter) -> None:
    to.transpose(to.add("NonZero", [op.source("Condition")]), [1, 0], op.target())


def _triangle(op: PaddleOperator, to: NodeWriter) -> None:
    to.require(TRIANGLE_OPSET)
    diagonal = to.constant(op.integer("diagonal", 0), np.int64)
    upper = 0 if op.type == "tril" or op.flag("lower") else 1
    to.add("Trilu", [op.source(), diagonal], op.target(), upper=upper)


def _grid_sample(op: PaddleOperator, to: NodeWriter) -> None:
    to.require(GRID_OPSET)
    mode, padding = op.text("mode", "bilinear"), op.text("padding_mode", "zeros")
    aligned = int(op.flag("align_corners", True))
    if op.rank(op.source()) != 4:
        raise op.refusal("it samples maps of more than two axes")
    inputs, out = [op.source(), op.source("Grid")], op.target("Output")
    options = {"mode": mode, "padding_mode": padding}
    to.add("GridSample", inputs, out, align_corners=aligned, **options)


TABLE: Mapping[str, Write] = MappingProxyType(
    {
        "gather": _gather,
        "index_select": _index_select,
        "gather_nd": _gather_nd,
        "take_along_axis": _take_along_axis,
        "index_sample": _index_sample,
        "lookup_table_v2": _embedding,
        "one_hot_v2": _one_hot,
        "where_index": _nonzero,
        "tril_triu": _triangle,
        "grid_sampler": _grid_sample,
    }
)
