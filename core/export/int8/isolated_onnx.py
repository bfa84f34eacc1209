"""The quantized layers of an int8 ONNX file by themselves, side by side in one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from core.errors import ExportError
from core.export.int8.isolated import Ending, IsolatedLayer, Shapes, Stored, float_name, path_of

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def isolate_onnx(
    model: ModelProto, shapes: Shapes, *, endings: bool = False
) -> tuple[ModelProto, list[IsolatedLayer]]:
    """Return a model in which each layer of a file has an input and an output of its own.

    Weights, biases, scales and zero points are those of the file. Where the file quantizes several
    tensors for a layer, in front of a concatenation, the layer stands there once for each grid that
    it finds; they should be one.

    Args:
        model: As `core.export.int8.onnx_writer.quantize_onnx` makes it.
        shapes: Shapes of the inputs. Layers without one are left out.
        endings: Whether to take the layers alone whose output the file rounds at once, and to
            round it. Otherwise all of them return floats.

    Raises:
        ExportError: The input of a layer is not quantized; the message begins with the layer.
    """
    file = _OnnxFile(model.graph)
    writer = _IsolatedOnnxWriter(file)
    for node in model.graph.node:
        path = path_of(file.weight(node))
        if path in shapes:
            ending = file.ending(node) if endings else []
            for pair in file.pairs(node, path) if ending or not endings else ():
                writer.add(node, pair, ending, shapes[path])
    made = ModelProto()
    made.CopyFrom(model)
    made.graph.CopyFrom(writer.graph())
    return made, writer.layers


def grids_on(model: ModelProto, tensor: str) -> list[np.ndarray]:
    """Return the values [steps] of each grid that a file rounds a tensor to, in rising order.

    Args:
        model: As `core.export.int8.onnx_writer.quantize_onnx` makes it.
        tensor: Its name; where it comes from a concatenation, what that reads may be rounded.
    """
    file = _OnnxFile(model.graph)
    return [file.values(pair) for pair in file.pairs_on(tensor)]


@dataclass(frozen=True)
class _Pair:
    """Nodes that round a tensor."""

    quantize: NodeProto
    dequantize: NodeProto

    @property
    def grid(self) -> tuple[str, ...]:
        """Return the names of scales and zero points."""
        return (*self.quantize.input[1:], *self.dequantize.input[1:])


class _OnnxFile:
    """Index of the graph of an ONNX file."""

    def __init__(self, graph: GraphProto) -> None:
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {port.name for port in graph.output}

    def weight(self, node: NodeProto) -> str:
        """Return the int8 weight of a layer, an empty string if the node is none."""
        if node.op_type not in _LAYERS or node.input[1] not in self.makers:
            return ""
        tensor = self._constant(node.input[1])
        return tensor.name if tensor is not None and tensor.data_type == TensorProto.INT8 else ""

    def _constant(self, name: str) -> TensorProto | None:
        """Return the initializer that a tensor is, or is dequantized from."""
        maker = self.makers.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            name = maker.input[0]
        return self.initializers.get(name)

    def stored(self, name: str) -> Stored:
        """Return the values of a constant; the steps of floats are 1."""
        maker = self.makers.get(name)
        if maker is None:
            value = numpy_helper.to_array(self.initializers[name])
            return Stored(value, np.ones([1] * value.ndim))
        steps, step = (numpy_helper.to_array(self.initializers[each]) for each in maker.input[:2])
        axis = next((int(each.i) for each in maker.attribute if each.name == "axis"), None)
        return Stored.along(steps, step, axis)

    def pairs(self, node: NodeProto, path: str) -> Iterator[_Pair]:
        """Return the nodes that round the input of a layer, once for each grid.

        Raises:
            ExportError: Nothing does.
        """
        seen = set()
        for pair in self._rounding(node.input[0]):
            if pair is None:
                raise ExportError(f"{path}: has an int8 weight, but its input is not quantized")
            tensors = [self.initializers[name] for name in pair.grid]
            grid = tuple(
                (each.data_type, numpy_helper.to_array(each).tobytes()) for each in tensors
            )
            if grid not in seen:
                seen.add(grid)
                yield pair

    def pairs_on(self, tensor: str) -> list[_Pair]:
        """Return the nodes that round a tensor, or all tensors that it is a concatenation of."""
        readers = [node for node in self._readers.get(tensor, []) if node.input[0] == tensor]
        found = [
            _Pair(node, self._readers[node.output[0]][0])
            for node in readers
            if node.op_type == "QuantizeLinear"
        ]
        return found or [pair for pair in self._rounding(tensor) if pair is not None]

    def values(self, pair: _Pair) -> np.ndarray:
        """Return the values that a pair rounds to."""
        zero_point = numpy_helper.to_array(self.initializers[pair.dequantize.input[2]])
        limits = np.iinfo(zero_point.dtype)
        steps = np.arange(limits.min, limits.max + 1) - int(zero_point)
        values: np.ndarray = steps * self.number(pair.dequantize.input[1])
        return values

    def _rounding(self, name: str) -> Iterator[_Pair | None]:
        """Look in front of concatenations and max pooling, which only pass values on."""
        maker = self.makers.get(name)
        if maker is not None and maker.op_type in ("Concat", "MaxPool"):
            for each in maker.input:
                yield from self._rounding(each)
            return
        if maker is not None and maker.op_type == "DequantizeLinear":
            quantize = self.makers.get(maker.input[0])
            yield None if quantize is None else _Pair(quantize, maker)
            return
        yield None

    def bias_behind(self, node: NodeProto) -> NodeProto | None:
        """Return the addition of a vector that alone reads what a layer makes."""
        addition = self._only_reader(node)
        if addition is None or addition.op_type != "Add":
            return None
        constants = [self._constant(name) for name in addition.input if name != node.output[0]]
        is_vector = len(constants) == 1 and constants[0] and len(constants[0].dims) == 1
        return addition if is_vector else None

    def ending(self, node: NodeProto) -> list[NodeProto]:
        """Return the nodes that round a layer's output, perhaps behind a ReLU; none if not."""
        found, current = [], self.bias_behind(node) or node
        for kinds in (("Relu", "Clip"), ("QuantizeLinear",), ("DequantizeLinear",)):
            reader = self._only_reader(current)
            if reader is not None and reader.op_type in kinds:
                found.append(reader)
                current = reader
        return found if current.op_type == "DequantizeLinear" else []

    def _only_reader(self, node: NodeProto) -> NodeProto | None:
        (made,) = node.output
        readers = self._readers.get(made, [])
        return readers[0] if len(readers) == 1 and made not in self._outputs else None

    def number(self, name: str) -> float:
        """Return a constant that is one number."""
        return float(numpy_helper.to_array(self.initializers[name]))

    def values_of(self, ending: Sequence[NodeProto]) -> Ending:
        """Return the values that an ending returns."""
        *activation, quantize, dequantize = ending
        lowest, *_, highest = self.values(_Pair(quantize, dequantize))
        for node in activation:
            bounds = [self.number(name) if name else None for name in node.input[1:]]
            low, high = (*bounds, None, None)[:2] if node.op_type == "Clip" else (0.0, None)
            lowest = lowest if low is None else max(lowest, low)
            highest = highest if high is None else min(highest, high)
        return Ending(lowest, highest, self.number(dequantize.input[1]))


