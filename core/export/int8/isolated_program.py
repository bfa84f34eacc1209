"""The quantized layers of an int8 program of Paddle by themselves, side by side in one program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from paddle.base.proto import framework_pb2

from core.errors import ExportError
from core.export.int8.isolated import IsolatedLayer, Shapes, Stored, float_name, path_of
from core.graph.linear_layers import LAYER_SLOTS
from core.graph.operators import attribute, names_of, only, operator, variable
from core.graph.program import Graph
from core.targets.processors import HIGHEST
from core.targets.tensor_copies import UNSIGNED

# what makes the float values of an int8 weight, and what rounds an input, backwards; the second of
# each in front of what Paddle Inference computes in float
_WEIGHTS = (("dequantize_linear",), ("elementwise_mul", "cast"))
_INPUTS = (
    ("dequantize_linear", "quantize_linear"),
    ("elementwise_mul", "elementwise_add", "elementwise_add", "clip", "elementwise_mul"),
)

_FLOAT = np.dtype("float32")


def isolate_program(graph: Graph, shapes: Shapes) -> tuple[Graph, list[IsolatedLayer]]:
    """Return a program in which each layer of a file has an input and an output of its own.

    Weights, biases, scales and zero points are those of the file. Paddle Inference takes unsigned
    grids behind a ReLU, so what it computes in int8 behind one has one in front of it here, too.

    Args:
        graph: As `core.export.int8.paddle_writer.quantize_program` makes it for Paddle Inference.
        shapes: Shapes of the inputs, with two dimensions more where a layer of vectors is written
            as a convolution. Layers without one are left out.

    Raises:
        ExportError: The input of a layer is not quantized; the message begins with the layer.
    """
    file = _ProgramFile(graph)
    writer = _IsolatedProgramWriter(
        file, replace(graph, operators=[], variables={}, weights={}, made={})
    )
    for op in graph.operators:
        path = path_of(file.weight(op))
        if path in shapes:
            writer.add(op, path, shapes[path])
    made = writer.made
    made.inputs = [layer.source for layer in writer.layers]
    made.outputs = [layer.output for layer in writer.layers]
    return made, writer.layers


def ends_on(graph: Graph, tensor: str) -> list[float]:
    """Return the end of each grid that a file rounds a tensor to, or a copy of it.

    Args:
        graph: As `core.export.int8.paddle_writer.quantize_program` makes it for Paddle Inference.
        tensor: Its name.
    """
    copies = {_made(op) for op in graph.operators if only(op.inputs, "X") == tensor}
    return [
        float(graph.weights[only(op.inputs, "Scale")][0])
        for op in graph.operators
        if op.type == "quantize_linear" and only(op.inputs, "X") in {tensor, *copies}
    ]


class _ProgramFile:
    """Index of the graph of a Paddle file."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.makers = {name: op for op in graph.operators for name in names_of(op.outputs)}
        self._readers: dict[str, list[Any]] = {}
        for op in graph.operators:
            for name in names_of(op.inputs):
                self._readers.setdefault(name, []).append(op)

    def weight(self, op: Any) -> str:
        """Return the int8 weight of a layer, an empty string if the operator is none."""
        if op.type not in LAYER_SLOTS:
            return ""
        chain = self.dequantizing(op)
        name = only(chain[0].inputs, "X") if chain else ""
        value = self.graph.weights.get(name)
        return name if value is not None and value.dtype == np.int8 else ""

    def dequantizing(self, op: Any) -> list[Any]:
        """Return the operators that make the float values of a weight, in their order."""
        return self._behind(only(op.inputs, LAYER_SLOTS[op.type].weight), _WEIGHTS)[::-1]

    def rounding(self, op: Any, path: str) -> list[Any]:
        """Return the operators that round what a layer reads, in their order.

        Raises:
            ExportError: None do.
        """
        chain = self._behind(only(op.inputs, LAYER_SLOTS[op.type].source), _INPUTS)
        if not chain:
            raise ExportError(f"{path}: has an int8 weight, but its input is not quantized")
        return chain[::-1]

    def _behind(self, name: str, chains: Sequence[Sequence[str]]) -> list[Any]:
        """Return the operators that make a tensor, the last first, if they are a chain."""
        for kinds in chains:
            found, current = [], name
            for kind in kinds:
                maker = self.makers.get(current)
                if maker is None or maker.type != kind:
                    break
                found.append(maker)
                current = only(maker.inputs, "X")
            if len(found) == len(kinds):
                return found
        return []

    def stored(self, op: Any) -> Stored:
        """Return the weight of a layer."""
        last = self.dequantizing(op)[-1]
        steps, scale = self.graph.weights[self.weight(op)], only(last.inputs, "Scale")
        if not scale:
            return Stored(steps, self.graph.weights[only(last.inputs, "Y")])
        axis = attribute(last, "quant_axis")
        absmax = self.graph.weights[scale].astype(np.float64)
        return Stored.along(steps, absmax / HIGHEST, axis)

    def adding(self, op: Any) -> list[Any]:
        """Return the operators that follow a layer until its bias is added, if it has one."""
        found: list[Any] = []
        for kind in ("squeeze2", "elementwise_add"):
            made = _made(found[-1] if found else op)
            readers = self._readers.get(made, [])
            alone = len(readers) == 1 and made not in self.graph.outputs
            if alone and readers[0].type == kind:
                bias = self.graph.weights.get(only(readers[0].inputs, "Y"))
                if kind == "squeeze2" or (bias is not None and bias.ndim == 1):
                    found.append(readers[0])
        return found

    def is_clipped(self, name: str) -> bool:
        """Tell whether a tensor comes from a ReLU."""
        return name in self.makers and self.makers[name].type in UNSIGNED


