"""Find the layers of an ONNX model that runtimes compute in int8, in either form of quantization.

In QDQ models a layer reads dequantized weights and data; in QOperator models it reads integers
itself. A runtime moves a DequantizeLinear behind the operators that follow where it can. So what is
computed from data on grids alone is taken to be on a grid, too: on the same steps where values are
only moved, on any steps of 8 bits otherwise.

How ONNX Runtime 1.31 and OpenVINO 2026.4 behave on processors without VNNI (AVX2, and AVX-512 and
SSE4.1 for OpenVINO):

- Depthwise convolutions add no products in pairs, in neither runtime. Those with several outputs of
  one input do, and so do grouped and transposed ones (these in OpenVINO) and linear layers.
- Weights in uint8 are never the signed operand: ONNX Runtime multiplies them in more bits, OpenVINO
  in float. Where int8 weights have a zero point, ONNX Runtime multiplies the stored numbers.
- OpenVINO halves the weights, and rounds odd ones, where int8 data with zero point 0 is read by a
  transposed convolution (with AVX-512) or by a depthwise one of three dimensions.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, inliner

from core.targets.onnx_nodes import (
    constant,
    dtype_of,
    evaluate,
    input_of,
    integer,
    number,
    spread,
    text,
    to_array,
)
from core.targets.onnx_tensors import (
    SIGNED_SHIFT,
    OnnxGrid,
    Tensor,
    Weight,
    dequantized,
    joined,
    quantized,
)
from core.targets.pair_sums import HALVED, Int8Layer, Steps

_BITS_8 = (np.dtype(np.int8), np.dtype(np.uint8))
_INFINITY = float("inf")
# operators of constants that are computed here
_FOLDED = frozenset(
    {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Concat", "Slice"}
)
# operators that make floats of stored weights, written out
_SCALING = frozenset({"Add", "Cast", "Div", "Mul", "Sub"})
# operators that return values of their first input, and perhaps 0 (a border)
_MOVING = frozenset(
    {
        *("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Slice", "Split"),
        *("Cast", "DepthToSpace", "Dropout", "Expand", "Gather", "GatherElements", "GatherND"),
        *("GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMin", "SpaceToDepth", "Tile"),
    }
)
_AVERAGING = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
_WITHIN = MappingProxyType(
    {
        "Relu": (0.0, _INFINITY),
        "HardSigmoid": (0.0, 1.0),
        "Sigmoid": (0.0, 1.0),
        "Softmax": (0.0, 1.0),
        "Tanh": (-1.0, 1.0),
    }
)


@dataclass(frozen=True)
class _Places:
    """Positions of the inputs of an integer operator; `result` is the zero point of its output."""

    like: str
    data: int
    weight: int
    zero: int | None
    result: int | None


_ON_INTEGERS = MappingProxyType(
    {
        "QLinearConv": _Places("Conv", 0, 3, 2, 7),
        "QLinearMatMul": _Places("MatMul", 0, 3, 2, 7),
        "QGemm": _Places("Gemm", 0, 3, 2, 8),
        "ConvInteger": _Places("Conv", 0, 1, 2, None),
        "MatMulInteger": _Places("MatMul", 0, 1, 2, None),
        "MatMulIntegerToFloat": _Places("MatMul", 0, 1, 4, None),
        "DynamicQuantizeMatMul": _Places("MatMul", 0, 1, None, None),
    }
)
# others that multiply by weights; which of these are added up, is not looked into
_OTHERS = frozenset({"Attention", "DeformConv", "Einsum", "GRU", "LSTM", "RNN"})
_OTHERS_ON_INTEGERS = frozenset({"DynamicQuantizeLSTM", "QAttention"})


def find_layers(model: ModelProto) -> list[Int8Layer]:
    """Return the layers with weights in 8 bits, in the order they run."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    walk = _Walk(model, ChainMap(), ChainMap(), [])
    walk.graph(model.graph)
    return walk.layers


@dataclass(frozen=True)
class _Constant:
    """A value of the file, with its name there."""

    name: str
    value: TensorProto | np.ndarray

    @property
    def array(self) -> np.ndarray:
        return self.value if isinstance(self.value, np.ndarray) else to_array(self.value)


