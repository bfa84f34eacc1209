"""Outputs that are rounded for whoever reads them: which, how, in training, in files, and back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor, nn
from paddle.nn import Layer

from core import checkpoint
from core.config import read
from core.deploy.formats import BACKENDS
from core.deploy.predictor import load_predictor
from core.errors import CheckpointError, ConfigError, ExportError
from core.export import int8
from core.export.package import export
from core.export.qdq import PRESETS, quantize_onnx
from core.export.tidy import tidy
from core.quant import insert
from core.quant.choices import Outputs, Processors
from core.quant.config import QatConfig
from core.quant.control import keep_accuracy
from core.quant.fake_quant import fake_quantize
from core.quant.layers import quantized_layers
from core.quant.layout import layout_of
from core.quant.outputs import restore_output, round_output, rounded_outputs
from core.quant.parts import float_parts, on_grids, parts_of, quantizers_of, restore
from core.quant.ptq import PtqConfig, quantize_after_training
from core.quant.quantizers import Rounding
from core.quant.speed import groups_of
from core.quant.table import Grid
from core.task import Task, build_task

pytestmark = pytest.mark.int8

KEY = "output_quantizer"


class Residual(Layer):
    """A block whose addition no layer of its own computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(8, 8, 3, padding=1, bias_attr=False)
        self.norm1 = nn.BatchNorm2D(8)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2D(8, 8, 3, padding=1, bias_attr=False)
        self.norm2 = nn.BatchNorm2D(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + x)


class Network(Layer):
    """Two blocks behind a hard-swish, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2D(8)
        self.act = nn.Hardswish()
        self.blocks = nn.Sequential(Residual(), Residual())
        self.gate = nn.Conv2D(8, 8, 1)
        self.head = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.act(self.norm(self.stem(x))))
        y = y * F.sigmoid(self.gate(y))
        return self.head(y.mean([2, 3]))


# who rounds its output, and which quantized layers read it
RESIDUAL = {
    "act": ("blocks.0.conv1",),
    "blocks.0": ("blocks.1.conv1",),
    "blocks.1": ("gate",),
}
ALL = RESIDUAL | {"norm": (), "gate": (), "blocks.0.norm2": (), "blocks.1.norm2": ()}


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})


def network() -> Layer:
    paddle.seed(0)
    model = Network()
    for each in model.sublayers():
        if isinstance(each, nn.BatchNorm2D):
            each._mean.set_value(paddle.randn([8]) * 0.1)
            each._variance.set_value(paddle.rand([8]) + 0.5)
    model.eval()
    return model


def batches(count: int = 3) -> list[list[Tensor]]:
    rng = np.random.default_rng(0)
    return [[paddle.to_tensor(rng.random((4, 3, 8, 8), np.float32) * 2 - 1)] for _ in range(count)]


def quantized(
    task: Task,
    outputs: Outputs = "all",
    target: Any = "onnxruntime",
    processors: Processors = "any",
    **rounding: Any,
) -> Layer:
    model, how = network(), Rounding(**rounding, processors=processors)
    choice = insert.choose(model, how, ("Conv2D", "Linear"), ())
    layout = layout_of(task, model, target, choice.layers, outputs, processors=processors)
    insert.insert(model, choice, how, batches(), "abs_max", layout)
    return model


@pytest.mark.parametrize(
    ("outputs", "wanted"), [("none", {}), ("residual", RESIDUAL), ("all", ALL)], ids=str
)
def test_which_outputs_are_rounded(task: Task, outputs: Outputs, wanted: Any) -> None:
    model = network()
    layers = insert.choose(model, Rounding(), ("Conv2D", "Linear"), ()).layers
    assert layout_of(task, model, "onnxruntime", layers, outputs).outputs == wanted


def test_the_target_decides_by_default(task: Task) -> None:
    model = network()
    layers = insert.choose(model, Rounding(), ("Conv2D", "Linear"), ()).layers
    found = {
        target: layout_of(task, model, target, layers, None, processors="vnni").outputs
        for target in ("onnxruntime", "tensorrt", "openvino", "paddle", "lite")
    }
    assert found == {
        "onnxruntime": ALL,
        "tensorrt": RESIDUAL,
        "openvino": RESIDUAL,
        # what the first addition reads has a sign, what it makes has none
        "paddle": {path: RESIDUAL[path] for path in ("blocks.0", "blocks.1")},
        "lite": {},
    }
    # where files are right on any processor, all that Paddle Inference reads has a sign
    assert layout_of(task, model, "paddle", layers, None).outputs == RESIDUAL


def test_of_two_branches_the_last_is_computed_with_the_addition(task: Task) -> None:
    class Shortcut(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.main = nn.Conv2D(3, 8, 3, padding=1)
            self.short = nn.Conv2D(3, 8, 1)
            self.pool = nn.AdaptiveAvgPool2D(1)
            self.head = nn.Conv2D(8, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pool(self.main(x) + self.short(x))).flatten(1)

    layers = ("main", "short", "head")
    found = layout_of(task, Shortcut(), "tensorrt", layers, "residual").outputs
    assert found == {"main": ()}
    found = layout_of(task, Shortcut(), "tensorrt", layers, "all").outputs
    assert found == {"main": (), "short": (), "head": ()}


def test_what_stays_in_float_rounds_no_output(task: Task) -> None:
    config = PtqConfig(target="onnxruntime", never_quantize=("blocks.1*", "stem"))
    model = network()
    made = quantize_after_training(task, model, batches, config)
    assert set(made.outputs) == {"act", "blocks.0.norm2", "blocks.0", "gate"}
    assert not any(path.startswith("blocks.1") for path in parts_of(model))


def test_an_addition_of_a_bias_is_no_residual_and_a_container_rounds_nothing(task: Task) -> None:
    class Plain(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2D(3, 8, 3), nn.ReLU())
            self.twice = nn.Conv2D(8, 8, 1)
            self.head = nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            y = F.sigmoid(self.twice(self.twice(y) + 1.0))
            return self.head(y.mean([2, 3]))

    model = Plain()
    layers = ("inner.0", "twice", "head")
    assert layout_of(task, model, "onnxruntime", layers, "residual").outputs == {}
    # what a layer that runs twice puts out has no one name
    assert layout_of(task, model, "onnxruntime", layers, "all").outputs == {}


class Again(Layer):
    """A layer that runs twice reads what is rounded for all, and something else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2D(3, 8, 3), nn.ReLU()
        self.twice = nn.Conv2D(8, 8, 1)
        self.head = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x))
        z = self.twice(F.tanh(self.twice(y)))
        return self.head((z + y).mean([2, 3]))


