"""Changes that a compression has made: strategies, cost, each layer of the exported files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, NodeProto, TensorProto

from core.errors import ExportError
from core.export.files import ONNX
from core.export.int8.isolated import path_of
from core.runtimes.description import read_description
from core.settings.config import load_yaml

CONFIG = "config.yml"  # file of a training, with its recipe as it was run
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class LayerChange:
    """A layer with a weight, in the float files and in those of the compressed model.

    Attributes:
        layer: Path of the layer in the network.
        kind: Operator in ONNX.
        before: Number of output channels in the float model; None: it has no such layer.
        after: Number in the compressed model.
        in_int8: Whether the compressed file has it in int8.
    """

    layer: str
    kind: str
    before: int | None
    after: int
    in_int8: bool


@dataclass(frozen=True)
class Changes:
    """Changes that a compression has made.

    Attributes:
        strategies: Strategies of the recipe, as they were run.
        parameters: Parameters of the float and of the compressed model; None where not known.
        macs: Multiply-accumulates of one run of each.
        layers: Layers of the compressed file in their order.
    """

    strategies: tuple[dict[str, Any], ...] = ()
    parameters: tuple[int | None, int | None] = (None, None)
    macs: tuple[int | None, int | None] = (None, None)
    layers: tuple[LayerChange, ...] = ()

    @property
    def in_int8(self) -> int:
        """Return the number of layers that are in int8."""
        return sum(each.in_int8 for each in self.layers)

    @property
    def cut(self) -> int:
        """Return the number of layers that have other output channels than before."""
        return sum(each.before not in (None, each.after) for each in self.layers)


def read_changes(training: Path, before: Path, after: Path) -> Changes:
    """Read what a compression has changed.

    Args:
        training: Folder of its training.
        before: Folder of the exported float model.
        after: Folder of the exported compressed model.

    Raises:
        ExportError: A folder is no export with an ONNX file.
        ConfigError: The config of the training cannot be read.
    """
    slim = load_yaml(training / CONFIG).get("slim") or {}
    reports = [read_description(folder) for folder in (before, after)]
    costs = [each.report for each in reports if each and each.report]
    parameters = [each.parameters for each in costs]
    macs = [each.macs for each in costs]
    layers = read_layers(before / ONNX, after / ONNX)
    return Changes(tuple(slim.get("strategies", ())), _pair(parameters), _pair(macs), layers)


def read_layers(before: Path, after: Path) -> tuple[LayerChange, ...]:
    """Compare the layers of two ONNX files.

    Raises:
        ExportError: One cannot be read.
    """
    known = {name: channels for name, _, channels, _ in _layers_of(before)}
    return tuple(
        LayerChange(name, kind, known.get(name), channels, in_int8)
        for name, kind, channels, in_int8 in _layers_of(after)
    )


def _pair(values: Sequence[int]) -> tuple[int | None, int | None]:
    """Return the figures of both models, if both are known."""
    return (values[0], values[1]) if len(values) == 2 else (None, None)


def _layers_of(file: Path) -> Iterator[tuple[str, str, int, bool]]:
    """Yield path, operator, output channels and whether it is in int8 of each layer of a file."""
    try:
        model: ModelProto = onnx.load(str(file))
    except (OSError, DecodeError) as error:
        raise ExportError(f"{file}: cannot be read: {error}") from error
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in _LAYERS:
            weight = _weight_of(node, weights, makers)
            if weight is not None:
                in_int8 = weight.data_type in (TensorProto.INT8, TensorProto.UINT8)
                yield path_of(weight.name), node.op_type, _channels(node, weight), in_int8


def _weight_of(
    node: NodeProto, weights: Mapping[str, TensorProto], makers: Mapping[str, NodeProto]
) -> TensorProto | None:
    """Return the stored weight of a layer; None of a product of two tensors."""
    name = node.input[1]
    if name in makers and makers[name].op_type == "DequantizeLinear":
        name = makers[name].input[0]
    return weights.get(name)


def _channels(node: NodeProto, weight: TensorProto) -> int:
    settings = {each.name: each.i for each in node.attribute}
    if node.op_type == "ConvTranspose":
        return int(weight.dims[1] * settings.get("group", 1))
    last = node.op_type == "MatMul" or (node.op_type == "Gemm" and not settings.get("transB"))
    return int(weight.dims[-1] if last else weight.dims[0])
