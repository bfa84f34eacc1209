"""Networks whose int8 layers are compared one by one, and files of them with one wrong number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paddle
from onnx import numpy_helper
from paddle import nn
from paddle.static import InputSpec

from core.export.files import MODEL, ONNX, PARAMS
from core.export.int8.exporter import Int8Exporter
from core.export.int8.file_comparison import FileComparison
from core.export.int8.layerwise import LayerDifference
from core.graph.batch_norm_folding import fold_batch_norms
from core.graph.operators import only
from core.graph.program import Graph
from core.graph.trace import trace
from core.quant.apply import apply_quantization
from core.quant.grid_plan import GridPlan
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.runtimes.formats import format_of
from core.targets.names import BACKENDS, Backend, Format
from tests.networks import int8_layers

F = nn.functional


KINDS: tuple[Format, ...] = ("paddle", "onnx")


RUNTIMES: dict[Format, list[Backend]] = {
    kind: [backend for backend in BACKENDS if format_of(backend) == kind] for kind in KINDS
}


class Net(nn.Layer):
    """Every kind of layer, each behind a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 3, padding=1, bias_attr=False)
        self.norm = nn.BatchNorm2D(8)
        self.depthwise = nn.Conv2D(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2D(8, 16, 3, padding=1, groups=2)
        self.up = nn.Conv2DTranspose(16, 6, 2, stride=2)
        self.tokens = nn.Linear(6, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = F.hardswish(self.depthwise(F.relu(self.norm(self.stem(x)))))
        y = F.tanh(self.up(F.relu(self.grouped(y))))
        y = F.hardswish(self.tokens(y.flatten(2).transpose([0, 2, 1])))
        return self.head(y.mean(1))


class Odd(nn.Layer):
    """Layers that are not what they seem."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2D(3, 6, 3, padding=1)
        self.norms = nn.LayerList([nn.BatchNorm2D(6), nn.BatchNorm2D(6)])
        self.reflected = nn.Conv2D(12, 6, 3, padding=1, padding_mode="reflect")
        self.dilated = nn.Conv2D(6, 6, 3, padding=12, dilation=12, stride=2)
        self.bare = nn.Conv2D(6, 4, 1, bias_attr=False)
        self.shift = self.create_parameter([4])
        self.before = nn.Conv2D(4, 4, 1, bias_attr=False)
        self.bias = self.create_parameter([4])
        self.norm = nn.BatchNorm2D(4)
        self.joined = nn.Conv2D(8, 4, 1)
        self.pooled, self.flat = nn.Conv2D(4, 4, 1), nn.Linear(4, 4)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        y = paddle.concat([norm(self.shared(image)) for norm in self.norms], 1)
        y = self.dilated(x=F.relu(self.reflected(y)))
        y = F.relu(self.bare(y) + self.shift.reshape([1, -1, 1, 1]))
        z = self.norm(self.before(y) + self.bias.reshape([1, -1, 1, 1]))
        y = self.joined(paddle.concat([F.sigmoid(z), F.tanh(z)], 1))
        y = self.pooled(F.max_pool2d(F.relu(y), 2)).mean([2, 3])
        return y + self.flat(y.mean(0))


class Chaos(nn.Layer):
    """A net that magnifies what rounding does, until little is left."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LayerList(
            [nn.Conv2D(3 if i == 0 else 8, 8, 3, padding=1) for i in range(9)]
        )
        self.last = nn.Conv2D(8, 8, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        for layer in self.layers:
            x = paddle.sin(6 * layer(x))
        return self.last(x)


class Skip(nn.Layer):
    """Two residual blocks; what skips them is rounded for the additions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2D(3, 8, 3, padding=1), nn.ReLU()
        self.convs = nn.LayerList([nn.Conv2D(8, 8, 3, padding=1) for _ in range(4)])
        self.acts = nn.LayerList([nn.ReLU() for _ in range(4)])
        self.head = nn.Linear(8, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.act(self.stem(x))
        for index in (0, 2):
            y = self.convs[index + 1](self.acts[index](self.convs[index](x)))
            x = self.acts[index + 1](x + y)
        return self.head(x.mean([2, 3]))


class Pair(nn.Layer):
    """A convolution whose output the next one reads on its grid."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2D(3, 8, 3), nn.Conv2D(8, 4, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.second(F.relu(self.first(x))).mean([2, 3])


def randomize(model: nn.Layer) -> nn.Layer:
    """Draw weights, and biases so small that the answers tell images apart."""
    return int8_layers.randomize(model, biases=0.01)


def quantized(model: nn.Layer, size: int = 12, outputs: Any = (), **rounding: Any) -> nn.Layer:
    paddle.seed(0)
    kinds = ("Conv2D", "Conv2DTranspose", "Linear")
    how = Rounding(processors="any", **rounding)
    choice = select_layers(model, how, kinds, ())
    norms = {"stem": "norm"} if isinstance(model, Net) else {}
    unsigned = frozenset(path for path, _ in model.named_sublayers())
    layout = GridPlan(norms, unsigned, dict.fromkeys(outputs, ()))
    batches = [[paddle.rand([8, 3, size, size])] for _ in range(2)]
    apply_quantization(model, choice, how, batches, "abs_max", layout)
    return model


def images(size: int = 12) -> list[list[np.ndarray]]:
    """Return a batch of one and a batch of two, bright and dark."""
    rng = np.random.default_rng(1)
    pictures = rng.random((3, 3, size, size), np.float32)
    pictures *= np.float32([1.0, 0.1, 0.5]).reshape(3, 1, 1, 1)
    return [[pictures[:1]], [pictures[1:]]]


def prepared(model: nn.Layer, target: str = "openvino", size: int = 12) -> Int8Exporter:
    specs = [InputSpec([None, 3, size, size], "float32", "image")]
    graph = Graph.from_trace(trace(model, specs, model))
    fold_batch_norms(graph)
    return Int8Exporter(model, model, graph, target)


def differences(rounded: Int8Exporter, folder: Path, size: int = 12) -> list[LayerDifference]:
    found: list[LayerDifference] = []
    for kind in KINDS:
        found += FileComparison(rounded, folder).layer_by_layer(kind, RUNTIMES[kind], images(size))[
            1
        ]
    return found


def wrong(found: list[LayerDifference]) -> set[tuple[str, str]]:
    return {(each.runtime, each.layer) for each in found if not each.passes}


Edit = Callable[[np.ndarray], np.ndarray]


def grow_one_scale(scale: np.ndarray) -> np.ndarray:
    made = scale.copy()
    made.reshape(-1)[1] *= 1.02
    return made


def move_one_weight(steps: np.ndarray) -> np.ndarray:
    """Change a byte by two steps, which halving leaves one of."""
    made = steps.copy()
    place = np.abs(steps.reshape(-1).astype(int)).argmin()
    made.reshape(-1)[place] += 2
    return made


def grow(scale: np.ndarray) -> np.ndarray:
    return (scale * np.float32(1.01)).astype(scale.dtype)


def move_one_bias(bias: np.ndarray) -> np.ndarray:
    made = bias.copy()
    made.reshape(-1)[2] += 0.003 * np.abs(bias).max()
    return made


CORRUPTIONS: dict[str, Edit] = {
    "scale": grow_one_scale,
    "weight": move_one_weight,
    "input": grow,
    "bias": move_one_bias,
}


def names_in_onnx(model: onnx.ModelProto, layer: str) -> dict[str, str]:
    """Return the names of the initializers that a corruption of a layer changes."""
    makers = {name: node for node in model.graph.node for name in node.output}
    (node,) = (n for n in model.graph.node if f"{layer}.weight@float" in n.input)
    bias = node.input[2] if len(node.input) > 2 else ""
    if node.op_type == "MatMul":
        (add,) = (n for n in model.graph.node if node.output[0] in n.input)
        bias = add.input[1]
    bias = makers[bias].input[0] if bias in makers else bias
    scale = makers[node.input[0]].input[1]
    weight = f"{layer}.weight"
    return {"scale": f"{weight}@scale", "weight": weight, "input": scale, "bias": bias}


def names_in_program(graph: Graph, layer: str) -> dict[str, str]:
    weight = f"{layer}.weight"
    makers = {name: op for op in graph.operators for s in op.outputs for name in s.arguments}
    (op,) = (
        op
        for op in graph.operators
        if f"{weight}@float" in [name for s in op.inputs for name in s.arguments]
    )
    rounding = makers[only(op.inputs, "Input") or only(op.inputs, "X")]
    grid = only(rounding.inputs, "Scale") or only(rounding.inputs, "Y")
    folded = graph.folded.get(weight, ("", ""))[0]
    bias = f"{folded or layer}.bias"
    return {"scale": f"{weight}@scale", "weight": weight, "input": grid, "bias": bias}


def corrupt(folder: Path, kind: Format, layer: str, what: str, norms: dict[str, str]) -> None:
    """Change one array of a file, and nothing else."""
    edit = CORRUPTIONS[what]
    if kind == "onnx":
        model = onnx.load(folder / ONNX)
        name = names_in_onnx(model, layer)[what]
        (tensor,) = (each for each in model.graph.initializer if each.name == name)
        tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor)), name))
        (folder / ONNX).write_bytes(model.SerializeToString())
        return
    graph = Graph.from_files(folder / MODEL, folder / PARAMS)
    graph.folded = {f"{each}.weight": (norm, "") for each, norm in norms.items()}
    name = names_in_program(graph, layer)[what]
    graph.weights[name] = edit(graph.weights[name])
    graph.write(folder / MODEL, folder / PARAMS)
