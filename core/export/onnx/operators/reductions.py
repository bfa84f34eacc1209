"""Sums, means and extremes along axes, and where they are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.paddle_operator import PaddleOperator
from core.export.onnx.told import named, told, told_axis


def reduction(kind: str, axes_name: str = "dim", keep_name: str = "keep_dim") -> Write:
    """Return a function that writes a reduction.

    Args:
        kind: Operator of ONNX.
        axes_name: Attribute of Paddle's operator that tells the axes; none are all.
        keep_name: Attribute that tells whether they stay, as dimensions of 1.
    """

    def write(op: PaddleOperator, to: NodeWriter) -> None:
        x = op.source()
        axes = _axes(op, axes_name)
        to.reduce(kind, x, axes, op.flag(keep_name), op.target())

    return write


def _axes(op: PaddleOperator, name: str) -> list[int]:
    every = list(range(op.rank(op.source())))
    told_axes = sorted({op.axis(op.source(), axis) for axis in op.integers(name)})
    return every if op.flag("reduce_all") or not told_axes else told_axes


def _truth(kind: str) -> Write:
    """Return a function that writes `any` or `all`, as an extreme of integers."""

    def write(op: PaddleOperator, to: NodeWriter) -> None:
        numbers = to.cast(op.source(), np.dtype(np.int32))
        made = to.reduce(kind, numbers, _axes(op, "dim"), op.flag("keep_dim"))
        to.cast(made, np.dtype(bool), op.target())

    return write


def _mean(op: PaddleOperator, to: NodeWriter) -> None:
    to.reduce("ReduceMean", op.source(), list(range(op.rank(op.source()))), False, op.target())


def _arg(kind: str) -> Write:
    """Return a function that writes the place of an extreme; the first one, if there are more."""

    def write(op: PaddleOperator, to: NodeWriter) -> None:
        x = op.source()
        axis, keep = told_axis(op, to, "Axis", "axis", -1), op.flag("keepdims")
        if op.flag("flatten"):
            if keep:
                raise op.refusal("it keeps the dimensions of a flattened tensor")
            x, axis = to.reshape(x, [-1]), 0
        else:
            axis = op.axis(x, axis)
        whole = np.dtype(np.int64)
        wanted = op.told_dtype("dtype", whole)
        out = op.target()
        made = to.add(kind, [x], out if wanted == whole else "", axis=axis, keepdims=int(keep))
        if wanted != whole:
            to.cast(made, wanted, out)

    return write


def _top_k(op: PaddleOperator, to: NodeWriter) -> None:
    count = named(to, told(op, to, ["K"], "k"))
    axis = op.axis(op.source(), op.integer("axis", -1))
    largest, ordered = op.flag("largest", True), op.flag("sorted", True)
    outputs = [op.target(), op.target("Indices")]
    options = {"axis": axis, "largest": int(largest), "sorted": int(ordered)}
    to.add_several("TopK", [op.source(), count], outputs, **options)


def _argsort(op: PaddleOperator, to: NodeWriter) -> None:
    x = op.source()
    axis = op.axis(x, op.integer("axis", -1))
    size = op.shape(x)[axis]
    if size < 1:
        raise op.refusal("it sorts along an axis whose size is free")
    outputs = [op.target(), op.target("Indices")]
    options = {"axis": axis, "largest": int(op.flag("descending")), "sorted": 1}
    to.add_several("TopK", [x, to.sizes([size])], outputs, **options)


def _cumsum(op: PaddleOperator, to: NodeWriter) -> None:
    x, axis = op.source(), op.integer("axis", -1)
    if op.flag("flatten"):
        x, axis = to.reshape(x, [-1]), 0
    else:
        axis = op.axis(x, axis)
    options = {name: int(op.flag(name)) for name in ("exclusive", "reverse")}
    to.add("CumSum", [x, to.constant(axis, np.int64)], op.target(), **options)


TABLE: Mapping[str, Write] = MappingProxyType(
    {
        "reduce_mean": reduction("ReduceMean"),
        "reduce_sum": reduction("ReduceSum"),
        "reduce_max": reduction("ReduceMax"),
        "reduce_amax": reduction("ReduceMax"),
        "reduce_min": reduction("ReduceMin"),
        "reduce_amin": reduction("ReduceMin"),
        "reduce_prod": reduction("ReduceProd"),
        "logsumexp": reduction("ReduceLogSumExp", "axis", "keepdim"),
        "frobenius_norm": reduction("ReduceL2"),
        "reduce_any": _truth("ReduceMax"),
        "reduce_all": _truth("ReduceMin"),
        "mean": _mean,
        "arg_max": _arg("ArgMax"),
        "arg_min": _arg("ArgMin"),
        "top_k_v2": _top_k,
        "argsort": _argsort,
        "cumsum": _cumsum,
    }
)
