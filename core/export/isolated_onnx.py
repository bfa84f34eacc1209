"""The quantized layers of an int8 ONNX file by themselves, side by side in one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from core.errors import ExportError
from core.export.isolated import IsolatedLayer, Shapes, Stored, float_name, path_of

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def isolate_onnx(model: ModelProto, shapes: Shapes) -> tuple[ModelProto, list[IsolatedLayer]]:
    """Return a model in which each layer of a file has an input and an output of its own.

    Weights, biases, scales and zero points are those of the file. Where the file quantizes several
    tensors for a layer, in front of a concatenation, the layer stands there once for each grid that
    it finds; they should be one.

    Args:
        model: As `core.export.qdq.quantize_onnx` makes it.
        shapes: Of the inputs. Layers without are left out.

    Raises:
        ExportError: What a layer reads is not quantized; the message begins with the layer.
    """
    file = _File(model.graph)
    writer = _Writer(file)
    for node in model.graph.node:
        path = path_of(file.weight(node))
        if path in shapes:
            for pair in file.pairs(node, path):
                writer.add(node, pair, shapes[path])
    made = ModelProto()
    made.CopyFrom(model)
    made.graph.CopyFrom(writer.graph())
    return made, writer.layers


@dataclass(frozen=True)
class _Pair:
    """What rounds a tensor."""

    quantize: NodeProto
    dequantize: NodeProto

    @property
    def grid(self) -> tuple[str, ...]:
        """Return the names of scales and zero points."""
        return (*self.quantize.input[1:], *self.dequantize.input[1:])


class _File:
    """Where things are in the graph of a file."""

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
        steps, step = (
            numpy_helper.to_array(self.initializers[each]) for each in maker.input[:2]
        )
        axis = next((int(each.i) for each in maker.attribute if each.name == "axis"), None)
        return Stored.along(steps, step, axis)

    def pairs(self, node: NodeProto, path: str) -> Iterator[_Pair]:
        """Return what rounds the input of a layer, once for each grid.

        Raises:
            ExportError: Nothing does.
        """
        seen = set()
        for pair in self._rounding(node.input[0]):
            if pair is None:
                raise ExportError(f"{path}: has an int8 weight, but reads what is not quantized")
            tensors = [self.initializers[name] for name in pair.grid]
            grid = tuple((each.data_type, numpy_helper.to_array(each).tobytes()) for each in tensors)
            if grid not in seen:
                seen.add(grid)
                yield pair

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
        (made,) = node.output
        readers = self._readers.get(made, [])
        if len(readers) != 1 or made in self._outputs or readers[0].op_type != "Add":
            return None
        constants = [self._constant(name) for name in readers[0].input if name != made]
        is_vector = len(constants) == 1 and constants[0] and len(constants[0].dims) == 1
        return readers[0] if is_vector else None


@dataclass
class _Writer:
    """Collects the nodes of the model.

    Attributes:
        file: Where they come from.
        layers: In the order of their inputs and outputs.
        shapes: Of the inputs.
        nodes: In the order they run.
        shared: Nodes that dequantize weights and biases, by what they make.
    """

    file: _File
    layers: list[IsolatedLayer] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    nodes: list[NodeProto] = field(default_factory=list)
    shared: dict[str, NodeProto] = field(default_factory=dict)

    def add(self, original: NodeProto, pair: _Pair, shape: Sequence[int]) -> None:
        """Add a layer with an input and an output of its own."""
        source, addition = f"layer{len(self.layers)}", self.file.bias_behind(original)
        steps, rounded, sums, made = (
            f"{source}@{each}" for each in ("steps", "rounded", "sums", "made")
        )
        self._copy(pair.quantize, {0: source}, steps)
        self._copy(pair.dequantize, {0: steps}, rounded)
        self._copy(original, {0: rounded}, made if addition is None else sums)
        bias = original.input[2] if len(original.input) > 2 else ""
        if addition is not None:
            place = list(addition.input).index(original.output[0])
            bias = addition.input[1 - place]
            self._copy(addition, {place: sums}, made)
        stored = self.file.stored(bias) if bias else None
        self.layers.append(
            IsolatedLayer(
                path=path_of(self.file.weight(original)),
                weight=float_name(self.file.weight(original)),
                source=source,
                output=made,
                stored=self.file.stored(original.input[1]),
                bias=None if stored is None else stored.values,
                bias_step=stored.step if stored and bias in self.file.makers else None,
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
        floats = TensorProto.FLOAT
        return helper.make_graph(
            nodes,
            "layers",
            [
                helper.make_tensor_value_info(layer.source, floats, shape)
                for layer, shape in zip(self.layers, self.shapes)
            ],
            [helper.make_tensor_value_info(layer.output, floats, None) for layer in self.layers],
            [each for name, each in self.file.initializers.items() if name in read],
        )
