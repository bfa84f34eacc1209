"""One layer as an exported model: copies of it, side by side, on one input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from paddle.base.proto import framework_pb2

from core.errors import ExportError
from core.graph.operators import operator, variable
from core.graph.program import Graph
from core.settings.config import suggest
from core.targets.names import Format

Kind = Literal["conv2d", "conv2d_transpose", "matmul"]
HeightWidth = tuple[int, int]

_OPSET, _IR_VERSION = 13, 8
_FLOAT = np.dtype("float32")
_PERIOD = 4099  # weights repeat after so many numbers: drawing millions takes longer than running


@dataclass(frozen=True)
class LayerShape:
    """Shape of a layer, which decides how long it takes for a batch of 1.

    Attributes:
        size: Height and width of the input; of a matmul, rows of the input and 1.
        padding: [vertical, horizontal], or [top, bottom, left, right].
    """

    kind: Kind
    in_channels: int
    out_channels: int
    size: HeightWidth
    kernel: HeightWidth = (1, 1)
    stride: HeightWidth = (1, 1)
    padding: HeightWidth | tuple[int, int, int, int] = (0, 0)
    dilation: HeightWidth = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ExportError(f"kind: no layer {self.kind!r}{suggest(self.kind, get_args(Kind))}")
        counts = (self.in_channels, self.out_channels, self.groups, *self.size)
        if min(*counts, *self.kernel, *self.stride, *self.dilation) < 1 or min(self.padding) < 0:
            raise ExportError(f"{self}: sizes must be 1 or more, padding 0 or more")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ExportError(f"{self}: groups must divide the channels")
        plain = {*self.kernel, *self.stride, *self.dilation, self.groups, self.size[1]} == {1}
        if self.kind == "matmul" and not (plain and max(self.padding) == 0):
            raise ExportError(f"{self}: a matmul has channels and rows, nothing else")
        if min(self.output_size) < 1:
            raise ExportError(f"{self}: the kernel is larger than the padded input")

    def __str__(self) -> str:
        if self.kind == "matmul":
            return f"matmul {self.in_channels}->{self.out_channels} on {self.size[0]} rows"
        return (
            f"{self.kind} {self.in_channels}->{self.out_channels} kernel {_by(self.kernel)} "
            f"stride {_by(self.stride)} padding {_by(self.pads)} dilation {_by(self.dilation)} "
            f"groups {self.groups} on {_by(self.size)}"
        )

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Top, bottom, left, right."""
        if len(self.padding) == 2:
            vertical, horizontal = self.padding
            return vertical, vertical, horizontal, horizontal
        return self.padding

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[1, channels, height, width], or [rows, channels]."""
        if self.kind == "matmul":
            return self.size[0], self.in_channels
        return 1, self.in_channels, *self.size

    @property
    def output_size(self) -> HeightWidth:
        """Height and width of the output; of a matmul, as of its input."""
        top, bottom, left, right = self.pads
        pads = (top + bottom, left + right)
        sizes = []
        for size, kernel, stride, dilation, pad in zip(
            self.size, self.kernel, self.stride, self.dilation, pads
        ):
            reach = dilation * (kernel - 1) + 1
            if self.kind == "conv2d_transpose":
                sizes.append((size - 1) * stride - pad + reach)
            else:
                sizes.append((size + pad - reach) // stride + 1)
        return sizes[0], sizes[1]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """As Paddle and ONNX both have it."""
        if self.kind == "matmul":
            return self.in_channels, self.out_channels
        if self.kind == "conv2d_transpose":
            return self.in_channels, self.out_channels // self.groups, *self.kernel
        return self.out_channels, self.in_channels // self.groups, *self.kernel


def write_layer_model(shape: LayerShape, copies: int, folder: Path, form: Format) -> None:
    """Write a model in which copies of a layer, with bias, read the same input.

    Each ends in the mean over all positions, so outputs are small. The weights of the
    copies differ, or a runtime would compute one of them only.
    """
    weights = {
        f"{name}_{index}": np.resize(
            np.random.default_rng(index).normal(size=_PERIOD).astype(_FLOAT), size
        )
        for index in range(copies)
        for name, size in (("weight", shape.weight_shape), ("bias", (shape.out_channels,)))
    }
    if form == "paddle":
        _write_paddle(shape, copies, weights, folder)
    else:
        _write_onnx(shape, copies, weights, folder)


def _write_onnx(
    shape: LayerShape, copies: int, weights: dict[str, np.ndarray], folder: Path
) -> None:
    nodes: list[Any] = []
    for index in range(copies):
        layer, product, mean = f"layer_{index}", f"product_{index}", f"mean_{index}"
        weight, bias = f"weight_{index}", f"bias_{index}"
        if shape.kind == "matmul":
            nodes.append(helper.make_node("MatMul", ["x", weight], [product]))
            nodes.append(helper.make_node("Add", [product, bias], [layer]))
            nodes.append(helper.make_node("ReduceMean", [layer], [mean], axes=[0], keepdims=1))
            continue
        top, bottom, left, right = shape.pads
        convolution = helper.make_node(
            "Conv" if shape.kind == "conv2d" else "ConvTranspose",
            ["x", weight, bias],
            [layer],
            kernel_shape=shape.kernel,
            strides=shape.stride,
            pads=[top, left, bottom, right],
            dilations=shape.dilation,
            group=shape.groups,
        )
        nodes += [convolution, helper.make_node("GlobalAveragePool", [layer], [mean])]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape.input_shape)],
        [
            helper.make_tensor_value_info(f"mean_{index}", TensorProto.FLOAT, _mean_shape(shape))
            for index in range(copies)
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def _write_paddle(
    shape: LayerShape, copies: int, weights: dict[str, np.ndarray], folder: Path
) -> None:
    graph = Graph(
        operators=[],
        variables={"x": variable("x", shape.input_shape, _FLOAT)},
        weights=weights,
        inputs=["x"],
        outputs=[f"mean_{index}" for index in range(copies)],
        version=0,
        operator_versions=framework_pb2.OpVersionMap(),
    )
    for name, array in weights.items():
        graph.variables[name] = variable(name, array.shape, _FLOAT, persistable=True)
    matmul = shape.kind == "matmul"
    full = (shape.size[0],) if matmul else (1,)
    space: tuple[int, ...] = () if matmul else shape.output_size
    for index in range(copies):
        layer, product, mean = f"layer_{index}", f"product_{index}", f"mean_{index}"
        for name in (layer, product):
            graph.variables[name] = variable(name, (*full, shape.out_channels, *space), _FLOAT)
        graph.variables[mean] = variable(mean, _mean_shape(shape), _FLOAT)
        graph.operators += [
            _paddle_layer(shape, f"weight_{index}", product),
            operator(
                "elementwise_add", {"X": product, "Y": f"bias_{index}"}, {"Out": layer}, {"axis": 1}
            ),
            _paddle_mean(layer, mean, matmul),
        ]
    graph.write(folder / "model.pdmodel", folder / "model.pdiparams")


def _paddle_layer(shape: LayerShape, weight: str, product: str) -> Any:
    if shape.kind == "matmul":
        sides = {"trans_x": False, "trans_y": False}
        return operator("matmul_v2", {"X": "x", "Y": weight}, {"Out": product}, sides)
    # the names that paddle.nn.functional chooses
    alone = shape.groups == shape.in_channels > 1 and (
        shape.kind == "conv2d" or shape.out_channels == shape.groups
    )
    made = operator(
        f"depthwise_{shape.kind}" if alone else shape.kind,
        {"Input": "x", "Filter": weight},
        {"Output": product},
        {"groups": shape.groups, "padding_algorithm": "EXPLICIT", "data_format": "NCHW"},
    )
    _add_integers(made, "strides", shape.stride)
    _add_integers(made, "paddings", shape.pads)
    _add_integers(made, "dilations", shape.dilation)
    return made


def _paddle_mean(layer: str, mean: str, matmul: bool) -> Any:
    if matmul:
        made = operator("reduce_mean", {"X": layer}, {"Out": mean}, {"keep_dim": True})
        _add_integers(made, "dim", [0])
        return made
    kind: dict[str, Any] = {"pooling_type": "avg", "global_pooling": True, "data_format": "NCHW"}
    made = operator("pool2d", {"X": layer}, {"Out": mean}, kind)
    _add_integers(made, "ksize", [1, 1])
    return made


def _mean_shape(shape: LayerShape) -> tuple[int, ...]:
    return (1, shape.out_channels) if shape.kind == "matmul" else (1, shape.out_channels, 1, 1)


def _add_integers(made: Any, name: str, values: Sequence[int]) -> None:
    made.attrs.add(name=name, type=framework_pb2.AttrType.INTS).ints.extend(values)


def _by(values: Sequence[int]) -> str:
    """Write sizes as people do, one number where all are equal."""
    return str(values[0]) if len(set(values)) == 1 else "x".join(str(value) for value in values)
