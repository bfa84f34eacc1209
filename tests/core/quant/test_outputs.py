"""Outputs that are rounded for whoever reads them: which, how, in training, in files, and back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor, nn
from paddle.nn import Layer

from core.errors import CheckpointError, ConfigError
from core.export.package import export
from core.quant.apply import record_of, replay_quantization
from core.quant.config import QatConfig
from core.quant.fake_quant import fake_quantize
from core.quant.layers import quantized_layers
from core.quant.outputs import restore_output, round_output, rounded_outputs
from core.quant.post_training import PtqConfig, quantize_after_training
from core.quant.quantizers import Rounding
from core.quant.sites import on_grids, quantizers_of, sites_of
from core.runtimes.predictor import load_predictor
from core.settings.config import read
from core.task import Task, build_task
from core.training import checkpoint
from core.workflows.float_fallback import keep_accuracy
from core.workflows.layer_speed import groups_of
from tests.networks.residual import ALL, KEY, Network, batches, network, quantized

pytestmark = pytest.mark.int8


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})


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
    record = json.loads(json.dumps(record_of(model)))
    again = network()
    replay_quantization(again, record)
    again.eval()
    state = model.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert len([name for name in state if KEY in name]) == len(ALL) * (2 if rounding else 1)
    again.set_state_dict(state)
    (x,) = batches()[0]
    np.testing.assert_array_equal(again(x).numpy(), model(x).numpy())
    assert record_of(again) == record
    without = {key: value for key, value in record.items() if key != "outputs"}
    older = network()
    replay_quantization(older, without)  # written before outputs could be rounded
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
        part = sites_of(model).get(worst)
        return 0.5 if part is None or part.bypassed else 0.9  # the lower, the better

    monkeypatch.setattr(
        "core.workflows.float_fallback.output_errors",
        lambda _task, _model, _inputs, paths: {path: float(path == worst) for path in paths},
    )
    assert keep_accuracy(task, model, batches(1), value, 0.5, 1.0) == 0.5
    assert set(rounded_outputs(model)) == set(ALL) - {"gate"}
    assert len(quantized_layers(model)) == 7


def test_a_checkpoint_loads_alone(task: Task, tmp_path: Path) -> None:
    model = task.build_model()
    config = PtqConfig(quantize_outputs="all", target="onnxruntime")
    made = quantize_after_training(task, model, lambda: [[paddle.rand([4, 3, 8, 8])]], config)
    edits = [("qat", record_of(model))]
    checkpoint.save(tmp_path / "saved", checkpoint.describe(task, edits, 0, {}), model.state_dict())
    _, again = checkpoint.restore(tmp_path / "saved")
    assert set(rounded_outputs(again)) == set(made.outputs)
    predicted = export(task, again, tmp_path / "out", ("paddle", "onnx"), target="onnxruntime")
    assert load_predictor(predicted.folder, "onnxruntime").run(np.zeros((1, 3, 8, 8), "float32"))
