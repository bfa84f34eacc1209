"""Isolated layers of int8 files against sums of products written out in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paddle
import pytest
from onnx import numpy_helper
from paddle import nn
from paddle.static import InputSpec

from core.errors import ExportError
from core.export.int8.isolated import IsolatedLayer
from core.export.int8.isolated_onnx import isolate_onnx
from core.export.int8.isolated_program import isolate_program
from core.export.int8.onnx_writer import quantize_onnx
from core.export.int8.paddle_writer import quantize_program
from core.export.onnx.convert import convert_to_onnx
from core.graph.batch_norm_folding import fold_batch_norms
from core.graph.operators import only
from core.graph.program import Graph
from core.graph.trace import trace
from core.quant.scales import Grid, LayerScales
from core.runtimes.formats import format_of
from core.runtimes.predictor import load_predictor
from core.targets.instructions import multiplies_int8_exactly
from core.targets.names import BACKENDS, Backend
from core.targets.presets import PRESETS
from core.targets.processors import Limit
from tests.networks.loops import convolved, spread

pytestmark = pytest.mark.int8

ABSMAX = 2.5
SHAPE = (2, 8, 12, 10)
VECTORS = ("vector", "vector_without_bias")
ONNX_BACKENDS = [backend for backend in BACKENDS if format_of(backend) == "onnx"]


class Kinds(nn.Layer):
    """A layer of each kind; all read the image, or what a ReLU leaves of it."""

    def __init__(self, clipped: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2D(8, 16, 3, padding=1)
        self.strided_without_bias = nn.Conv2D(8, 6, 3, stride=2, bias_attr=False)
        self.pointwise = nn.Conv2D(8, 5, 1)
        self.depthwise = nn.Conv2D(8, 8, 3, groups=8)
        self.grouped = nn.Conv2D(8, 12, 3, padding=1, groups=2)
        self.transposed = nn.Conv2DTranspose(8, 6, 3, stride=2)
        self.transposed_depthwise = nn.Conv2DTranspose(8, 8, 2, stride=2, groups=8)
        self.vector = nn.Linear(8, 7)
        self.vector_without_bias = nn.Linear(8, 8, bias_attr=False)
        self.sequence = nn.Linear(10, 6)
        self.sequence_without_bias = nn.Linear(10, 10, bias_attr=False)
        self.clipped = clipped

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        image = nn.functional.relu(image) if self.clipped else image
        vector = image[:, :, 0, 0]
        vector = nn.functional.relu(vector) if self.clipped else vector
        return {
            f"{name}_output": layer(vector if name in VECTORS else image)
            for name, layer in self.named_children()
        }


def randomize(model: nn.Layer) -> nn.Layer:
    rng = np.random.default_rng(0)
    for tensor in model.parameters():
        values = rng.normal(size=tensor.shape)
        if tensor.ndim > 1:
            values[(slice(None),) * (tensor.ndim - 1) + (0,)] *= 3  # scales that differ
        tensor.set_value(values.astype("float32"))
    model.eval()
    return model


def build(model: nn.Layer, shape: tuple[int, ...] = SHAPE) -> Graph:
    graph = Graph.from_trace(trace(model, [InputSpec([None, *shape[1:]], "float32", "image")]))
    fold_batch_norms(graph)
    return graph


def to_onnx(graph: Graph) -> onnx.ModelProto:
    return onnx.load_model_from_string(convert_to_onnx(graph))


def table_of(
    model: nn.Layer, signed: bool, per_channel: bool, limit: Limit = "none"
) -> list[LayerScales]:
    grid = Grid(ABSMAX, signed=signed)
    return [
        LayerScales(f"{name}.weight", grid, per_channel=per_channel, limit=limit)
        for name, layer in model.named_sublayers()
        if hasattr(layer, "weight")
    ]


def feed(name: str, positive: bool = False) -> np.ndarray:
    """Return values in between the steps and beyond their ends."""
    x = np.random.default_rng(1).normal(size=SHAPE).astype("float32") * 1.5
    x = np.abs(x) if positive else x
    return x[:, :, 0, 0] if name in VECTORS else x


SHAPES = {name: feed(name).shape for name, _ in Kinds().named_children()}


def rounded(x: np.ndarray, signed: bool) -> np.ndarray:
    lowest, highest = (-128, 127) if signed else (0, 255)
    step = ABSMAX / highest
    return np.clip(np.rint(x.astype("float64") / step), lowest, highest) * step


def stored_in_onnx(file: onnx.ModelProto, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of a weight and what a step is, along its axis."""
    arrays = {each.name: numpy_helper.to_array(each) for each in file.graph.initializer}
    steps, scale = arrays[f"{name}.weight"], arrays[f"{name}.weight@scale"].astype("float64")
    (node,) = (n for n in file.graph.node if n.input[0] == f"{name}.weight")
    shape = [1] * steps.ndim
    if scale.ndim:
        shape[node.attribute[0].i] = -1
    return steps, scale.reshape(shape)