@dataclass
class _IsolatedProgramWriter:
    """Adds layers to a program.

    Attributes:
        file: File that the layers come from.
        made: The program.
        layers: Layers in the order of their inputs and outputs.
    """

    file: _ProgramFile
    made: Graph
    layers: list[IsolatedLayer] = field(default_factory=list)

    def add(self, op: Any, path: str, shape: Sequence[int]) -> None:
        """Add a layer with an input and an output of its own."""
        source, graph = f"layer{len(self.layers)}", self.file.graph
        rounding, dequantizing = self.file.rounding(op, path), self.file.dequantizing(op)
        behind = self.file.adding(op)
        read = only(rounding[0].inputs, "X")
        as_map = [1] * (len(graph.shape(read)) - len(shape))
        self._describe(source, [*shape, *as_map])
        names = {read: source}
        if rounding[0].type == "quantize_linear" and self.file.is_clipped(read):
            names[read] = f"{source}@clipped"
            self._describe(names[read], [*shape, *as_map])
            clip = operator("relu", {"X": source}, {"Out": names[read]}, {})
            self.made.operators.append(clip)
        copied = [*rounding, *dequantizing, op, *behind]
        names |= {_made(each): f"{source}@{_made(each)}" for each in copied}
        names[_made(copied[-1])] = f"{source}@made"
        for each in copied:
            self._copy(each, names)
        biases = [graph.weights.get(only(each.inputs, "Y")) for each in behind]
        self.layers.append(
            IsolatedLayer(
                path=path,
                weight=float_name(self.file.weight(op)),
                source=source,
                output=f"{source}@made",
                stored=self.file.stored(op),
                bias=next((each for each in biases if each is not None), None),
            )
        )

    def _copy(self, original: Any, names: Mapping[str, str]) -> None:
        op = framework_pb2.OpDesc()
        op.CopyFrom(original)
        graph = self.file.graph
        for slot in (*op.inputs, *op.outputs):
            for name in slot.arguments:
                if name in names:
                    self._describe(names[name], [-1] * len(graph.shape(name)), graph.dtype(name))
                else:
                    self.made.variables[name] = graph.variables[name]
                    if name in graph.weights:
                        self.made.weights[name] = graph.weights[name]
            slot.arguments[:] = [names.get(name, name) for name in slot.arguments]
        self.made.operators.append(op)

    def _describe(self, name: str, shape: Sequence[int], dtype: np.dtype = _FLOAT) -> None:
        self.made.variables.setdefault(name, variable(name, shape, dtype))


def _made(op: Any) -> str:
    """Return the output of a layer's operator."""
    return next(filter(None, (only(op.outputs, slot) for slot in ("Output", "Out", "Y"))), "")