@dataclass
class _IsolatedOnnxWriter:
    """Collects the nodes of the model.

    Attributes:
        file: File that the layers come from.
        layers: Layers in the order of their inputs and outputs.
        shapes: Shapes of the inputs.
        nodes: Nodes in the order in which they run.
        shared: Nodes that dequantize weights and biases, by their outputs.
    """

    file: _OnnxFile
    layers: list[IsolatedLayer] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    nodes: list[NodeProto] = field(default_factory=list)
    shared: dict[str, NodeProto] = field(default_factory=dict)

    def add(
        self, layer: NodeProto, pair: _Pair, ending: Sequence[NodeProto], shape: Sequence[int]
    ) -> None:
        """Add a layer with an input and an output of its own."""
        bias = layer.input[2] if len(layer.input) > 2 else ""
        chain = [(pair.quantize, 0), (pair.dequantize, 0), (layer, 0)]
        addition = self.file.bias_behind(layer)
        if addition is not None:
            place = list(addition.input).index(layer.output[0])
            bias = addition.input[1 - place]
            chain.append((addition, place))
        chain += [(node, 0) for node in ending]
        source = current = f"layer{len(self.layers)}"
        for index, (node, place) in enumerate(chain):
            self._copy(node, {place: current}, f"{source}@{index}")
            current = f"{source}@{index}"
        stored = self.file.stored(bias) if bias else None
        self.layers.append(
            IsolatedLayer(
                path=path_of(self.file.weight(layer)),
                weight=float_name(self.file.weight(layer)),
                source=source,
                output=current,
                stored=self.file.stored(layer.input[1]),
                bias=None if stored is None else stored.values,
                bias_step=stored.step if stored and bias in self.file.makers else None,
                ending=self.file.values_of(ending) if ending else None,
                input_step=self.file.number(pair.dequantize.input[1]),
            )
        )
        self.shapes.append(tuple(shape))

    def _copy(self, original: NodeProto, inputs: Mapping[int, str], output: str) -> None:
        node = NodeProto()
        node.CopyFrom(original)
        node.name, node.output[:] = output, [output]
        for place, name in enumerate(original.input):
            node.input[place] = inputs.get(place, name)
            if place not in inputs and name in self.file.makers:
                self.shared[name] = self.file.makers[name]
        self.nodes.append(node)

    def graph(self) -> GraphProto:
        """Return the graph."""
        nodes = [*self.shared.values(), *self.nodes]
        read = {name for node in nodes for name in node.input}
        inputs, outputs = [], []
        for layer, shape in zip(self.layers, self.shapes):
            inputs.append(_port(layer.source, shape))
            outputs.append(_port(layer.output, [None] * len(shape)))
        initializers = [each for name, each in self.file.initializers.items() if name in read]
        return helper.make_graph(nodes, "layers", inputs, outputs, initializers)


def _port(name: str, shape: Sequence[int | None]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
