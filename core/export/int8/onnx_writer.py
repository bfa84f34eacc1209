"""Put a table of scales into an ONNX graph: int8 weights, quantized inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from core.errors import ExportError
from core.export.int8.weights import Entries, transposed_axis
from core.quant.scales import Grid, LayerScales
from core.quant.weight_grid import quantize_weight
from core.targets.presets import Preset
from core.targets.processors import HIGHEST, Limit

NO_BIAS = np.float32(1e-30)
MADE_INT8_BY_ONNXRUNTIME = ("Conv", "ConvTranspose", "Gemm")  # see `_OnnxWriter._read_in_float`


def quantize_onnx(
    proto: ModelProto,
    table: Sequence[LayerScales],
    preset: Preset,
    outputs: Mapping[str, Grid] = MappingProxyType({}),
) -> ModelProto:
    """Return a model with the layers of the table in int8; the given one stays as it is.

    A weight becomes an int8 initializer of the same name with a DequantizeLinear behind. The input
    of a layer passes a QuantizeLinear and a DequantizeLinear, one pair for each tensor and grid.
    Biases stay float, but for those of linear layers where the preset says so.

    Args:
        proto: As `core.export.onnx.convert.convert_to_onnx` makes it: opset 13 or higher, weights
            as initializers.
        table: An entry for each layer to quantize.
        preset: One of `PRESETS`.
        outputs: Tensors to round for all their readers, by name.

    Raises:
        ExportError: An entry fits no layer, or cannot be stored in int8, a name is of no tensor,
            or the result does not pass ONNX's checker.
    """
    layers = _find_layers(proto.graph, Entries(table), preset)
    opened = _opened(proto.graph, layers, outputs) if preset.early else {}
    made_here = {name for node in proto.graph.node for name in node.output}
    for name in outputs.keys() - made_here:
        raise ExportError(f"{name}: is to be rounded, but the ONNX graph has no such tensor")
    outputs = {name: _on_preset(grid, preset) for name, grid in outputs.items()}
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    by_weight = {layer.weight: layer for layer in reversed(layers.values())}
    writer = _OnnxWriter(weights, by_weight, opened, outputs, preset)
    for place, node in enumerate(proto.graph.node):
        writer.add(node, layers.get(place))
    made = ModelProto()
    made.CopyFrom(proto)
    made.graph.ClearField("node")
    made.graph.ClearField("initializer")
    made.graph.node.extend(writer.nodes)
    made.graph.initializer.extend(writer.initializers.values())
    try:
        onnx.checker.check_model(made)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"onnx: the int8 model is not valid: {reason}") from error
    return made


@dataclass(frozen=True)
class _OnnxLayer:
    """Table entry of a node; `axis` is that of the output channels in the weight."""

    weight: str
    grid: Grid
    axis: int | None
    per_channel: bool
    limit: Limit


def _find_layers(graph: Any, entries: Entries, preset: Preset) -> dict[int, _OnnxLayer]:
    """Return the layers of the table by the place of their node."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    layers = {}
    for place, node in enumerate(graph.node):
        name = node.input[1] if len(node.input) > 1 else ""
        if not _is_layer(node, shapes.get(name, ())):
            continue
        entry = entries.find(name)
        if entry is not None:
            axis = _axis(node, name, shapes[name], entry.per_channel)
            grid = _on_preset(entry.input, preset)
            layers[place] = _OnnxLayer(name, grid, axis, entry.per_channel, entry.limit)
    entries.check_all_found()
    return layers


def _on_preset(grid: Grid, preset: Preset) -> Grid:
    if grid.signed or preset.unsigned:
        return replace(grid, bits=8)
    return Grid(grid.step * max(grid.highest, grid.zero_point), signed=True)


def _is_layer(node: NodeProto, shape: Sequence[int]) -> bool:
    if node.op_type in ("Conv", "ConvTranspose"):
        return len(shape) > 2
    if node.op_type == "Gemm":
        return len(shape) == 2 and not _attribute(node, "transA", 0)
    return node.op_type == "MatMul" and len(shape) == 2


def _axis(node: NodeProto, weight: str, shape: Sequence[int], needed: bool) -> int | None:
    """Return the axis of output channels; None if there is none, and none is needed."""
    if node.op_type == "ConvTranspose":
        groups = _attribute(node, "group", 1)
        return transposed_axis(weight, shape, groups) if needed or groups == 1 else None
    if node.op_type == "Conv" or _attribute(node, "transB", 0):
        return 0
    return 1


