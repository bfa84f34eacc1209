"""Operators of several tensors of one shape, or shapes that are broadcast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.paddle_operator import PaddleOperator

# from the names of two tensors, their type and the name of the result
Combine = Callable[[NodeWriter, str, str, np.dtype, str], None]


def broadcast(op: PaddleOperator, to: NodeWriter) -> tuple[str, str]:
    """Return the operands X and Y; one of lower rank gets dimensions of 1 behind its own.

    Paddle's `axis` tells where the dimensions of the one of lower rank lie in those of the other;
    -1 means at the end, as in ONNX.
    """
    operands = {slot: op.source(slot) for slot in ("X", "Y")}
    ranks = {slot: op.rank(name) for slot, name in operands.items()}
    axis, rank = op.integer("axis", -1), max(ranks.values())
    low = min(ranks, key=lambda slot: ranks[slot])
    behind = rank - axis - ranks[low]
    if axis >= 0 and behind > 0 and ranks[low] > 0 and ranks["X"] != ranks["Y"]:
        operands[low] = _placed(op, to, operands[low], axis, behind)
    return operands["X"], operands["Y"]


def _placed(op: PaddleOperator, to: NodeWriter, name: str, before: int, behind: int) -> str:
    sizes = op.shape(name)
    if sizes.count(-1) <= 1:
        return to.reshape(name, [*[1] * before, *sizes, *[1] * behind])
    return to.unsqueeze(name, [len(sizes) + place for place in range(behind)])


def elementwise(combine: Combine) -> Write:
    """Return a function that writes an operator of two tensors."""

    def write(op: PaddleOperator, to: NodeWriter) -> None:
        dtype = op.dtype(op.source())
        combine(to, *broadcast(op, to), dtype, op.target())

    return write


def one_node(kind: str) -> Combine:
    """Return a function that adds one node."""

    def combine(to: NodeWriter, x: str, y: str, _dtype: np.dtype, out: str) -> None:
        to.add(kind, [x, y], out)

    return combine


def _not_equal(to: NodeWriter, x: str, y: str, _dtype: np.dtype, out: str) -> None:
    to.add("Not", [to.add("Equal", [x, y])], out)


def _floor_div(to: NodeWriter, x: str, y: str, dtype: np.dtype, out: str) -> None:
    """Write a quotient rounded down; ONNX's division of integers rounds towards zero."""
    if dtype.kind == "f":
        to.add("Floor", [to.add("Div", [x, y])], out)
        return
    whole = to.add("Sub", [x, to.add("Mod", [x, y])])
    to.add("Div", [whole, y], out)


def _mod(to: NodeWriter, x: str, y: str, dtype: np.dtype, out: str) -> None:
    """Write a remainder with the sign of the divisor, which ONNX has for integers alone."""
    if dtype.kind != "f":
        to.add("Mod", [x, y], out)
        return
    times = to.add("Floor", [to.add("Div", [x, y])])
    to.add("Sub", [x, to.add("Mul", [times, y])], out)


def _scale(op: PaddleOperator, to: NodeWriter) -> None:
    """Write `scale x + bias`, or `scale (x + bias)`, without what changes nothing."""
    current, dtype = op.source(), op.dtype(op.source())
    scale, bias = op.number("scale", 1.0), op.number("bias", 0.0)
    tensor = op.source("ScaleTensor")
    steps: list[tuple[str, str]] = []
    if tensor:
        steps.append(("Mul", tensor))
    elif scale != 1.0:
        steps.append(("Mul", to.number(scale, dtype)))
    if bias != 0.0:
        place = len(steps) if op.flag("bias_after_scale", True) else 0
        steps.insert(place, ("Add", to.number(bias, dtype)))
    for kind, other in steps[:-1]:
        current = to.add(kind, [current, other])
    kind, inputs = (steps[-1][0], [current, steps[-1][1]]) if steps else ("Identity", [current])
    to.add(kind, inputs, op.target())


def _pow(op: PaddleOperator, to: NodeWriter) -> None:
    x, tensor = op.source(), op.source("FactorTensor")
    factor = tensor or to.number(op.number("factor", 1.0), op.dtype(x))
    to.add("Pow", [x, factor], op.target())


def _clip(op: PaddleOperator, to: NodeWriter) -> None:
    x = op.source()
    bounds = []
    for slot, name in (("Min", "min"), ("Max", "max")):
        tensor = op.source(slot)
        if tensor and op.rank(tensor):
            tensor = to.reshape(tensor, [])
        bounds.append(tensor or to.number(_within(op.number(name, 0.0), op.dtype(x)), op.dtype(x)))
    to.add("Clip", [x, *bounds], op.target())


def _within(value: float, dtype: np.dtype) -> float:
    """Return a number that the type holds: bounds of integers may be infinite in Paddle."""
    if dtype.kind == "f":
        return value
    limits = np.iinfo(dtype)
    return float(min(max(value, limits.min), limits.max))


def _where(op: PaddleOperator, to: NodeWriter) -> None:
    to.add("Where", [op.source("Condition"), op.source("X"), op.source("Y")], op.target())


def _sum(op: PaddleOperator, to: NodeWriter) -> None:
    _over_all("Add", to, op.sources(), op.target())


def _over_all(kind: str, to: NodeWriter, names: Sequence[str], out: str) -> None:
    current, *others = names
    if not others:
        to.add("Identity", [current], out)
    for place, name in enumerate(others):
        last = place == len(others) - 1
        current = to.add(kind, [current, name], out if last else "")


_ONE_NODE = {
    "elementwise_add": "Add",
    "elementwise_sub": "Sub",
    "elementwise_mul": "Mul",
    "elementwise_div": "Div",
    "elementwise_max": "Max",
    "elementwise_min": "Min",
    "elementwise_pow": "Pow",
    "maximum": "Max",
    "minimum": "Min",
    "equal": "Equal",
    "less_than": "Less",
    "less_equal": "LessOrEqual",
    "greater_than": "Greater",
    "greater_equal": "GreaterOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_xor": "Xor",
}

TABLE: Mapping[str, Write] = MappingProxyType(
    {
        **{theirs: elementwise(one_node(ours)) for theirs, ours in _ONE_NODE.items()},
        "not_equal": elementwise(_not_equal),
        "elementwise_floordiv": elementwise(_floor_div),
        "elementwise_mod": elementwise(_mod),
        "scale": _scale,
        "pow": _pow,
        "clip": _clip,
        "where": _where,
        "sum": _sum,
    }
)