@dataclass
class _Walk:
    """Goes through a graph in the order it runs; graphs inside see what is outside.

    Attributes:
        model: Model that defines the operator versions.
        constants: By name.
        tensors: Computed tensors, by name.
        layers: Found so far.
    """

    model: ModelProto
    constants: ChainMap[str, _Constant]
    tensors: ChainMap[str, Tensor]
    layers: list[Int8Layer]

    def graph(self, graph: GraphProto) -> None:
        """Add the layers of a graph."""
        for tensor in graph.initializer:
            self.constants[tensor.name] = _Constant(tensor.name, tensor)
        for port in graph.input:
            kind = port.type.tensor_type.elem_type
            if kind in (TensorProto.INT8, TensorProto.UINT8):
                self.tensors[port.name] = Tensor(grid=OnnxGrid(dtype=dtype_of(kind)))
        for node in graph.node:
            for attribute in node.attribute:
                for inner in (
                    *attribute.graphs,
                    *([attribute.g] if attribute.HasField("g") else []),
                ):
                    scope = self.constants.new_child(), self.tensors.new_child()
                    _Walk(self.model, *scope, self.layers).graph(inner)
            self._node(node)

    def _node(self, node: NodeProto) -> None:
        kind = node.op_type
        if kind == "Constant":
            value = constant(node)
            if value is not None:
                self.constants[node.output[0]] = _Constant(node.output[0], value)
        elif kind == "QuantizeLinear":
            self._quantize(node)
        elif kind == "DequantizeLinear":
            self._dequantize(node)
        elif kind in _LAYERS:
            data, weight = (self._tensor(input_of(node, place)) for place in (0, 1))
            self._add(node, _LAYERS[kind](node, data, weight))
        elif kind in _ON_INTEGERS:
            self._layer_on_integers(node, _ON_INTEGERS[kind])
        elif kind in _OTHERS or kind in _OTHERS_ON_INTEGERS:
            self._other_layer(node)
        elif not self._fold(node):
            made = self._made(node)
            self.tensors.update(dict.fromkeys(node.output, made))

    def _value(self, name: str) -> np.ndarray | None:
        return self.constants[name].array if name in self.constants else None

    def _tensor(self, name: str) -> Tensor:
        return self.tensors.get(name, Tensor())

    def _is_constant(self, name: str) -> bool:
        return name in self.constants or self._tensor(name).weight is not None

    def _add(self, node: NodeProto, layer: Int8Layer | None) -> None:
        if layer is not None:
            name = layer.name or node.name or node.output[0]
            self.layers.append(replace(layer, name=name, kind=node.op_type))

    def _fold(self, node: NodeProto) -> bool:
        """Compute an operator of constants, or note that it keeps weights; tell whether it did."""
        names = [name for name in node.input if name]
        if not names or not all(self._is_constant(name) for name in names):
            return False
        out = node.output[0]
        weights = [weight for name in names if (weight := self._weight(name)) is not None]
        if node.op_type in _SCALING and weights:
            self.tensors[out] = Tensor(weight=weights[0])
        elif node.op_type in _FOLDED:
            arrays = {name: self._stored(name).array for name in names}
            made = _Constant(self._stored(names[0]).name, evaluate(self.model, node, arrays))
            if self._tensor(names[0]).weight is None:
                self.constants[out] = made
            else:
                self.tensors[out] = Tensor(weight=Weight(made.name, made.array))
        else:
            return False
        return True

    def _weight(self, name: str) -> Weight | None:
        """Return dequantized constants, or constants in 8 bits about to be."""
        if name in self.constants and self.constants[name].array.dtype in _BITS_8:
            return Weight(self.constants[name].name, self.constants[name].array)
        return self._tensor(name).weight

    def _stored(self, name: str) -> _Constant:
        weight = self._tensor(name).weight
        return self.constants[name] if weight is None else _Constant(weight.name, weight.steps)

    def _quantize(self, node: NodeProto) -> None:
        source, out = node.input[0], node.output[0]
        scale, zero = self._value(input_of(node, 1)), self._value(input_of(node, 2))
        if not input_of(node, 2):
            zero = np.zeros((), dtype_of(integer(node, "output_dtype", TensorProto.UINT8)))
        if source not in self.constants:
            dtype = np.dtype(np.uint8) if zero is None else zero.dtype
            self.tensors[out] = quantized(self._tensor(source), scale, zero, dtype)
        elif scale is not None and zero is not None and zero.dtype in _BITS_8:
            constant = self.constants[source]
            info = np.iinfo(zero.dtype)
            step, origin = (spread(node, each, constant.array.shape) for each in (scale, zero))
            steps = np.rint(constant.array / step) + origin
            steps = np.clip(steps, info.min, info.max).astype(zero.dtype)
            self.constants[out] = _Constant(constant.name, steps)

    def _dequantize(self, node: NodeProto) -> None:
        source, out = node.input[0], node.output[0]
        if source in self.constants:
            constant = self.constants[source]
            self.tensors[out] = Tensor(weight=Weight(constant.name, constant.array))
            return
        scale, zero = self._value(input_of(node, 1)), self._value(input_of(node, 2))
        tensor = self._tensor(source)
        if not input_of(node, 2) and tensor.grid is not None:
            zero = np.zeros((), tensor.grid.dtype)
        self.tensors[out] = dequantized(tensor, scale, zero)

    def _layer_on_integers(self, node: NodeProto, places: _Places) -> None:
        data, weight = (
            self._integers(input_of(node, place), self._value(input_of(node, places.zero)))
            for place in (places.data, places.weight)
        )
        self._add(node, _LAYERS[places.like](node, data, weight))
        result = self._value(input_of(node, places.result))
        if result is not None:
            self.tensors[node.output[0]] = Tensor(grid=OnnxGrid(dtype=result.dtype))

    def _integers(self, name: str, zero: np.ndarray | None) -> Tensor:
        """Return an input of integers as the other form of quantization has it, dequantized."""
        if name in self.constants:
            constant = self.constants[name]
            return Tensor(weight=Weight(constant.name, constant.array))
        dtype = np.dtype(np.uint8) if zero is None else zero.dtype
        return Tensor(grid=self._tensor(name).grid or OnnxGrid(dtype=dtype))

    def _other_layer(self, node: NodeProto) -> None:
        on_integers = node.op_type in _OTHERS_ON_INTEGERS
        on_grid = on_integers or any(self._tensor(name).grid for name in node.input)
        for name in node.input:
            weight = self._weight(name) if on_integers else self._tensor(name).weight
            if weight is not None and weight.steps.dtype in _BITS_8 and weight.steps.ndim > 1:
                patch = (weight.steps.size,)
                data = Tensor(grid=OnnxGrid() if on_grid else None)
                self._add(node, _layer(weight, weight.steps.reshape(1, -1), patch, data))

    def _made(self, node: NodeProto) -> Tensor:
        """Return the output of an operator that is no layer."""
        kind = node.op_type
        read = [self._tensor(name) for name in node.input if name and not self._is_constant(name)]
        if not read or kind == "Shape":
            return Tensor()
        nearest = kind == "Resize" and text(node, "mode", "nearest") == "nearest"
        if kind in _MOVING or nearest:
            source, table = self._tensor(node.input[0]), self._weight(node.input[0])
            return source if table is None else Tensor(grid=OnnxGrid(dtype=table.steps.dtype))
        if kind == "Concat" and len(read) == len(node.input):
            return joined(read)
        if kind in _WITHIN:
            return read[0].within(*_WITHIN[kind])
        if kind == "Clip":
            return read[0].within(*self._limits(node))
        if kind in _AVERAGING:
            return replace(read[0].with_zero(), grid=read[0].grid and read[0].grid.widened())
        if kind == "Pad" and text(node, "mode", "constant") != "constant":
            return read[0]
        if kind == "Pad" and not input_of(node, 2) and not number(node, "value", 0.0):
            return read[0].with_zero()
        grids = [tensor.grid for tensor in read if tensor.grid is not None]
        return Tensor(grid=grids[0].widened() if len(grids) == len(read) else None)

    def _limits(self, node: NodeProto) -> tuple[float, float]:
        """Return the bounds of a Clip; infinite ones where they are computed."""
        ends = [number(node, "min", -_INFINITY), number(node, "max", _INFINITY)]
        for place in (1, 2):
            name = input_of(node, place)
            value = self._value(name)
            if name:
                ends[place - 1] = float(value) if value is not None else (-1) ** place * _INFINITY
        return ends[0], ends[1]


