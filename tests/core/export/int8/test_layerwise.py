"""Each layer of an int8 file must be the eager one; one that is not is named."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
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
from core.export import parity
from core.export.files import LITE, MODEL, ONNX, PARAMS, write_files
from core.export.int8 import exporter, layerwise
from core.export.int8.comparison import compare, nothing_left
from core.export.int8.exporter import Int8Exporter
from core.export.int8.isolated import IsolatedLayer, Stored
from core.export.int8.layer_feeds import EagerLayers
from core.export.int8.layerwise import LIMIT, LayerDifference
from core.export.package import export
from core.graph.batch_norm_folding import fold_batch_norms
from core.graph.operators import only
from core.graph.program import Graph
from core.graph.trace import trace
from core.quant.apply import apply_quantization
from core.quant.grid_plan import GridPlan, plan_grids
from core.quant.layers import quantized_layers
from core.quant.outputs import rounded_outputs
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.runtimes.formats import format_of
from core.runtimes.predictor import load_predictor
from core.targets.names import BACKENDS, Backend, Format
from core.task import build_task

pytestmark = pytest.mark.int8

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


def randomize(model: nn.Layer) -> nn.Layer:
    rng = np.random.default_rng(0)
    for tensor in [*model.parameters(), *model.buffers()]:
        values = rng.normal(size=tensor.shape)
        if tensor.ndim > 1:
            values /= np.prod(tensor.shape[1:]) ** 0.5
        elif tensor.min() >= 0 and tensor.max() > 0:  # scales and variances
            values = 0.5 + np.abs(values)
        else:  # biases, so small that the answers tell images apart
            values *= 0.01
        tensor.set_value(values.astype("float32"))
    model.eval()
    return model


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
    return Int8Exporter(model, model, graph, target, write_files, (MODEL, PARAMS, ONNX, LITE))


def differences(rounded: Int8Exporter, folder: Path, size: int = 12) -> list[LayerDifference]:
    found: list[LayerDifference] = []
    for kind in KINDS:
        found += rounded.layer_by_layer(folder, kind, RUNTIMES[kind], images(size))[1]
    return found


def wrong(found: list[LayerDifference]) -> set[tuple[str, str]]:
    return {(each.runtime, each.layer) for each in found if not each.passes}


@pytest.mark.parametrize("weight_type", ["channel_wise_abs_max", "abs_max"])
@pytest.mark.parametrize("target", exporter.PRESETS)
def test_all_layers_agree_in_all_runtimes(target: str, weight_type: str, tmp_path: Path) -> None:
    model = quantized(randomize(Net()), weight_type=weight_type)
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    rounded = prepared(model, target)
    rounded.write(tmp_path, KINDS)
    found = differences(rounded, tmp_path)
    paths = list(quantized_layers(model))
    assert [(each.runtime, each.layer) for each in found] == [
        (runtime, path) for runtime in BACKENDS for path in paths
    ]
    assert max(each.relative for each in found) < LIMIT / 4
    assert all(each.passes for each in found)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


@pytest.mark.parametrize("rounding", [{"activation_type": "lsq"}, {"pact": True}])
def test_learned_grids_agree(rounding: dict[str, Any], tmp_path: Path) -> None:
    rounded = prepared(quantized(randomize(Net()), **rounding))
    rounded.write(tmp_path, KINDS)
    assert max(each.relative for each in differences(rounded, tmp_path)) < LIMIT / 4


@pytest.mark.parametrize("target", exporter.PRESETS)
def test_layers_that_are_not_what_they_seem(target: str, tmp_path: Path) -> None:
    """Shared under two norms, padded with no zeros, with biases not theirs, fed with one vector."""
    rounded = prepared(quantized(randomize(Odd()), 40), target, 40)
    rounded.write(tmp_path, KINDS)
    found = differences(rounded, tmp_path, 40)
    assert {each.layer for each in found} == set(quantized_layers(rounded.model))
    assert max(each.relative for each in found) < LIMIT / 4, layerwise.summary(found)


Arrays = dict[str, np.ndarray]
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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Int8Exporter, Path]]:
    made = {}
    for target in ("openvino", "onnxruntime"):
        folder = tmp_path_factory.mktemp(target)
        rounded = prepared(quantized(randomize(Net())), target)
        rounded.write(folder, KINDS)
        made[target] = rounded, folder
    return made


@pytest.mark.parametrize("what", CORRUPTIONS)
@pytest.mark.parametrize("layer", ["stem", "depthwise", "grouped", "up", "tokens", "head"])
def test_a_single_wrong_number_is_found_in_every_runtime(
    layer: str, what: str, written: dict[str, tuple[Int8Exporter, Path]], tmp_path: Path
) -> None:
    rounded, folder = written["openvino"]
    for kind in KINDS:
        copy = tmp_path / kind
        shutil.copytree(folder, copy)
        corrupt(copy, kind, layer, what, {"stem": "norm"})
        found = rounded.layer_by_layer(copy, kind, RUNTIMES[kind], images())[1]
        assert wrong(found) == {(runtime, layer) for runtime in RUNTIMES[kind]}
        with pytest.raises(ExportError, match=f"^{layer}: this layer of the int8 file, run by its"):
            layerwise.check(found)


@pytest.mark.parametrize("layer", ["tokens", "head"])
def test_a_wrong_int32_bias_is_found(
    layer: str, written: dict[str, tuple[Int8Exporter, Path]], tmp_path: Path
) -> None:
    rounded, folder = written["onnxruntime"]
    shutil.copytree(folder, tmp_path / "copy")
    corrupt(tmp_path / "copy", "onnx", layer, "bias", {})
    found = rounded.layer_by_layer(tmp_path / "copy", "onnx", RUNTIMES["onnx"], images())[1]
    assert wrong(found) == {(runtime, layer) for runtime in RUNTIMES["onnx"]}


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


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Int8Exporter, Path]:
    folder = tmp_path_factory.mktemp("chaos")
    rounded = prepared(quantized(randomize(Chaos())))
    rounded.write(folder, KINDS)
    assert wrong(differences(rounded, folder)) == set()
    return rounded, folder


@pytest.mark.parametrize("what", CORRUPTIONS)
def test_the_deepest_layer_of_a_net_that_rounds_badly(
    what: str, chaos: tuple[Int8Exporter, Path], tmp_path: Path
) -> None:
    """Such errors hide behind what rounding does to the whole; by itself the layer is named."""
    rounded, folder = chaos
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for kind in KINDS:
        corrupt(tmp_path, kind, "last", what, {})
    batches = images()
    exact = rounded._eager(batches, "paddle", ())
    for backend in BACKENDS:
        predictor = load_predictor(tmp_path, backend, own=True)
        wanted = rounded._eager(batches, format_of(backend), None)
        got = [predictor.run(*batch) for batch in batches]
        (whole,) = compare(backend, wanted, got, exact, [])
        assert whole.effect is not None
        assert whole.effect > 0.2
        assert whole.passes  # which was all that was asked
    found = differences(rounded, tmp_path)
    assert wrong(found) == {(backend, "last") for backend in BACKENDS}


def test_an_export_with_a_wrong_file_names_the_layer_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})
    model = quantized(task.build_model(), 8)
    made = export(task, model, tmp_path / "right", ("paddle", "onnx"))
    assert {(each.runtime, each.layer) for each in made.layers} == {
        (backend, path) for backend in BACKENDS for path in ("conv", "head")
    }
    lines = layerwise.summary(made.layers)
    assert list(lines) == list(BACKENDS)
    for line in lines.values():
        assert line.startswith("2 layers, each by itself, within "), line
    honest = exporter.write_int8

    def write_wrongly(graph: Any, tables: Any, float_files: Any, folder: Path, *rest: Any) -> None:
        honest(graph, tables, float_files, folder, *rest)
        corrupt(folder, "paddle", "head", "input", {})

    monkeypatch.setattr(exporter, "write_int8", write_wrongly)
    with pytest.raises(ExportError, match=r"^head: this layer .* by itself in paddle, differs"):
        export(task, model, tmp_path / "wrong", ("paddle", "onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["right"]


def test_the_worst_layer_is_named_first() -> None:
    found = [
        LayerDifference("a", "paddle", 2e-5),
        LayerDifference("b", "openvino", 3e-3),
        LayerDifference("c", "openvino", 2e-3),
        LayerDifference("d", "openvino", 1e-7),
    ]
    message = r"^b: .* in openvino, differs .* 3.0e-03 .* at most 1e-05 wanted; so does c; name it"
    with pytest.raises(ExportError, match=message):
        layerwise.check(found)
    layerwise.check(found[-1:])
    many = [LayerDifference(name, "paddle", 1.0) for name in "vwxyz"]
    with pytest.raises(ExportError, match=r"^v: .* wanted; so do w, x, y and 1 more; name it"):
        layerwise.check(many)
    assert layerwise.summary(found)["openvino"] == "3 layers, each by itself, within 3.0e-03 (b)"
    assert not LayerDifference("a", "paddle", float("nan")).passes


def test_differences_are_relative_to_the_sums_too() -> None:
    """What remains where a bias cancels them out has their errors."""
    stored = Stored(np.ones((2, 1, 1, 1), np.int8), np.ones((2, 1, 1, 1), np.float32))
    layer = IsolatedLayer("conv", "conv.weight", "x", "y", stored, np.float64([-1000.0, 0.0]))
    wanted = np.ones((3, 2, 4, 4), np.float32)
    found = wanted + np.float32(5e-3)
    assert layerwise._relative(layer, wanted, found) == pytest.approx(5e-3 / 1001, rel=1e-3)
    bare = replace(layer, bias=None)
    assert layerwise._relative(bare, wanted, found) == pytest.approx(5e-3, rel=1e-3)
    drawn = wanted.copy()
    drawn[-1] = 100.0
    assert layerwise._relative(bare, drawn, drawn + found - wanted) == pytest.approx(5e-3, rel=1e-3)
    assert layerwise._relative(bare, wanted, found * np.float32("nan")) == float("inf")
    assert layerwise._relative(bare, wanted, found[:, :, :2]) == float("inf")
    assert layerwise._relative(bare, 0 * wanted, 0 * wanted + np.float32(1e-30)) < 1e-20


@pytest.fixture
def whole(written: dict[str, tuple[Int8Exporter, Path]]) -> Callable[[], list[Any]]:
    """Return what checks the files of `written` as an export does."""
    rounded, folder = written["openvino"]

    def check() -> list[Any]:
        predictors = [load_predictor(folder, backend, own=True) for backend in BACKENDS]
        return rounded.check(folder, predictors, images(), [])[0]

    return check


def distort(monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Let OpenVINO answer otherwise than its layers do one by one."""
    honest = parity.run

    def run(predictor: Any, batch: Any) -> Any:
        made = honest(predictor, batch)
        whole = predictor.backend == "openvino" and list(made) == ["output"]
        return {name: change(each) for name, each in made.items()} if whole else made

    monkeypatch.setattr(parity, "run", run)