def stored_in_program(file: Graph, name: str, twice: bool) -> np.ndarray:
    """Return a weight; `twice`: rounded by channel once more, as Paddle Inference does it."""
    steps, scale = file.weights[f"{name}.weight"], file.weights[f"{name}.weight@scale"]
    if scale.ndim == steps.ndim:  # plain operators multiply by it
        return steps * scale.astype("float64")
    absmax = scale.reshape([-1] + [1] * (steps.ndim - 1))
    weight = (steps / 127).astype("float32") * absmax
    if twice:
        others = tuple(range(1, steps.ndim))
        again = np.float32(127) * (np.float32(1) / np.abs(weight).max(axis=others, keepdims=True))
        weight = np.rint(weight * again) / again.astype("float64")
    return weight[:, :, 0, 0].T if name in VECTORS else weight


def reference(
    name: str, layer: nn.Layer, positive: bool, signed: bool, weight: np.ndarray, step: Any = None
) -> np.ndarray:
    """Compute what a layer of a file makes of `feed`.

    Args:
        name: Of the layer.
        layer: In float.
        positive: Whether the feed is.
        signed: Whether the grid of the input has a sign.
        weight: As it is in the file.
        step: Of the weight, where the bias is rounded to the steps of the products.
    """
    x = rounded(feed(name, positive), signed)
    if isinstance(layer, nn.Linear):
        made = x @ weight
    else:
        made = (convolved if isinstance(layer, nn.Conv2D) else spread)(x, weight, layer)
    if layer.bias is None:
        return made
    bias = layer.bias.numpy().astype("float64")
    if step is not None:
        products = np.ravel(step) * ABSMAX / (127 if signed else 255)
        bias = np.rint(bias / products) * products
    return made + (bias if isinstance(layer, nn.Linear) else bias[:, None, None])


def run(
    folder: Path, backend: Backend, layers: list[IsolatedLayer], positive: bool
) -> dict[str, np.ndarray]:
    predictor = load_predictor(folder, backend, own=True)
    feeds = {}
    for layer in layers:
        x = feed(layer.path, positive)
        maps = layer.stored.steps.ndim == 4 and x.ndim == 2
        feeds[layer.source] = x[:, :, None, None] if maps else x
    made = predictor.run(*[feeds[port.name] for port in predictor.description.inputs])
    return {layer.path: made[layer.output] for layer in layers}


def close(found: np.ndarray, wanted: np.ndarray, what: str) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max(), what


@pytest.fixture(scope="module")
def plain() -> tuple[nn.Layer, onnx.ModelProto]:
    model = randomize(Kinds())
    return model, to_onnx(build(model))