def _layer(
    weight: Weight, matrix: np.ndarray, patch: Sequence[int], data: Tensor, exempt: str = ""
) -> Int8Layer | None:
    """Return a layer of constant weights; None if these are not in 8 bits."""
    if weight.steps.dtype not in _BITS_8:
        return None
    if data.grid is None:
        exempt = "data in float"
    elif weight.steps.dtype == np.uint8:
        exempt = "weights in uint8"
    steps = data.grid.steps if data.grid else Steps()
    return Int8Layer(weight.name, "", matrix, tuple(patch), steps, exempt)


def _of_ranges(data: Steps, other: OnnxGrid) -> Int8Layer:
    """Return the product of two tensors of which only the ranges are known, or of one."""
    signed = (other.steps.lowest - SIGNED_SHIFT, other.steps.highest - SIGNED_SHIFT)
    return Int8Layer("", "", np.array([[end, end] for end in signed]), (2,), data)


def _computed(data: Tensor, weight: Tensor) -> Int8Layer | None:
    """Return a layer whose weights are computed; None if one of its inputs is float."""
    if weight.grid is None:
        return None
    if data.weight is not None and data.weight.steps.dtype in _BITS_8:
        stored = data.weight.steps.astype(np.int64)
        stored += SIGNED_SHIFT if data.weight.steps.dtype == np.int8 else 0
        layer = _of_ranges(Steps(int(stored.min()), int(stored.max())), weight.grid)
        return replace(layer, name=data.weight.name)
    return _of_ranges(data.grid.steps, weight.grid) if data.grid else None


