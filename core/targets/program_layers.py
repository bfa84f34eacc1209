"""Find the layers of a Paddle program that Paddle Inference computes in int8, as it computes them.

What Paddle Inference 3.1.1 does with a program of `quantize_linear` and `dequantize_linear` (found
out on AVX2, AVX-512 without VNNI and SSE4.1):

- It computes convolutions in int8 whose data comes from a `dequantize_linear`, with nothing in
  between, and all other layers in float.
- It dequantizes the weights and rounds them again, each output channel on a grid of its own on
  which its largest magnitude is 127.
- Data behind a ReLU is unsigned, 0..255, other data is signed. A ReLU6 is a ReLU where it is
  computed together with a convolution. Operators that move or pool values carry the grid, and with
  it the missing sign, of what they read to what they make.
- Without VNNI it halves the weights of signed data, so that their largest magnitude is 63.5 and
  rounded to 64: no sum of products can overflow, but odd steps change.
- Depthwise convolutions add no products in pairs. Grouped ones, and those with several outputs of
  one input, do so with AVX-512.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from core.graph.linear_layers import LAYER_SLOTS
from core.graph.operators import attribute, names_of, only
from core.graph.program import Graph
from core.targets.pair_sums import HALVED, HIGHEST_STEP, LARGEST, Int8Layer, Steps

_HIGHEST = 127  # highest step of weights
_HALF = 63.5
_SLACK = 1e-5  # share of a step: the runtime rounds in float32
_CONVOLUTIONS = frozenset({"conv2d", "depthwise_conv2d", "fused_conv2d"})
_WEIGHTS = MappingProxyType(  # slots of data and weight
    {
        **{kind: (slots.source, slots.weight) for kind, slots in LAYER_SLOTS.items()},
        "fused_conv2d": ("Input", "Filter"),
        "fc": ("Input", "W"),
        "matmul": ("X", "Y"),
        "mul": ("X", "Y"),
    }
)
_PASSING = frozenset({"dropout"})  # operators that the runtime removes
_CARRYING = frozenset(
    {"pool2d", "reshape2", "slice", "transpose2", "nearest_interp", "nearest_interp_v2"}
)


def find_layers(graph: Graph) -> list[Int8Layer]:
    """Return the layers with weights in 8 bits, in the order they run."""
    makers = {name: op for op in graph.operators for name in names_of(op.outputs)}
    on_grids = {only(op.inputs, "X") for op in graph.operators if op.type == "quantize_linear"}
    signs = _Signs(graph, makers, on_grids)
    layers = []
    for op in graph.operators:
        data, slot = _WEIGHTS.get(op.type, ("", ""))
        stored = _stored_weight(graph, makers, only(op.inputs, slot))
        if stored is None:
            continue
        name, values = stored
        steps = _quantized_data(makers, only(op.inputs, data))
        if op.type not in _CONVOLUTIONS:
            layers.append(_in_float(op, name, values, "computed in float"))
        elif steps is None:
            layers.append(_in_float(op, name, values, "data in float"))
        else:
            source, absmax = only(steps.inputs, "X"), graph.weights[only(steps.inputs, "Scale")]
            layers.append(
                _convolution(op, name, values, signs.range_of(source, float(absmax.max())))
            )
    return layers


def _in_float(op: Any, name: str, values: np.ndarray, reason: str) -> Int8Layer:
    matrix = values.reshape(len(values), -1)
    return Int8Layer(name, op.type, matrix, values.shape[1:], Steps(), reason)


def _convolution(op: Any, name: str, values: np.ndarray, unsigned: Steps | None) -> Int8Layer:
    """Return a convolution as the runtime computes it.

    Args:
        op: The operator.
        name: Name of the weight.
        values: Values of the weight, [O, I / groups, h, w].
        unsigned: Range of the data; None if it is signed.
    """
    largest = np.abs(values).max(axis=(1, 2, 3), keepdims=True, initial=0)
    largest[largest == 0] = 1
    steps = values * ((_HIGHEST if unsigned else _HALF) / largest)
    # away from 0 where it is close: no verdict hangs on the last bit of a float
    steps = np.copysign(np.floor(np.abs(steps) + 0.5 + _SLACK), steps)
    again = steps * (largest / (_HIGHEST if unsigned else _HALF))
    changed = np.abs(again - values) > _SLACK * largest
    others = changed & (np.abs(values) < (1 - _SLACK) * largest)
    rounded = "stretched to 127" if unsigned else HALVED if others.any() else LARGEST
    depthwise = values.shape[1] == 1 and attribute(op, "groups", 1) == len(values)
    return Int8Layer(
        name=name,
        kind=op.type,
        weights=steps.reshape(len(steps), -1).astype(np.int64),
        patch=values.shape[1:],
        steps=unsigned or Steps(),
        exempt="depthwise" if depthwise else "",
        rounded=rounded if changed.any() else "",
    )


def _stored_weight(
    graph: Graph, makers: Mapping[str, Any], name: str
) -> tuple[str, np.ndarray] | None:
    """Return the name and the float64 values of a weight in 8 bits; None if it is not one."""
    op = makers.get(name)
    if op is not None and op.type == "elementwise_mul":  # written out by operators
        op = makers.get(only(op.inputs, "X"))
        if op is None or op.type != "cast" or only(op.inputs, "X") not in graph.weights:
            return None
        return only(op.inputs, "X"), graph.weights[only(op.inputs, "X")].astype(np.float64)
    if op is None or op.type != "dequantize_linear":
        return None
    stored, scale = only(op.inputs, "X"), graph.weights.get(only(op.inputs, "Scale"))
    axis = int(attribute(op, "quant_axis", -1))
    rounding = makers.get(stored)
    if rounding is not None and rounding.type == "quantize_linear":
        stored = only(rounding.inputs, "X")
    if stored not in graph.weights or scale is None:
        return None
    values = graph.weights[stored].astype(np.float64)
    shape = [1] * values.ndim
    if scale.size > 1:
        shape[axis] = -1
    step = scale.astype(np.float64).reshape(shape) / _HIGHEST
    if rounding is not None:
        values = np.clip(np.rint(values / np.where(step == 0, 1, step)), -_HIGHEST, _HIGHEST)
    return stored, values * step


def _quantized_data(makers: Mapping[str, Any], name: str) -> Any | None:
    """Return the `quantize_linear` that a layer's data comes from."""
    op = makers.get(name)
    if op is None or op.type != "dequantize_linear":
        return None
    op = makers.get(only(op.inputs, "X"))
    return op if op is not None and op.type == "quantize_linear" else None


