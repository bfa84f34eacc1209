"""Constants, copies and casts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from onnx import numpy_helper

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.paddle_operator import PaddleOperator
from core.export.onnx.told import told


def _identity(op: PaddleOperator, to: NodeWriter) -> None:
    to.add("Identity", [op.source()], op.target())


def _cast(op: PaddleOperator, to: NodeWriter) -> None:
    to.cast(op.source(), op.told_dtype("out_dtype", op.dtype(op.target())), op.target())


def _fill(op: PaddleOperator, to: NodeWriter) -> None:
    """Write a constant, or one of a shape that is computed."""
    out = op.target()
    dtype, shape = op.dtype(out), told(op, to, ["ShapeTensor", "ShapeTensorList"], "shape")
    value = op.source("ValueTensor")
    if value:
        single = to.reshape(value, []) if op.rank(value) else value
        sizes = shape if isinstance(shape, str) else to.sizes(shape)
        to.add("Expand", [single, sizes], out)
    elif isinstance(shape, list):
        to.constants[out] = np.full(shape, _value(op, dtype), dtype)
    else:
        _filled(to, shape, _value(op, dtype), dtype, out)


def _value(op: PaddleOperator, dtype: np.dtype) -> float | int:
    """Return the number; integers that no float holds are told as a text."""
    text = op.text("str_value", "")
    if dtype.kind in "iu" and text.lstrip("-").isdigit():
        return int(text)
    return op.number("value", 0.0)


def _filled(to: NodeWriter, sizes: str, value: float, dtype: np.dtype, out: str) -> None:
    tensor = numpy_helper.from_array(np.array([value], dtype))
    to.add("ConstantOfShape", [sizes], out, value=tensor)


def _fill_like(op: PaddleOperator, to: NodeWriter) -> None:
    value = op.number("value", 0.0)
    _filled(to, to.add("Shape", [op.source()]), value, op.dtype(op.target()), op.target())


def _fill_batch(op: PaddleOperator, to: NodeWriter) -> None:
    """Write a constant with one size, that of the batch, of another tensor."""
    shape, place = op.integers("shape"), op.integer("output_dim_idx", 0)
    theirs = op.integer("input_dim_idx", 0)
    size = to.slice(to.add("Shape", [op.source("Input")]), 0, theirs, theirs + 1)
    parts = [to.sizes([each]) for each in shape]
    parts[place] = size
    dtype = op.dtype(op.target())
    _filled(to, to.add("Concat", parts, axis=0), _value(op, dtype), dtype, op.target())


def _assign_value(op: PaddleOperator, to: NodeWriter) -> None:
    dtype, shape = op.dtype(op.target()), op.integers("shape")
    kinds = ("values", "fp32_values", "int32_values", "int64_values", "bool_values")
    values: list[float] = next((op.numbers(each) for each in kinds if op.numbers(each)), [])
    to.constants[op.target()] = np.array(values, dtype).reshape(shape)


def _range(op: PaddleOperator, to: NodeWriter) -> None:
    bounds = [op.source(slot) for slot in ("Start", "End", "Step")]
    scalars = [to.reshape(name, []) if op.rank(name) else name for name in bounds]
    to.add("Range", scalars, op.target())


def _increment(op: PaddleOperator, to: NodeWriter) -> None:
    step = to.number(op.number("step", 1.0), op.dtype(op.source()))
    to.add("Add", [op.source(), step], op.target())


def _meshgrid(op: PaddleOperator, to: NodeWriter) -> None:
    """Repeat each vector along the axes of the others."""
    names = op.sources()
    lengths = [
        to.add("Shape", [name if op.rank(name) else to.reshape(name, [1])]) for name in names
    ]
    shape = to.add("Concat", lengths, axis=0)
    for place, (name, out) in enumerate(zip(names, op.targets())):
        sizes = [1] * len(names)
        sizes[place] = -1
        to.add("Expand", [to.reshape(name, sizes), shape], out)


TABLE: Mapping[str, Write] = MappingProxyType(
    {
        "assign": _identity,
        "share_data": _identity,
        "memcpy": _identity,
        "cast": _cast,
        "fill_constant": _fill,
        "fill_any_like": _fill_like,
        "fill_zeros_like": _fill_like,
        "fill_constant_batch_size_like": _fill_batch,
        "assign_value": _assign_value,
        "range": _range,
        "increment": _increment,
        "meshgrid": _meshgrid,
    }
)