def _convolution(node: NodeProto, data: Tensor, weight: Tensor) -> Int8Layer | None:
    if weight.weight is None:
        return _computed(data, weight)
    steps, group = weight.weight.steps, integer(node, "group", 1)
    depthwise = steps.shape[1] == 1 and steps.shape[0] == group
    exempt = "depthwise" if depthwise else ""
    layer = _layer(weight.weight, steps.reshape(len(steps), -1), steps.shape[1:], data, exempt)
    return _halved(layer, data) if depthwise and steps.ndim == 5 else layer


def _transposed_convolution(node: NodeProto, data: Tensor, weight: Tensor) -> Int8Layer | None:
    if weight.weight is None:
        return _computed(data, weight)
    steps, group = weight.weight.steps, integer(node, "group", 1)
    inputs, outputs, *kernel = steps.shape
    matrix = steps.reshape(group, inputs // group, outputs, -1).swapaxes(1, 2)
    matrix = matrix.reshape(group * outputs, -1)
    exempt = "depthwise" if outputs == 1 and inputs == group else ""
    patch = (inputs // group, *kernel)
    layer = _layer(weight.weight, matrix, patch, data, exempt)
    return _halved(layer, data) if group == 1 else layer


def _halved(layer: Int8Layer | None, data: Tensor) -> Int8Layer | None:
    """Note whether OpenVINO rounds the weights of a layer again."""
    if layer is None or data.grid is None or not data.grid.symmetric:
        return layer
    return replace(layer, rounded=HALVED if (layer.weights % 2).any() else "")


def _matrix_product(node: NodeProto, data: Tensor, weight: Tensor) -> Int8Layer | None:
    if weight.weight is None:
        return _computed(data, weight)
    steps = weight.weight.steps
    if integer(node, "transB", 0) == 0 and steps.ndim > 1:
        steps = steps.swapaxes(-1, -2)
    inputs = steps.shape[-1]
    return _layer(weight.weight, steps.reshape(-1, inputs), (inputs,), data)


_LAYERS = MappingProxyType(
    {
        "Conv": _convolution,
        "ConvTranspose": _transposed_convolution,
        "Gemm": _matrix_product,
        "MatMul": _matrix_product,
    }
)