class _Signs:
    """Tells which tensors Paddle Inference holds without a sign."""

    def __init__(self, graph: Graph, makers: Mapping[str, Any], on_grids: set[str]) -> None:
        self._graph = graph
        self._makers = makers
        self._on_grids = on_grids

    def range_of(self, tensor: str, absmax: float) -> Steps | None:
        """Return the steps of a tensor without a sign; None if it has one.

        Args:
            tensor: Quantized tensor.
            absmax: End of its grid.
        """
        source = self._unsigned_source(tensor)
        if source is None:
            return None
        highest = HIGHEST_STEP
        if source.type == "relu6":
            limit = float(attribute(source, "threshold", 6.0)) * HIGHEST_STEP / absmax
            highest = min(highest, int(np.floor(limit + 0.5 + _SLACK)))
        return Steps(0, highest)

    def _unsigned_source(self, tensor: str) -> Any | None:
        """Return the ReLU or ReLU6 that takes a tensor's sign away."""
        op, carried = self._makers.get(tensor), False
        while op is not None and (op.type in _CARRYING or op.type in _PASSING):
            carried |= op.type in _CARRYING
            tensor = self._in_float(only(op.inputs, "Input") or only(op.inputs, "X"))
            carried &= tensor not in self._on_grids
            op = self._makers.get(tensor)
        if op is None or carried:
            return None
        fused = op.type == "relu6" and self._made_by_convolution(only(op.inputs, "X"))
        return op if fused or op.type == "relu" else None

    def _made_by_convolution(self, tensor: str) -> bool:
        """Tell whether a tensor is the output of a convolution, batch norm and bias included."""
        op = self._makers.get(self._in_float(tensor))
        while op is not None and op.type in ("batch_norm", "elementwise_add"):
            if op.type == "elementwise_add" and only(op.inputs, "Y") not in self._graph.weights:
                return False
            op = self._makers.get(self._in_float(only(op.inputs, "X")))
        return op is not None and op.type in _CONVOLUTIONS

    def _in_float(self, tensor: str) -> str:
        """Return the tensor in front of the rounding, or the tensor itself if it is not rounded."""
        steps = _quantized_data(self._makers, tensor)
        return tensor if steps is None else only(steps.inputs, "X")
