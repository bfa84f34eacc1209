"""Products of matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.paddle_operator import PaddleOperator


def _matmul(op: PaddleOperator, to: NodeWriter) -> None:
    """Write a product as NumPy's `matmul`, of matrices that may be transposed before."""
    flags = {"X": ("trans_x", "transpose_X"), "Y": ("trans_y", "transpose_Y")}
    operands = []
    for slot, names in flags.items():
        name = op.source(slot)
        turned = any(op.flag(each) for each in names) and op.rank(name) > 1
        operands.append(_transposed(op, to, name) if turned else name)
    alpha = op.number("alpha", 1.0) if op.type == "matmul" else 1.0
    if alpha == 1.0:
        to.add("MatMul", operands, op.target())
        return
    factor = to.number(alpha, op.dtype(op.source()))
    to.add("Mul", [to.add("MatMul", operands), factor], op.target())


def _transposed(op: PaddleOperator, to: NodeWriter, name: str) -> str:
    rank = op.rank(name)
    return to.transpose(name, [*range(rank - 2), rank - 1, rank - 2])


def _mul(op: PaddleOperator, to: NodeWriter) -> None:
    """Write a product of tensors that are flattened to matrices, and shaped back."""
    x, y = op.source("X"), op.source("Y")
    ahead, behind = op.integer("x_num_col_dims", 1), op.integer("y_num_col_dims", 1)
    rows, columns = op.shape(x)[:ahead], op.shape(y)[behind:]
    if op.rank(y) != 2 or behind != 1:
        inner, outer = math.prod(op.shape(y)[:behind]), math.prod(columns)
        y = to.reshape(y, [inner, outer])
    if op.rank(x) == ahead + 1:  # the last axis is the inner one already
        made = to.add("MatMul", [x, y], op.target() if len(columns) == 1 else "")
    else:
        made = to.add("MatMul", [to.add("Flatten", [x], axis=ahead), y])
    if len(columns) > 1 or op.rank(x) != ahead + 1:
        if rows[1:].count(-1):
            raise op.refusal("several sizes of its result are free")
        to.reshape(made, [-1 if rows[0] < 0 else rows[0], *rows[1:], *columns], op.target())


def _addmm(op: PaddleOperator, to: NodeWriter) -> None:
    dtype = op.dtype(op.source("X"))
    parts = []
    product = to.add("MatMul", [op.source("X"), op.source("Y")])
    for name, factor in (
        (op.source("Input"), op.number("Beta", 1.0)),
        (product, op.number("Alpha", 1.0)),
    ):
        scaled = name if factor == 1.0 else to.add("Mul", [name, to.number(factor, dtype)])
        parts.append(scaled)
    to.add("Add", parts, op.target())


def _two(slots: tuple[str, str]) -> Write:
    def write(op: PaddleOperator, to: NodeWriter) -> None:
        to.add("MatMul", [op.source(slot) for slot in slots], op.target())

    return write


def _einsum(op: PaddleOperator, to: NodeWriter) -> None:
    equation = op.text("equation", "")
    to.add("Einsum", op.sources("Operands"), op.target(), equation=equation)


TABLE: Mapping[str, Write] = MappingProxyType(
    {
        "matmul_v2": _matmul,
        "matmul": _matmul,
        "mul": _mul,
        "addmm": _addmm,
        "bmm": _two(("X", "Y")),
        "mv": _two(("X", "Vec")),
        "einsum": _einsum,
    }
)