def test_a_layer_that_runs_twice_rounds_for_itself(task: Task, tmp_path: Path) -> None:
    paddle.seed(0)
    model = Again()
    model.eval()
    config = PtqConfig(target="onnxruntime", observer="abs_max")
    assert quantize_after_training(task, model, batches, config).outputs == ("act",)
    assert not quantized_layers(model)["twice"].shares_quantizer
    fed = []
    hook = quantized_layers(model)["twice"].input_quantizer.register_forward_post_hook(
        lambda _layer, _inputs, output: fed.append(output.numpy())
    )
    model(*batches()[0])
    hook.remove()
    step = quantized_layers(model)["twice"].input_quantizer.grid().step
    for values in fed:
        np.testing.assert_allclose(values / step, np.rint(values / step), atol=1e-3)
    assert len(fed) == 2
    export(task, model, tmp_path / "out", ("paddle", "onnx"), target="onnxruntime")


class PassedOn(Layer):
    """Two readers of one tensor: what a layer passes on, and the tensor itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, padding=1)
        self.identity = nn.Identity()
        self.left, self.right = nn.Conv2D(8, 8, 1), nn.Conv2D(8, 8, 1)
        self.head = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        passed = self.identity(y)
        return self.head((self.left(passed) + self.right(y) + y).mean([2, 3]))


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_a_layer_that_passes_on_what_it_reads_rounds_for_nobody(
    task: Task, tmp_path: Path, target: str
) -> None:
    """Who reads the tensor past it would read another one than in files."""
    paddle.seed(0)
    model = PassedOn()
    model.eval()
    config = PtqConfig(target=target, observer="abs_max")
    assert "identity" not in quantize_after_training(task, model, batches, config).outputs
    export(task, model, tmp_path / "out", ("paddle", "onnx"), target=target)


def absmax_of(model: Layer) -> dict[str, float]:
    return {path: float(each.absmax) for path, each in quantizers_of(model).items()}


def by_hand(model: Network, x: Tensor, ends: dict[str, float]) -> Tensor:
    """The network with every rounding written out; weights as they are."""

    def q(y: Tensor, name: str) -> Tensor:
        return fake_quantize(y, paddle.full([1], ends[name]), 8, True)

    y = q(model.norm(F.conv2d(q(x, "stem.input_quantizer"), *wb(model.stem), padding=1)), "norm")
    y = q(F.hardswish(y), "act")
    for index, block in enumerate(model.blocks):
        own = f"blocks.{index}"
        z = F.relu(block.norm1(F.conv2d(y, block.conv1.weight, padding=1)))
        z = q(z, f"{own}.conv2.input_quantizer")
        z = q(block.norm2(F.conv2d(z, block.conv2.weight, padding=1)), f"{own}.norm2")
        y = q(F.relu(z + y), own)
    gate = F.conv2d(y, *wb(model.gate))
    y = y * F.sigmoid(q(gate, "gate"))
    return F.linear(q(y.mean([2, 3]), "head.input_quantizer"), *wb(model.head))


def wb(layer: Layer) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias


def test_each_tensor_is_rounded_once_for_all_its_readers(task: Task) -> None:
    model = quantized(task, target="tensorrt", processors="vnni", weight_bits=8)
    for layer in quantized_layers(model).values():  # their rounding is tested elsewhere
        layer.weight.set_value(layer.rounded_weight())
    ends = {path.removesuffix(f".{KEY}"): end for path, end in absmax_of(model).items()}
    assert len(ends) == len(ALL) + 4  # stem, two times conv2, head round what they read
    (x,) = batches()[0]
    with on_grids(model, ()):
        np.testing.assert_allclose(model(x).numpy(), by_hand(model, x, ends).numpy(), atol=1e-6)
    shared = {path for path, each in quantized_layers(model).items() if each.shares_quantizer}
    assert shared == {"blocks.0.conv1", "blocks.1.conv1", "gate"}
    exact = network()(x).numpy()
    assert np.abs(model(x).numpy() - exact).max() > 1e-4


def test_grids_are_those_of_the_float_network(task: Task) -> None:
    model, plain, seen = quantized(task), network(), {}
    for path in ALL:

        def note(_layer: Layer, _inputs: Any, output: Tensor, path: str = path) -> None:
            seen.setdefault(path, []).append(output.numpy())

        dict(plain.named_sublayers())[path].register_forward_post_hook(note)
    for inputs in batches():
        plain(*inputs)
    for path, quantizer in rounded_outputs(model).items():
        values = np.concatenate(seen[path])
        assert float(quantizer.absmax) == np.abs(values).max()
        assert quantizer.nonnegative == (values.min() >= 0) == (not quantizer.signed)


@pytest.mark.parametrize(
    "rounding", [{}, {"activation_type": "lsq"}, {"pact": True}], ids=["plain", "lsq", "pact"]
)
def test_a_record_makes_the_same_model(task: Task, tmp_path: Path, rounding: Any) -> None:
    model = quantized(task, **rounding)
    record = json.loads(json.dumps(insert.record_of(model)))
    again = network()
    insert.replay(again, record)
    again.eval()
    state = model.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert len([name for name in state if KEY in name]) == len(ALL) * (2 if rounding else 1)
    again.set_state_dict(state)
    (x,) = batches()[0]
    np.testing.assert_array_equal(again(x).numpy(), model(x).numpy())
    assert insert.record_of(again) == record
    without = {key: value for key, value in record.items() if key != "outputs"}
    older = network()
    insert.replay(older, without)  # written before outputs could be rounded
    assert rounded_outputs(older) == {}


@pytest.mark.parametrize("kind", ["lsq", "pact"])
def test_what_is_shared_is_learnt_once(task: Task, kind: str) -> None:
    model = quantized(task, **({"pact": True} if kind == "pact" else {"activation_type": "lsq"}))
    model.train()
    (x,) = batches()[0]
    model(x).sum().backward()
    learned = {path: q.parameters()[0] for path, q in quantizers_of(model).items()}
    assert len({id(each) for each in learned.values()}) == len(ALL) + 4
    own = [each for each in model.parameters() if any(each is other for other in learned.values())]
    assert len(own) == len(learned)
    if kind == "lsq":
        assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in own)


def test_statistics_of_what_is_shared_move_once_a_step(task: Task) -> None:
    """By the values before they are rounded, however many layers read them."""
    model, seen = quantized(task), []
    quantizer = rounded_outputs(model)["act"]
    restore_output(model, "norm")  # would clip in front
    model.norm.weight.set_value(model.norm.weight * 3)
    model.act.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    runs: Counter[str] = Counter()
    for path, each in quantizers_of(model).items():
        each.register_forward_pre_hook(lambda _layer, _inputs, path=path: runs.update([path]))
    model.train()
    before = float(quantizer.absmax)
    model(*batches()[0])
    assert dict(runs) == dict.fromkeys(quantizers_of(model), 1)
    largest = float(F.hardswish(seen[0]).abs().max())
    assert largest > 1.5 * before
    assert float(quantizer.absmax) == pytest.approx(0.9 * before + 0.1 * largest, rel=1e-6)


@pytest.mark.parametrize("target", list(PRESETS))
@pytest.mark.parametrize("outputs", ["residual", "all"])
def test_files_answer_like_the_model(task: Task, tmp_path: Path, outputs: Any, target: str) -> None:
    model = quantized(task, outputs, target)
    made = export(task, model, tmp_path / "out", ("paddle", "onnx"), target=target)
    assert {each.runtime for each in made.differences} == set(BACKENDS)
    x = np.random.default_rng(1).random((2, 3, 8, 8), np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", options)
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    with on_grids(model, set(parts_of(model)) if PRESETS[target].unsigned else ()):
        wanted = model(paddle.to_tensor(x)).numpy()
    # operators one by one: nothing but roundings that fall to the other side
    with float_parts(model):
        effect = np.abs(model(paddle.to_tensor(x)).numpy() - wanted).max()
    assert np.abs(found - wanted).max() <= 0.05 * effect


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "paddle"])
@pytest.mark.parametrize("ending", ["blocks.0", "blocks.0,blocks.1.conv1"])
def test_files_that_end_in_layers(task: Task, tmp_path: Path, ending: str, target: str) -> None:
    model = quantized(task, "all", target)
    layout = target if target in PRESETS else "openvino"
    formats = ("paddle", "onnx")
    made = export(task, model, tmp_path / "out", formats, ending=ending, target=layout)
    assert {(each.runtime, each.output) for each in made.differences} == {
        (backend, path) for backend in BACKENDS for path in ending.split(",")
    }
    quantization = made.description.quantization
    assert quantization is not None
    assert quantization.layers == 3 + ending.count(",")
    # what is put out is not rounded, in the model that the files are compared with neither: that
    # would be the effect once more; one rounding that falls to the other side is an eighth of it
    for each in made.differences:
        if each.runtime != "onnxruntime":  # rounds biases, too
            assert each.relative < 0.25 * each.effect
    x = np.random.default_rng(1).random((2, 3, 8, 8), np.float32)
    steps = load_predictor(made.folder, "onnxruntime").run(x)["blocks.0"]
    step = float(rounded_outputs(model)["blocks.0"].grid().step)
    assert np.abs(steps / step - np.rint(steps / step)).max() > 0.1
    assert np.unique(steps).size > 256


def test_onnx_runtime_computes_every_convolution_in_int8(task: Task, tmp_path: Path) -> None:
    kinds = {}
    for outputs in ("none", "all"):
        model = quantized(task, outputs)
        export(task, model, tmp_path / outputs, ("paddle", "onnx"), target="onnxruntime")
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{outputs}.onnx")
        onnxruntime.InferenceSession(tmp_path / outputs / "model.onnx", options)
        nodes = onnx.load(tmp_path / f"{outputs}.onnx", load_external_data=False).graph.node
        kinds[outputs] = [node.op_type for node in nodes]
    assert kinds["none"].count("QLinearConv") == 2  # each block's first, in front of the second
    assert kinds["all"].count("QLinearConv") == 6
    assert {"FusedConv", "Conv"}.isdisjoint(kinds["all"])
    assert kinds["all"].count("QLinearAdd") == 2


def test_a_part_goes_back_to_float(task: Task) -> None:
    model = quantized(task)
    (x,) = batches()[0]
    conv = quantized_layers(model)["blocks.1.conv1"]
    shared = conv.input_quantizer
    restore(model, f"blocks.0.{KEY}")
    assert not conv.shares_quantizer
    assert conv.input_quantizer is not shared
    assert conv.input_quantizer.grid() == shared.grid()
    assert set(rounded_outputs(model)) == set(ALL) - {"blocks.0"}
    rounded = {}
    conv.register_forward_pre_hook(lambda _l, inputs: rounded.update(x=inputs[0].numpy()))
    model(x)
    steps = rounded["x"] / shared.grid().step
    assert np.abs(steps - np.rint(steps)).max() > 0.01  # the addition reads floats again
    for part in list(parts_of(model)):
        restore(model, part)
    np.testing.assert_array_equal(model(x).numpy(), network()(x).numpy())
    assert model.state_dict().keys() == network().state_dict().keys()


def test_a_layer_in_float_reads_what_is_rounded_for_all(task: Task) -> None:
    model = quantized(task)
    (x,) = batches()[0]
    restore(model, "blocks.1.conv1")
    assert "blocks.1.conv1" not in parts_of(model)
    assert rounded_outputs(model).keys() == ALL.keys()
    assert "blocks.1.conv1" not in str(insert.record_of(model)["outputs"])
    with float_parts(model):
        np.testing.assert_allclose(model(x).numpy(), network()(x).numpy(), atol=1e-6)


def test_one_layer_alone_still_rounds_what_it_reads(task: Task) -> None:
    model = quantized(task)
    (x,) = batches()[0]
    layer = quantized_layers(model)["blocks.0.conv1"]
    with float_parts(model):
        layer.passing = False
        alone = model(x).numpy()
        layer.passing = True
        plain = model(x).numpy()
        rounded_outputs(model)["act"].passing = False
        both = model(x).numpy()
        layer.passing = False
        together = model(x).numpy()
    assert len({each.tobytes() for each in (alone, plain, both, together)}) == 4


def test_the_output_that_drifts_is_named(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, honest = quantized(task), int8.quantize_onnx

    def other_grid(proto: Any, table: Any, preset: Any, outputs: Any) -> Any:
        bent = {
            name: Grid(grid.absmax / 9) if grid.absmax == end else grid
            for name, grid in outputs.items()
        }
        return honest(proto, table, preset, bent)

    end = rounded_outputs(model)["norm"].grid().absmax
    monkeypatch.setattr(int8, "quantize_onnx", other_grid)
    with pytest.raises(ExportError, match=r"^norm: the model rounds what it puts out to a grid of"):
        export(task, model, tmp_path / "out", ("paddle", "onnx"), target="onnxruntime")
    # as it is where a runtime does what its files do not say
    monkeypatch.setattr(int8.layerwise, "check_outputs", lambda *_: None)
    monkeypatch.setattr(int8.layerwise, "compare", lambda *_: [])
    with pytest.raises(ExportError, match="it agrees, with the output of norm it does not"):
        export(task, model, tmp_path / "out", ("paddle", "onnx"), target="onnxruntime")


def test_a_tensor_that_a_graph_does_not_have(task: Task, tmp_path: Path) -> None:
    export(task, network(), tmp_path / "float", ("paddle", "onnx"))
    proto = onnx.load(tmp_path / "float" / "model.onnx")
    with pytest.raises(ExportError, match="nowhere: is to be rounded, but the ONNX graph has no"):
        quantize_onnx(proto, [], PRESETS["openvino"], {"nowhere": Grid(1.0)})
    tidy(proto.graph)  # once more changes nothing
    assert proto == onnx.load(tmp_path / "float" / "model.onnx")


def test_refusals(task: Task) -> None:
    model = quantized(task)
    with pytest.raises(CheckpointError, match="act: rounds its output already"):
        round_output(model, "act", Rounding())
    with pytest.raises(CheckpointError, match="norm: is not quantized, but reads what act"):
        round_output(network(), "act", Rounding(), readers=("norm",))
    with pytest.raises(ConfigError, match="quantize_outputs"):
        read(QatConfig, {"quantize_outputs": "residuals"})


def test_outputs_are_ranked_timed_and_sent_back_like_layers(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = quantized(task)
    groups = groups_of(task, model)
    assert groups["outputs 8x8"] == {f"{path}.{KEY}" for path in ALL}
    worst = f"gate.{KEY}"

    def value(model: Layer) -> float:
        part = parts_of(model).get(worst)
        return 0.5 if part is None or part.passing else 0.9  # the lower, the better

    monkeypatch.setattr(
        "core.quant.control.output_errors",
        lambda _task, _model, _inputs, paths: {path: float(path == worst) for path in paths},
    )
    assert keep_accuracy(task, model, batches(1), value, 0.5, 1.0) == 0.5
    assert set(rounded_outputs(model)) == set(ALL) - {"gate"}
    assert len(quantized_layers(model)) == 7


def test_a_checkpoint_loads_alone(task: Task, tmp_path: Path) -> None:
    model = task.build_model()
    config = PtqConfig(quantize_outputs="all", target="onnxruntime")
    made = quantize_after_training(task, model, lambda: [[paddle.rand([4, 3, 8, 8])]], config)
    edits = [("qat", insert.record_of(model))]
    checkpoint.save(tmp_path / "saved", checkpoint.describe(task, edits, 0, {}), model.state_dict())
    _, again = checkpoint.restore(tmp_path / "saved")
    assert set(rounded_outputs(again)) == set(made.outputs)
    predicted = export(task, again, tmp_path / "out", ("paddle", "onnx"), target="onnxruntime")
    assert load_predictor(predicted.folder, "onnxruntime").run(np.zeros((1, 3, 8, 8), "float32"))