@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "one scale"])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("target", PRESETS)
def test_every_kind_of_layer_in_onnx(
    plain: tuple[nn.Layer, onnx.ModelProto],
    target: str,
    signed: bool,
    per_channel: bool,
    tmp_path: Path,
) -> None:
    model, proto = plain
    table = table_of(model, signed, per_channel, "pair_sum")  # right on any processor
    file = quantize_onnx(proto, table, PRESETS[target])
    made, layers = isolate_onnx(file, SHAPES)
    onnx.checker.check_model(made, full_check=True)
    assert sorted(layer.path for layer in layers) == sorted(SHAPES)
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    with_sign = signed or target == "tensorrt"
    for backend in ONNX_BACKENDS:
        found = run(tmp_path, backend, layers, not signed)
        for name, layer in model.named_children():
            steps, step = stored_in_onnx(file, name)
            int32 = step if target == "onnxruntime" and isinstance(layer, nn.Linear) else None
            wanted = reference(name, layer, not signed, with_sign, steps * step, int32)
            close(found[name], wanted, f"{name} in {backend}")


@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "one scale"])
@pytest.mark.parametrize("clipped", [True, False], ids=["behind a relu", "plain"])
def test_every_kind_of_layer_in_paddle(clipped: bool, per_channel: bool, tmp_path: Path) -> None:
    """Behind a ReLU the runtime's grids have no sign.

    They have where it computes in float, and where a vector is made a map behind the ReLU.
    """
    model = randomize(Kinds(clipped))
    file = quantize_program(build(model), table_of(model, True, per_channel))
    made, layers = isolate_program(file, SHAPES)
    made.write(tmp_path / "model.pdmodel", tmp_path / "model.pdiparams")
    found = run(tmp_path, "paddle", layers, clipped)
    in_float = ("transposed", "transposed_depthwise", "sequence", "sequence_without_bias")
    relus = len(layers) - len(VECTORS) - len(in_float) if clipped else 0
    assert sum(op.type == "relu" for op in made.operators) == relus
    if not multiplies_int8_exactly("paddle"):
        return  # what is unsigned overflows, what has a sign is halved
    for name, layer in model.named_children():
        twice = not per_channel and name not in in_float
        signed = not clipped or name in (*in_float, *VECTORS)
        weight = stored_in_program(file, name, twice)
        wanted = reference(name, layer, clipped, signed, weight)
        close(found[name].reshape(wanted.shape), wanted, name)