def _count_inputs(node: NodeProto, shape: Sequence[int]) -> int:
    """Return how many channels a layer reads, from the shape of its weight."""
    if node.op_type == "Conv":
        return shape[1] * _attribute(node, "group", 1)
    if node.op_type == "Gemm" and _attribute(node, "transB", 0):
        return shape[1]
    return shape[0]


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), default)


def _opened(
    graph: Any, layers: Mapping[int, _OnnxLayer], outputs: Container[str]
) -> dict[str, Grid]:
    """Return the grids of the outputs of concatenations and max pooling that read rounded tensors.

    All their readers read the same grid. A max pooling reads a larger tensor than it makes, so it
    must be the only reader; rounding never changes which value is the largest.

    Args:
        graph: ONNX graph.
        layers: By place.
        outputs: Tensors with grids of their own.
    """
    fixed = {tensor.name for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(port.name for port in graph.output)
    read: dict[str, set[Grid | None]] = {port.name: {None} for port in graph.output}
    opened: dict[str, Grid] = {}
    for place, node in reversed(list(enumerate(graph.node))):
        grid = layers[place].grid if place in layers else None
        source = node.input[0] if node.input else ""
        joins = node.op_type == "Concat" and not fixed.intersection(node.input)
        pools = node.op_type == "MaxPool" and readers[source] == 1 and source not in outputs
        if joins or pools:
            wanted = read.get(node.output[0], {None})
            grid = next(iter(wanted)) if len(wanted) == 1 else None
            if grid is not None:
                opened[node.output[0]] = grid
        for index, name in enumerate(node.input):
            is_input = index == 0 or node.op_type == "Concat"
            read.setdefault(name, set()).add(grid if is_input else None)
    return opened


@dataclass
class _OnnxWriter:
    """Collects the nodes and initializers of the int8 model.

    Attributes:
        weights: The float initializers.
        layers: A layer that reads each weight to quantize.
        opened: Grids of the outputs of concatenations and max pooling of quantized tensors.
        outputs: Grids of tensors that are rounded for all their readers.
        preset: Preset of the runtime.
        nodes: Nodes in the order in which they run.
        initializers: By name, without floats that are int8 now.
        rounded: Name of the rounded values of each quantized tensor.
        stored: Steps of rounded values, their scale and their zero point, by name of the values.
        dequantized: Name of the float values of each int8 weight.
        steps: Step of the products that a linear layer adds up, by name of its sums.
    """

    weights: Mapping[str, TensorProto]
    layers: Mapping[str, _OnnxLayer]
    opened: Mapping[str, Grid]
    outputs: Mapping[str, Grid]
    preset: Preset
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    rounded: dict[tuple[str, Grid], str] = field(default_factory=dict)
    stored: dict[str, list[str]] = field(default_factory=dict)
    dequantized: dict[str, str] = field(default_factory=dict)
    steps: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, original: NodeProto, layer: _OnnxLayer | None) -> None:
        """Add a node of the float model, and the nodes it needs in front of it."""
        node = NodeProto()
        node.CopyFrom(original)
        node.input[:] = [self._read(name) for name in original.input]
        if layer is not None and self.outputs.get(original.input[0]) != layer.grid:
            node.input[0] = self._quantize(node.input[0], layer.grid)
        if node.output[0] in self.opened:
            grid = self.opened[node.output[0]]
            node.input[:] = [self._quantize(name, grid) for name in node.input]
        if self.preset.bias and node.op_type == "Add" and node.input[0] in self.steps:
            node.input[1] = self._dequantize_bias(*node.input)
        if layer is not None and node.op_type == "Conv":
            self._fill_bias(node, layer)
        if layer is None and node.op_type in MADE_INT8_BY_ONNXRUNTIME:
            node.input[0] = self._read_in_float(node)
        for index, name in enumerate(node.input):
            if name in self.layers:
                node.input[index] = self._dequantize_weight(name)
            elif name in self.weights:
                self.initializers[name] = self.weights[name]
        if layer is not None and node.op_type == "MatMul":
            scale = numpy_helper.to_array(self.initializers[f"{layer.weight}@scale"])
            self.steps[node.output[0]] = scale * np.float32(layer.grid.step)
        self.nodes.append(node)

    def _fill_bias(self, node: NodeProto, layer: _OnnxLayer) -> None:
        """Replace a zero bias of a convolution by one close to zero."""
        given = self.weights.get(node.input[2]) if len(node.input) > 2 else None
        if len(node.input) > 2 and (given is None or numpy_helper.to_array(given).any()):
            return
        values = np.full(self.weights[layer.weight].dims[0], NO_BIAS)
        node.input[2:] = [self._constant(f"{node.output[0]}@bias", values)]

    def _read(self, tensor: str) -> str:
        """Return the name of a tensor as all its readers get it."""
        return self._quantize(tensor, self.outputs[tensor]) if tensor in self.outputs else tensor

    def _read_in_float(self, node: NodeProto) -> str:
        """Return the name of the input of a node as a layer reads it whose weight stays in float.

        ONNX Runtime rounds such a weight, on one grid for the whole layer, where the layer stands
        between a DequantizeLinear with one scale and a QuantizeLinear (`WeightBiasQuantization`,
        since version 1.21). So it reads rounded values with their scale once for each channel; for
        a single channel that is one scale still.
        """
        name, weight = str(node.input[0]), self.weights.get(node.input[1])
        if name not in self.stored or weight is None or not _is_layer(node, weight.dims):
            return name
        steps, scale, zero_point = self.stored[name]
        own = f"{name}@channels"
        if own not in self.stored:
            self.stored[own] = [steps]
            for single in (scale, zero_point):
                value = numpy_helper.to_array(self.initializers[single])
                values = np.full(_count_inputs(node, weight.dims), value)
                self.stored[own].append(self._constant(f"{own}@{single}", values))
            self._node("DequantizeLinear", self.stored[own], own, axis=1)
        return own

    def _quantize(self, tensor: str, grid: Grid) -> str:
        """Return the name of a tensor's values rounded to a grid; they are computed once."""
        if self.opened.get(tensor) == grid:
            return tensor
        key = tensor, grid
        if key not in self.rounded:
            number = sum(name == tensor for name, _ in self.rounded)
            stem = f"{tensor}@{number + 1}" if number else tensor
            zero = self.preset.zero_point if grid.signed else grid.zero_point
            dtype = np.int8 if grid.signed and zero == 0 else np.uint8
            steps = f"{stem}@{dtype.__name__}"
            inputs = [
                self._constant(f"{stem}@scale", np.float32(grid.step)),
                self._constant(f"{zero}@{dtype.__name__}", dtype(zero)),
            ]
            self._node("QuantizeLinear", [tensor, *inputs], steps)
            self.rounded[key] = self._node("DequantizeLinear", [steps, *inputs], f"{stem}@float")
            self.stored[self.rounded[key]] = [steps, *inputs]
        return self.rounded[key]

    def _dequantize_weight(self, name: str) -> str:
        """Return the name of a weight's float values; it is replaced by int8 values once."""
        if name not in self.dequantized:
            layer, value = self.layers[name], numpy_helper.to_array(self.weights[name])
            axis = layer.axis if layer.per_channel else None
            steps, absmax = quantize_weight(value, layer.axis, layer.limit, layer.per_channel)
            scales = absmax / np.float32(HIGHEST) if axis is not None else absmax[0] / HIGHEST
            inputs = [
                self._constant(name, steps),
                self._constant(f"{name}@scale", np.float32(scales)),
                self._constant(f"{name}@zero_point", np.zeros(np.shape(scales), np.int8)),
            ]
            axes = {} if axis is None else {"axis": axis}
            self.dequantized[name] = self._node("DequantizeLinear", inputs, f"{name}@float", **axes)
        return self.dequantized[name]

    def _dequantize_bias(self, sums: str, name: str) -> str:
        """Return the name of a bias rounded to int32, or its own if it is no bias or too large."""
        steps, stem = self.steps[sums], f"{sums}@bias"  # layers may share a bias, not its steps
        values = numpy_helper.to_array(self.weights[name]) if name in self.weights else None
        if values is None or values.ndim != 1 or steps.shape not in ((), values.shape):
            return name
        rounded = np.rint(values.astype(np.float64) / steps)
        if np.abs(rounded).max() > np.iinfo(np.int32).max:
            return name
        inputs = [
            self._constant(f"{stem}@int32", rounded.astype(np.int32)),
            self._constant(f"{stem}@scale", steps),
            self._constant(f"{stem}@zero_point", np.zeros(steps.shape, np.int32)),
        ]
        axes = {"axis": 0} if steps.shape else {}
        return self._node("DequantizeLinear", inputs, f"{stem}@float", **axes)

    def _constant(self, name: str, value: Any) -> str:
        self.initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _node(self, kind: str, inputs: Sequence[str], output: str, **attributes: int) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output
