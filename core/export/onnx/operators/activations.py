"""Operators of one tensor that compute each number by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.paddle_operator import PaddleOperator

HARD_SWISH_OPSET = 14


def plain(kind: str) -> Write:
    """Return a function that writes one node without attributes."""

    def write(op: PaddleOperator, to: NodeWriter) -> None:
        to.add(kind, [op.source()], op.target())

    return write


def with_numbers(kind: str, **named: tuple[str, float]) -> Write:
    """Return a function that writes one node with attributes.

    Args:
        kind: Operator of ONNX.
        named: For each attribute that of Paddle's operator, and its default there.
    """

    def write(op: PaddleOperator, to: NodeWriter) -> None:
        numbers = {name: op.number(*theirs) for name, theirs in named.items()}
        to.add(kind, [op.source()], op.target(), **numbers)

    return write


def _relu6(op: PaddleOperator, to: NodeWriter) -> None:
    _clip(op, to, 0.0, op.number("threshold", 6.0))


def _bounded(op: PaddleOperator, to: NodeWriter) -> None:
    _clip(op, to, op.number("t_min", 0.0), op.number("t_max", 24.0))


def _clip(op: PaddleOperator, to: NodeWriter, low: float, high: float) -> None:
    dtype = op.dtype(op.source())
    bounds = [to.number(low, dtype), to.number(high, dtype)]
    to.add("Clip", [op.source(), *bounds], op.target())


def _prelu(op: PaddleOperator, to: NodeWriter) -> None:
    source, slope = op.source(), op.source("Alpha")
    mode, rank = op.text("mode", "all"), op.rank(source)
    if mode == "channel" and op.text("data_format", "NCHW")[1] == "C":
        slope = to.reshape(slope, [-1, *[1] * (rank - 2)])
    elif mode == "element":
        slope = to.reshape(slope, op.shape(slope)[-rank + 1 :])
    else:
        slope = to.reshape(slope, [-1])
    to.add("PRelu", [source, slope], op.target())


def _gelu(op: PaddleOperator, to: NodeWriter) -> None:
    x, dtype = op.source(), op.dtype(op.source())
    one, half = to.number(1.0, dtype), to.number(0.5, dtype)
    if op.flag("approximate"):
        cube = to.add("Mul", [x, to.add("Mul", [x, x])])
        inner = to.add("Add", [x, to.add("Mul", [cube, to.number(0.044715, dtype)])])
        inner = to.add("Mul", [inner, to.number(math.sqrt(2 / math.pi), dtype)])
        share = to.add("Tanh", [inner])
    else:
        share = to.add("Erf", [to.add("Div", [x, to.number(math.sqrt(2), dtype)])])
    product = to.add("Mul", [x, to.add("Add", [share, one])])
    to.add("Mul", [product, half], op.target())


def _swish(op: PaddleOperator, to: NodeWriter) -> None:
    x, beta = op.source(), op.number("beta", 1.0) if op.type == "swish" else 1.0
    inner = x if beta == 1.0 else to.add("Mul", [x, to.number(beta, op.dtype(x))])
    to.add("Mul", [x, to.add("Sigmoid", [inner])], op.target())


def _hard_swish(op: PaddleOperator, to: NodeWriter) -> None:
    """Write `x min(max(x + offset, 0), threshold) / scale`; ONNX has it with 3, 6 and 6."""
    x = op.source()
    threshold, scale = op.number("threshold", 6.0), op.number("scale", 6.0)
    offset = op.number("offset", 3.0)
    if (threshold, scale, offset) == (6.0, 6.0, 3.0):
        to.require(HARD_SWISH_OPSET)
        to.add("HardSwish", [x], op.target())
        return
    zero, top, whole, shift = (
        to.number(each, op.dtype(x)) for each in (0.0, threshold, scale, offset)
    )
    share = to.add("Clip", [to.add("Add", [x, shift]), zero, top])
    to.add("Div", [to.add("Mul", [x, share]), whole], op.target())


def _mish(op: PaddleOperator, to: NodeWriter) -> None:
    x = op.source()
    to.add("Mul", [x, to.add("Tanh", [to.add("Softplus", [x])])], op.target())


def _softplus(op: PaddleOperator, to: NodeWriter) -> None:
    """Write `log(1 + exp(beta x)) / beta`; x itself above the threshold, as Paddle does."""
    x, dtype = op.source(), op.dtype(op.source())
    beta = to.number(op.number("beta", 1.0), dtype)
    scaled = to.add("Mul", [x, beta])
    smooth = to.add("Div", [to.add("Softplus", [scaled]), beta])
    large = to.add("Greater", [scaled, to.number(op.number("threshold", 20.0), dtype)])
    to.add("Where", [large, x, smooth], op.target())


def _rsqrt(op: PaddleOperator, to: NodeWriter) -> None:
    to.add("Reciprocal", [to.add("Sqrt", [op.source()])], op.target())


def _square(op: PaddleOperator, to: NodeWriter) -> None:
    to.add("Mul", [op.source()] * 2, op.target())


def _round(op: PaddleOperator, to: NodeWriter) -> None:
    """Write rounding of halves to even, in ONNX as in Paddle."""
    if op.integer("decimals", 0):
        raise op.refusal("it rounds to decimal places")
    to.add("Round", [op.source()], op.target())


def logarithm(base: float) -> Write:
    """Return a function that writes a logarithm to some base."""

    def write(op: PaddleOperator, to: NodeWriter) -> None:
        whole = to.number(math.log(base), op.dtype(op.source()))
        to.add("Div", [to.add("Log", [op.source()]), whole], op.target())

    return write


def _log1p(op: PaddleOperator, to: NodeWriter) -> None:
    one = to.number(1.0, op.dtype(op.source()))
    to.add("Log", [to.add("Add", [op.source(), one])], op.target())


def _tanh_shrink(op: PaddleOperator, to: NodeWriter) -> None:
    to.add("Sub", [op.source(), to.add("Tanh", [op.source()])], op.target())


def _hard_shrink(op: PaddleOperator, to: NodeWriter) -> None:
    to.add("Shrink", [op.source()], op.target(), bias=0.0, lambd=op.number("threshold", 0.5))


def _soft_shrink(op: PaddleOperator, to: NodeWriter) -> None:
    share = op.number("lambda", 0.5)
    to.add("Shrink", [op.source()], op.target(), bias=share, lambd=share)


def _softmax(op: PaddleOperator, to: NodeWriter) -> None:
    kind = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}[op.type]
    to.add(kind, [op.source()], op.target(), axis=op.axis(op.source(), op.integer("axis", -1)))


def _dropout(op: PaddleOperator, to: NodeWriter) -> None:
    """Write what dropout does in evaluation: nothing, or a scale in the old way."""
    x = op.source()
    if op.text("dropout_implementation", "downgrade_in_infer") == "upscale_in_train":
        to.add("Identity", [x], op.target())
        return
    kept = to.number(1.0 - op.number("dropout_prob", 0.5), op.dtype(x))
    to.add("Mul", [x, kept], op.target())


_PLAIN = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "floor": "Floor",
    "ceil": "Ceil",
    "sign": "Sign",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "asin": "Asin",
    "acos": "Acos",
    "atan": "Atan",
    "sinh": "Sinh",
    "cosh": "Cosh",
    "erf": "Erf",
    "reciprocal": "Reciprocal",
    "softsign": "Softsign",
    "logical_not": "Not",
    "isnan_v2": "IsNaN",
}

TABLE: Mapping[str, Write] = MappingProxyType(
    {
        **{theirs: plain(ours) for theirs, ours in _PLAIN.items()},
        "relu6": _relu6,
        "brelu": _bounded,
        "hard_tanh": _bounded,
        "leaky_relu": with_numbers("LeakyRelu", alpha=("alpha", 0.02)),
        "elu": with_numbers("Elu", alpha=("alpha", 1.0)),
        "celu": with_numbers("Celu", alpha=("alpha", 1.0)),
        "selu": with_numbers(
            "Selu",
            alpha=("alpha", 1.6732632423543772),
            gamma=("scale", 1.0507009873554805),
        ),
        "hard_sigmoid": with_numbers("HardSigmoid", alpha=("slope", 0.2), beta=("offset", 0.5)),
        "thresholded_relu": with_numbers("ThresholdedRelu", alpha=("threshold", 1.0)),
        "prelu": _prelu,
        "gelu": _gelu,
        "silu": _swish,
        "swish": _swish,
        "hard_swish": _hard_swish,
        "mish": _mish,
        "softplus": _softplus,
        "rsqrt": _rsqrt,
        "square": _square,
        "round": _round,
        "log2": logarithm(2.0),
        "log10": logarithm(10.0),
        "log1p": _log1p,
        "tanh_shrink": _tanh_shrink,
        "hard_shrink": _hard_shrink,
        "softshrink": _soft_shrink,
        "softmax": _softmax,
        "log_softmax": _softmax,
        "dropout": _dropout,
    }
)
