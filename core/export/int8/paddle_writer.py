"""Put a table of scales into a graph of Paddle's operators: int8 weights, quantized inputs.

The pattern is that of Paddle's quantized models: `quantize_linear` and `dequantize_linear` in front
of a layer, and the weight as int8 behind a `dequantize_linear` of its own. Runtimes that know it
compute in int8; in others the same operators run one by one.

Paddle Inference 3.1.1 misreads the pattern in a few places without reporting it:

- It multiplies a square weight by the scales of its rows, whatever the axis, and leaves the weight
  of a transposed convolution int8 while it takes the `dequantize_linear` away. These weights are
  cast and multiplied instead, which it folds into floats when it loads.
- It knows one grid per tensor. It copies that of the output of a concatenation to the inputs, and
  that of the input of an operator that moves or pools values to the output. Where grids differ, a
  copy of the tensor is quantized, which it takes for another tensor.
- If the output of a `scale` operator has a grid, it reads the grid of the input from uninitialized
  memory. There, too, a copy is quantized, and behind a `dropout`, of which it makes a `scale`.
- It scales a weight that several layers share once for each of them. Each gets its own.
- If the output of a convolution has a grid, it is rounded for all readers, a residual connection
  included. Where operators in float read it, a copy is quantized.
- It fuses additions with convolutions, where the model may round in between; see
  `core.targets.fused_additions`.
- It drops the grid in front of an operator that it does not compute in int8. There plain operators
  compute the steps.

Its `fc` rounds weights on wrong scales, and a linear layer in float has weights of four times the
size to read. So a linear layer of vectors is written as the convolution of a map of one pixel.

Behind a ReLU it takes the unsigned grid of the same absmax, whatever the file says; see
`unsigned_inputs`. Where a layer that runs several times has a sign, it reads a copy instead.

Paddle Lite's converter reads the pattern correctly, linear layers included, and drops no grid;
`copies_for_lite` says which copies it needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from paddle.base.proto import framework_pb2

from core.export.int8.weights import BITS, Entries, transposed_axis
from core.graph.batch_norm_folding import COPY
from core.graph.linear_layers import LAYER_SLOTS, layers_of
from core.graph.operators import attribute, names_of, operator, variable
from core.graph.program import Graph, makers_of
from core.quant.scales import Grid, LayerScales
from core.quant.weight_grid import broadcast, quantize_weight
from core.targets.fused_additions import Sums, plan_sums, summed
from core.targets.paddle_inference import (
    FLOAT_IN_PADDLE,
    unsigned_inputs,
    with_linear_as_convolutions,
)
from core.targets.paddle_lite import FLOAT_IN_LITE, copies_for_lite
from core.targets.processors import HIGHEST, Limit
from core.targets.tensor_copies import UNSIGNED, copies_for_paddle

Reader = Literal["paddle", "lite"]  # Paddle Inference, Paddle Lite

SHIFT = 1.5 * 2.0**23  # near which floats are whole: adding it rounds, half to even


def quantize_program(
    graph: Graph,
    table: Sequence[LayerScales],
    reader: Reader = "paddle",
    outputs: Mapping[str, Grid] = MappingProxyType({}),
) -> Graph:
    """Return a graph with the layers of the table in int8; the given one stays as it is.

    The runtime decides whether a grid is signed, see `unsigned_inputs`. Weights keep their names.

    Args:
        graph: Float32 graph with folded batch norms.
        table: An entry for each layer to quantize.
        reader: Runtime that will read the pattern.
        outputs: Grids of tensors that the model rounds for all readers. Paddle Inference is given
            some of them, see `rounded_for_all`, Paddle Lite none.

    Raises:
        ExportError: An entry fits no layer, or cannot be stored in int8.
    """
    if reader == "paddle":
        graph = with_linear_as_convolutions(graph, {entry.weight for entry in table})
    layers = _find_layers(graph, Entries(table))
    made = replace(
        graph, operators=[], variables=dict(graph.variables), weights=dict(graph.weights)
    )
    choose, plain = _READERS[reader]
    on_grids = {
        key: (layer.source, layer.absmax)
        for key, layer in layers.items()
        if layer.kind not in plain
    }
    sums = Sums()
    if reader == "paddle":
        sums = plan_sums(graph, on_grids, {name: grid.absmax for name, grid in outputs.items()})
    alone = [pair for pair in on_grids.values() if pair[0] not in sums.rounded]
    unsigned = unsigned_inputs(graph) if reader == "paddle" else None
    writer = _PaddleWriter(made, choose(graph, alone), makers_of(graph), plain, unsigned)
    _write_operators(graph, layers, sums, outputs, writer)
    return made


def _write_operators(
    graph: Graph,
    layers: Mapping[int, _PaddleLayer],
    sums: Sums,
    outputs: Mapping[str, Grid],
    writer: _PaddleWriter,
) -> None:
    """Copy the operators of a graph; layers read rounded inputs and int8 weights.

    Args:
        graph: Float graph with folded batch norms.
        layers: The layers to quantize, by the identity of their operator.
        sums: Plan of the additions.
        outputs: Grids of tensors that are rounded for all their readers.
        writer: Adds new operators to the graph that is written.
    """
    rounded: dict[str, str] = {}
    spare = {layer.weight: layer for layer in layers.values()}
    for original in graph.operators:
        op = framework_pb2.OpDesc()
        op.CopyFrom(original)
        if id(original) in layers:
            layer = layers[id(original)]
            slots = LAYER_SLOTS[op.type]
            _read(op, slots.source, writer.round_input(layer))
            _read(op, slots.weight, writer.dequantize_weight(layer))
        for slot in op.inputs:  # others that read a weight
            slot.arguments[:] = [
                writer.dequantize_weight(spare[name]) if name in spare else rounded.get(name, name)
                for name in slot.arguments
            ]
        (first, *_) = names_of(op.outputs)
        writer.graph.operators.append(summed(op) if first in sums.apart else op)
        for name in names_of(op.outputs):
            if name in sums.rounded:
                rounded[name] = writer.quantize(name, outputs[name].absmax)


@dataclass(frozen=True)
class _PaddleLayer:
    """Table entry of an operator; `axis` is that of the output channels in the weight."""

    kind: str
    source: str
    weight: str
    absmax: float
    axis: int | None
    per_channel: bool
    limit: Limit


def _find_layers(graph: Graph, entries: Entries) -> dict[int, _PaddleLayer]:
    """Return the layers of the table by the identity of their operator."""
    layers = {}
    for op, tensor, weight in layers_of(graph):
        entry = entries.find(weight)
        if entry is not None:
            axis = _axis(op, weight, graph.shape(weight), entry.per_channel)
            about = entry.input.absmax, axis, entry.per_channel, entry.limit
            layers[id(op)] = _PaddleLayer(op.type, tensor, weight, *about)
    entries.check_all_found()
    return layers


def channel_axis(op: Any) -> int | None:
    """Return the axis of output channels in a layer's weight; None if no axis counts them."""
    if op.type == "matmul_v2":
        return 0 if attribute(op, "trans_y", False) else 1
    if op.type.endswith("_transpose"):
        return 1 if attribute(op, "groups", 1) == 1 else None
    return 0