class Joined(nn.Layer):
    """Layers that read what was joined or pooled, and two that read one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2D(8, 8, 1) for _ in range(2))
        self.joined, self.nested = nn.Conv2D(16, 4, 3), nn.Conv2D(24, 4, 1)
        self.pooled = nn.Conv2D(8, 4, 3)

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        one, other = self.first(image), nn.functional.tanh(self.second(image))
        return {
            "a": self.joined(paddle.concat([one, other], 1)),
            "b": self.nested(paddle.concat([image * 2, paddle.concat([other, one], 1)], 1)),
            "c": self.pooled(nn.functional.max_pool2d(nn.functional.relu(other * one), 2)),
        }


@pytest.fixture(scope="module")
def joined() -> onnx.ModelProto:
    model = randomize(Joined())
    proto = to_onnx(build(model))
    grids = {"first": 2.0, "second": 2.0, "joined": 3.0, "nested": 5.0, "pooled": 7.0}
    table = [LayerScales(f"{name}.weight", Grid(end)) for name, end in grids.items()]
    return quantize_onnx(proto, table, PRESETS["openvino"])


def scales_in(model: onnx.ModelProto, layer: IsolatedLayer) -> float:
    arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    (node,) = (n for n in model.graph.node if list(n.input[:1]) == [layer.source])
    return float(arrays[node.input[1]])


def test_grids_are_found_in_front_of_what_joins_and_pools(joined: onnx.ModelProto) -> None:
    shapes = {"first": (1, 8, 4, 4), "second": (1, 8, 4, 4), "joined": (1, 16, 4, 4)}
    shapes |= {"nested": (1, 24, 4, 4), "pooled": (1, 8, 4, 4)}
    made, layers = isolate_onnx(joined, shapes)
    ends = {layer.path: scales_in(made, layer) * 127 for layer in layers}
    wanted = {"first": 2.0, "second": 2.0, "joined": 3.0, "nested": 5.0, "pooled": 7.0}
    assert ends == pytest.approx(wanted)
    assert len(layers) == 5  # each once, for the joined tensors have one grid
    assert sum(node.op_type == "Concat" for node in made.graph.node) == 0
    assert [layer.path for layer in isolate_onnx(joined, {"pooled": (1, 8, 4, 4)})[1]] == ["pooled"]


def test_joined_tensors_on_other_grids_are_layers_of_their_own(joined: onnx.ModelProto) -> None:
    file = onnx.ModelProto()
    file.CopyFrom(joined)
    scales = {n.input[1] for n in file.graph.node if n.op_type == "QuantizeLinear"}
    # of the two tensors that are joined for `joined`, one with another scale
    changed = next(
        tensor
        for tensor in file.graph.initializer
        if tensor.name in scales and numpy_helper.to_array(tensor) == np.float32(3.0 / 127)
    )
    wrong = np.float32(3.0 / 127 * 1.01)
    changed.CopyFrom(numpy_helper.from_array(np.asarray(wrong), changed.name))
    made, layers = isolate_onnx(file, {"joined": (1, 16, 4, 4)})
    assert [layer.path for layer in layers] == ["joined", "joined"]
    assert sorted(scales_in(made, layer) for layer in layers) == pytest.approx(
        [3.0 / 127, 3.0 / 127 * 1.01], rel=1e-6
    )


def test_layers_that_read_floats_are_named(joined: onnx.ModelProto) -> None:
    file = onnx.ModelProto()
    file.CopyFrom(joined)
    node = next(
        n for n in file.graph.node if n.op_type == "Conv" and "first.weight@float" in n.input
    )
    node.input[0] = "image"
    message = r"^first: has an int8 weight, but its input is not quantized"
    with pytest.raises(ExportError, match=message):
        isolate_onnx(file, {"first": (1, 8, 4, 4)})
    program = quantize_program(build(randomize(Joined())), [LayerScales("first.weight", Grid(2.0))])
    (op,) = (op for op in program.operators if only(op.inputs, "Filter") == "first.weight@float")
    next(slot for slot in op.inputs if slot.parameter == "Input").arguments[:] = ["image"]
    with pytest.raises(ExportError, match=message):
        isolate_program(program, {"first": (1, 8, 4, 4)})


def optimized_kinds(file: Path, folder: Path) -> list[str]:
    runtime: Any = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    runtime.InferenceSession(str(file), options)
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


class Chain(nn.Layer):
    """Convolutions whose output the next one rounds: behind a ReLU, at once, behind others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2D(8, 8, 3, padding=1) for _ in range(4))

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        y = self.b(nn.functional.relu6(self.a(image)))
        return self.d(nn.functional.hardswish(self.c(y)))


def test_endings_let_onnxruntime_compute_convolutions_in_int8(tmp_path: Path) -> None:
    model = randomize(Chain())
    ends = {"a": (2.5, True), "b": (4.0, False), "c": (20.0, True), "d": (9.0, True)}
    table = [LayerScales(f"{n}.weight", Grid(end, signed=sign)) for n, (end, sign) in ends.items()]
    file = quantize_onnx(to_onnx(build(model)), table, PRESETS["onnxruntime"])
    shapes = dict.fromkeys(ends, (1, 8, 5, 5))
    made, layers = isolate_onnx(file, shapes, endings=True)
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    assert [layer.path for layer in layers] == ["a", "b"]
    kinds = optimized_kinds(tmp_path / "model.onnx", tmp_path)
    assert kinds.count("QLinearConv") == 2
    assert "Conv" not in kinds
    first, second = (layer.ending for layer in layers)
    assert first is not None
    assert second is not None
    assert (first.lowest, first.highest) == pytest.approx((0.0, 4.0), rel=1e-6)  # below 6
    assert first.step == pytest.approx(4.0 / 255)
    assert (second.lowest, second.highest) == pytest.approx((-20.0 * 128 / 127, 20.0))
    without, everything = isolate_onnx(file, shapes)
    (tmp_path / "model.onnx").write_bytes(without.SerializeToString())
    assert [layer.ending for layer in everything] == [None] * 4
    assert "QLinearConv" not in optimized_kinds(tmp_path / "model.onnx", tmp_path)