def test_right_layers_that_make_a_drifting_whole_are_warned_about(
    whole: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    found = whole()
    assert all(each.passes for each in found)
    assert "right" not in caplog.text
    distort(monkeypatch, lambda made: made * np.float32(1.1))
    found = whole()
    (line,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert line.startswith(
        "openvino: output 'output' of the int8 model differs by 1.0e-01, rounding"
    )
    assert line.endswith("each layer by itself is right, so let the metric decide")
    assert [each.runtime for each in found if not each.passes] == ["openvino"]


def test_a_whole_of_which_nothing_is_left_is_refused(
    whole: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    distort(monkeypatch, lambda made: np.roll(made, 1, axis=1))
    message = (
        "^openvino: output 'output' of the int8 model differs by .*; with the layers before stem"
    )
    with pytest.raises(ExportError, match=message):
        whole()
    distort(monkeypatch, lambda made: made * np.float32("nan"))
    with pytest.raises(
        ExportError, match=r"^openvino: output 'output' of the int8 model differs by"
    ):
        whole()


@pytest.mark.parametrize(
    ("values", "decided", "off", "left"),
    [
        ([1.0, 2.0, 3.0], [], 0.37, True),  # the distance of 2, the mean, is 0.378
        ([1.0, 2.0, 3.0], [], 0.38, False),
        ([1.0, 2.0, 3.0], [], float("nan"), False),
        ([4, 4, 4, 5], [], 0.24, True),  # always 4 is wrong in a quarter
        ([4, 4, 4, 5], [], 0.25, False),
        ([0.5, 0.5, 0.7], ["y"], 0.3, True),
        ([0.5, 0.5, 0.7], ["y"], 0.4, False),
    ],
)
def test_nothing_is_left_where_a_constant_is_as_near(
    values: list[float], decided: list[str], off: float, left: bool
) -> None:
    wanted = [{"y": np.asarray(part)} for part in (values[:2], values[2:])]
    difference = parity.Difference("paddle", "y", off, None, 0.0, 0.0)
    assert nothing_left(difference, wanted, decided) is not left


def test_nothing_is_left_where_the_answer_to_another_image_is_as_near() -> None:
    wanted = [{"y": np.asarray([[0.0, 8.0]])}, {"y": np.asarray([[0.0, 8.0], [1.0, 8.0]])}]
    # of four pairs that differ, by 1 each; a constant is 1.0 off
    between = (4 / (2 * 64 + 2 * 65)) ** 0.5
    for off, left in ((0.99 * between, True), (1.01 * between, False)):
        difference = parity.Difference("paddle", "y", off, None, 0.0, 0.0)
        assert nothing_left(difference, wanted, []) is not left
    difference = parity.Difference("paddle", "y", 0.7, None, 0.0, 0.0)
    assert not nothing_left(difference, wanted[:1], [])  # of one image
    decisions = [{"y": np.asarray([[1, 2, 3, 4]])}, {"y": np.asarray([[1, 2, 3, 5]])}]
    difference = parity.Difference("paddle", "y", 0.25, None, 0.0, 0.0)
    assert nothing_left(difference, decisions, [])


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


@pytest.mark.parametrize("kind", KINDS)
def test_grids_of_outputs_are_those_of_the_model(kind: Format, tmp_path: Path) -> None:
    """An addition reads what no layer reads on this grid."""
    task = build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})
    model = randomize(Skip())
    layers = [path for path, each in model.named_sublayers() if hasattr(each, "weight")]
    layout = plan_grids(task, model, "paddle", layers, "residual")
    assert set(layout.outputs) == {"act", "acts.1"}
    how = Rounding(processors="any")
    choice = select_layers(model, how, ("Conv2D", "Linear"), ())
    apply_quantization(model, choice, how, [[paddle.rand([8, 3, 8, 8])]], "abs_max", layout)
    rounded = prepared(model, size=8)
    rounded.write(tmp_path, KINDS)
    found = rounded.layer_by_layer(tmp_path, kind, RUNTIMES[kind], images(8))[1]
    assert wrong(found) == set()
    tensor = rounded.graph.made["act"]
    if kind == "onnx":
        file = onnx.load(tmp_path / ONNX)
        (pair,) = (
            n for n in file.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == tensor
        )
        (scale,) = (each for each in file.graph.initializer if each.name == pair.input[1])
        scale.CopyFrom(numpy_helper.from_array(grow(numpy_helper.to_array(scale)), scale.name))
        (tmp_path / ONNX).write_bytes(file.SerializeToString())
    else:
        graph = Graph.from_files(tmp_path / MODEL, tmp_path / PARAMS)
        (op,) = (
            op
            for op in graph.operators
            if op.type == "quantize_linear" and only(op.inputs, "X") == tensor
        )
        graph.weights[only(op.inputs, "Scale")] = grow(graph.weights[only(op.inputs, "Scale")])
        graph.write(tmp_path / MODEL, tmp_path / PARAMS)
    end = rounded_outputs(model)["act"].grid().absmax
    message = (
        f"^act: the model rounds what it puts out to a grid .* {end:.6g}, the file to one that "
        f"ends at {end * 1.01:.6g}"[:-1]
    )
    with pytest.raises(ExportError, match=message):
        rounded.layer_by_layer(tmp_path, kind, RUNTIMES[kind], images(8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_the_file_has_in_float_is_named(kind: Format, tmp_path: Path) -> None:
    model = quantized(randomize(Net()))
    rounded = prepared(model)
    float_files = tmp_path / "float"
    float_files.mkdir()
    write_files(rounded.graph, float_files, KINDS)
    rounded.write_some(tmp_path, KINDS, float_files, set(quantized_layers(model)) - {"grouped"})
    with pytest.raises(ExportError, match=r"^grouped: is quantized, but not in int8 in the file"):
        rounded.layer_by_layer(tmp_path, kind, RUNTIMES[kind], images())


def test_ties_of_weights_are_no_differences(tmp_path: Path) -> None:
    """In the middle between two steps, the arithmetic of files and of training fall apart."""
    model = randomize(Net())
    weight = model.grouped.weight.numpy()
    halves = ((np.arange(weight[0].size) % 126 + 0.5) / 127).astype("float32")
    for channel, scale in zip(weight, np.linspace(0.3, 3, len(weight), dtype="float32")):
        channel.reshape(-1)[:] = scale * halves
        channel.reshape(-1)[0] = scale
    model.grouped.weight.set_value(weight)
    rounded = prepared(quantized(model))
    rounded.write(tmp_path, KINDS)
    stored = Graph.from_files(tmp_path / MODEL, tmp_path / PARAMS).weights["grouped.weight"]
    ours = model.grouped.rounded_weight().numpy()
    step = np.abs(ours).max(axis=(1, 2, 3), keepdims=True) / 127
    apart = np.rint(ours / step).astype(int) - stored
    assert np.abs(apart).max() == 1  # otherwise this test tells nothing
    found = differences(rounded, tmp_path)
    assert wrong(found) == set()
    np.testing.assert_array_equal(model.grouped.weight.numpy(), weight)  # is as it was


def test_feeds_are_on_the_grids_and_small(tmp_path: Path) -> None:
    model = quantized(randomize(Net()), 40)
    rounded = prepared(model, size=40)
    layers = quantized_layers(model)
    eager = EagerLayers(model, rounded.graph, layers)
    with eager.noting():
        for batch in images(40):
            model(paddle.to_tensor(batch[0]))
    shapes = {path: eager.feeds[path].values.shape for path in layers}
    assert shapes == {
        "stem": (3, 3, 16, 16),
        "depthwise": (3, 8, 16, 16),
        "grouped": (3, 8, 16, 16),
        "up": (3, 16, 16, 16),
        "tokens": (3, 16, 6),
        "head": (3, 10),
    }
    for path, layer in layers.items():
        values, grid = eager.feeds[path].values, layer.input_quantizer.grid()
        steps = values / grid.step
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
        assert np.abs(values[:2]).max() > 0  # of the images
        drawn = np.unique(np.rint(steps[2]))
        assert drawn.min() < 0.9 * grid.lowest or not grid.signed
        assert drawn.max() > 0.9 * grid.highest
    assert model.stem._forward_pre_hooks == {}


def test_a_layer_that_does_not_run_is_named() -> None:
    model = quantized(randomize(Net()))
    layers = {path: quantized_layers(model)[path] for path in ("stem", "tokens")}
    eager = EagerLayers(model, prepared(model).graph, layers)
    message = r"^tokens: is in the graph, but the model does not run it"
    with pytest.raises(ExportError, match=message), eager.noting():
        model.stem(paddle.rand([1, 3, 12, 12]))


def test_a_kernel_that_rounds_outputs_wrongly_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ONNX Runtime has int8 convolutions for rounded outputs only."""
    rounded = prepared(quantized(randomize(Pair())), "onnxruntime")
    rounded.write(tmp_path, KINDS)
    honest, steps = layerwise._run, [0.4]

    def run(folder: Path, backend: Backend, layers: Any, eager: Any) -> list[np.ndarray]:
        found = honest(folder, backend, layers, eager)
        for layer, made in zip(layers, found):
            if layer.ending is not None:
                assert backend == "onnxruntime"
                assert layer.path == "first"
                made[0, 0, 0, 0] += np.float32(steps[0] * layer.ending.step)
        return found

    monkeypatch.setattr(layerwise, "_run", run)
    assert wrong(differences(rounded, tmp_path)) == set()
    steps[0] = 1.2
    assert wrong(differences(rounded, tmp_path)) == {("onnxruntime", "first")}


class Pair(nn.Layer):
    """A convolution whose output the next one reads on its grid."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2D(3, 8, 3), nn.Conv2D(8, 4, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.second(F.relu(self.first(x))).mean([2, 3])