def _axis(op: Any, weight: str, shape: Sequence[int], per_channel: bool) -> int | None:
    """Return the axis of output channels; None if there is none, and none is needed."""
    if not op.type.endswith("_transpose"):
        return channel_axis(op)
    return transposed_axis(weight, shape, attribute(op, "groups", 1)) if per_channel else None


def _read(op: Any, parameter: str, name: str) -> None:
    for slot in op.inputs:
        if slot.parameter == parameter:
            slot.arguments[:] = [name]


_READERS = MappingProxyType(
    {"paddle": (copies_for_paddle, FLOAT_IN_PADDLE), "lite": (copies_for_lite, FLOAT_IN_LITE)}
)


@dataclass
class _PaddleWriter:
    """Adds operators, variables and weights to a graph.

    Attributes:
        graph: It is changed.
        copies: The tensors, with their absmax, of which a copy is quantized.
        makers: Kind of the operator that makes each tensor.
        plain: Kinds of layers in front of which plain operators round.
        unsigned: See `unsigned_inputs`; None where signs are as the file has them.
        uses: Number of layers that read each int8 weight so far.
        floats: Values of each int8 weight before it was rounded.
        rounded: Name of the rounded values of each quantized tensor, by tensor and absmax.
    """

    graph: Graph
    copies: set[tuple[str, float]]
    makers: dict[str, str]
    plain: tuple[str, ...]
    unsigned: Collection[str] | None = None
    uses: Counter[str] = field(default_factory=Counter)
    floats: dict[str, np.ndarray] = field(default_factory=dict)
    rounded: dict[tuple[str, float, bool], str] = field(default_factory=dict)

    def round_input(self, layer: _PaddleLayer) -> str:
        """Return the name of a layer's input, rounded to its grid."""
        if layer.kind in self.plain:
            return self._round_plainly(layer.source, layer.absmax)
        clipped = self.makers.get(layer.source) in UNSIGNED
        signs = self.unsigned is not None and COPY.sub("", layer.weight) not in self.unsigned
        return self.quantize(layer.source, layer.absmax, signed=clipped and signs)

    def quantize(self, tensor: str, absmax: float, signed: bool = False) -> str:
        """Return the name of a tensor's values rounded to a grid; they are computed once.

        Args:
            tensor: Name.
            absmax: End of the grid.
            signed: Whether the grid must have a sign, though the tensor comes from a ReLU.
        """
        key = tensor, absmax, signed
        if key not in self.rounded:
            copied = signed or (tensor, absmax) in self.copies
            source = self._copy(tensor, signed) if copied else tensor
            scale = np.array([absmax], np.float32)
            steps = self._variable(f"{source}@int8", self.graph.shape(tensor), "int8")
            self._linear("quantize_linear", source, source, steps, scale, None)
            self.rounded[key] = self._dequantize(steps, source, scale, None)
        return self.rounded[key]

    def dequantize_weight(self, layer: _PaddleLayer) -> str:
        """Return the name of a weight's float values; int8 values take its place, or a copy's."""
        axis, count = layer.axis, self.uses[layer.weight]
        self.uses[layer.weight] += 1
        name = layer.weight if count == 0 else f"{layer.weight}@use{count + 1}"
        if count == 0:
            self.floats[name] = self.graph.weights[name]
        weight = self.floats[layer.weight]
        steps, absmax = quantize_weight(weight, axis, layer.limit, layer.per_channel)
        self._weight(name, steps)
        if layer.kind in self.plain:
            factor = broadcast(absmax / np.float32(HIGHEST), steps.ndim, axis)
            return self._multiply(name, factor)
        channels = np.broadcast_to(absmax, steps.shape[axis or 0])  # one scale for each, always
        return self._dequantize(name, name, np.ascontiguousarray(channels), axis)

    def _round_plainly(self, tensor: str, absmax: float) -> str:
        """Compute the values of a signed grid without the operators that the runtime takes away.

        Nor with `round`, which oneDNN does not compute, and is slow.
        """
        key = tensor, -absmax, True  # not those of `quantize`
        if key in self.rounded:
            return self.rounded[key]
        stem, shape = f"{tensor}@{len(self.rounded)}", self.graph.shape(tensor)
        names = [f"{stem}@{role}" for role in ("scaled", "clipped", "shifted", "whole", "float")]
        scaled, clipped, shifted, whole, made = (
            self._variable(name, shape, "float32") for name in names
        )
        self._weight(f"{stem}@steps", np.array([HIGHEST / np.float64(absmax)], np.float32))
        self._weight(f"{stem}@step", np.array([np.float64(absmax) / HIGHEST], np.float32))
        self._weight(f"{stem}@up", np.array([SHIFT], np.float32))
        self._weight(f"{stem}@down", np.array([-SHIFT], np.float32))
        limits = {"min": float(-HIGHEST - 1), "max": float(HIGHEST)}
        self.graph.operators += [
            _binary("mul", tensor, f"{stem}@steps", scaled),
            operator("clip", {"X": scaled}, {"Out": clipped}, limits),
            _binary("add", clipped, f"{stem}@up", shifted),
            _binary("add", shifted, f"{stem}@down", whole),
            _binary("mul", whole, f"{stem}@step", made),
        ]
        self.rounded[key] = made
        return made

    def _copy(self, tensor: str, signed: bool) -> str:
        number = sum(name == tensor for name, *_ in self.rounded) + 1
        name = self._variable(f"{tensor}@copy{number}", self.graph.shape(tensor), "float32")
        # the ReLU of what comes from one is a copy, and keeps the grid unsigned
        if self.makers.get(tensor) in UNSIGNED and not signed:
            self.graph.operators.append(operator("relu", {"X": tensor}, {"Out": name}, {}))
        else:
            self._weight(f"{name}@one", np.ones(1, np.float32))
            self.graph.operators.append(_binary("mul", tensor, f"{name}@one", name))
        return name

    def _dequantize(self, steps: str, stem: str, absmax: np.ndarray, axis: int | None) -> str:
        made = self._variable(f"{stem}@float", self.graph.shape(steps), "float32")
        self._linear("dequantize_linear", steps, stem, made, absmax, axis)
        return made

    def _multiply(self, steps: str, factor: np.ndarray) -> str:
        cast, made = (
            self._variable(f"{steps}@{role}", self.graph.shape(steps), "float32")
            for role in ("cast", "float")
        )
        self._weight(f"{steps}@scale", factor)
        kinds = {"in_dtype": framework_pb2.VarType.INT8, "out_dtype": framework_pb2.VarType.FP32}
        self.graph.operators += [
            operator("cast", {"X": steps}, {"Out": cast}, kinds),
            _binary("mul", cast, f"{steps}@scale", made),
        ]
        return made

    def _linear(
        self, kind: str, source: str, stem: str, made: str, absmax: np.ndarray, axis: int | None
    ) -> None:
        self._weight(f"{stem}@scale", absmax)
        self._weight(f"{stem}@zero_point", np.zeros(absmax.shape, np.int32))
        inputs = {"X": source, "Scale": f"{stem}@scale", "ZeroPoint": f"{stem}@zero_point"}
        attributes = {
            "bit_length": BITS,
            "is_test": True,
            "only_observer": False,
            "qmax": HIGHEST,
            "qmin": -HIGHEST - 1,
            "quant_axis": -1 if axis is None else axis,
            "round_type": 0,  # half to even
        }
        self.graph.operators.append(operator(kind, inputs, {"Y": made}, attributes))

    def _variable(self, name: str, shape: Sequence[int], dtype: str) -> str:
        self.graph.variables[name] = variable(name, shape, np.dtype(dtype))
        return name

    def _weight(self, name: str, value: np.ndarray) -> None:
        self.graph.weights[name] = value
        self.graph.variables[name] = variable(name, value.shape, value.dtype, persistable=True)


def _binary(kind: str, x: str, y: str, out: str) -> Any:
    return operator(f"elementwise_{kind}", {"X": x, "Y": y}, {"Out": out}, {"axis": -1})
