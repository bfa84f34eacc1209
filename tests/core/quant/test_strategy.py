"""Quantization-aware training as a strategy: calibration, grids, resume, replay, refusals."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from outside import toy
from paddle import nn

from core.errors import ConfigError, DataError, UserError
from core.network.weights import load_arrays
from core.quant.apply import apply_quantization
from core.quant.config import QatConfig
from core.quant.grid_plan import GridPlan, plan_grids, trace_float
from core.quant.layers import quantized_layers, weights_held
from core.quant.outputs import rounded_outputs
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers, summary
from core.quant.sites import float_sites, on_grids, scales_of
from core.quant.strategy import Qat
from core.settings.config import merge, read
from core.settings.hints import QuantHints, SlimHints
from core.task import build_task
from core.training import checkpoint
from core.training.engine import Engine
from core.training.hooks import Hook
from core.training.recipe import suggested_epochs
from tests.toy_runs import STOPS, StopAfter, plain, train

SETTINGS: dict[str, Any] = {
    "task": {"name": "outside.toy"},
    "synthetic": {"train_images": 16, "val_images": 6},
    "train": {"epochs": 4, "batch_size": 4, "learning_rate": 0.02},
    "device": "cpu",
}
LISTEN = {"kind": "outside.strategies:Listen"}
TYPES = [
    {},
    {"weight_quantize_type": "abs_max"},
    {"activation_quantize_type": "range_abs_max", "window_size": 3},
    {"activation_quantize_type": "abs_max"},
    {"activation_quantize_type": "lsq"},
    {"activation_preprocess_type": "PACT"},
    {"activation_preprocess_type": "PACT", "activation_quantize_type": "range_abs_max"},
    {"weight_bits": 4, "activation_bits": 3, "target": "openvino"},
    {"activation_quantize_type": "lsq", "target": "onnxruntime", "observer": "mse"},
    {"freeze_bn_after": 1, "observer_off_after": 1},
    {"observer": "mse"},
    {"observer": "mse", "observer_off_after": 2},
    {"quantize_outputs": "all", "target": "tensorrt"},
    {"target": "onnxruntime", "activation_preprocess_type": "PACT"},
    {"target": "openvino", "zero_points": True, "activation_quantize_type": "range_abs_max"},
    {"balance": True, "reconstruct": True, "weight_bits": 5},
]


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return merge(SETTINGS, {"data": {"root": str(tmp_path / "data")}})


def qat(**options: Any) -> dict[str, Any]:
    return {"kind": "qat", "start_epoch": 1, "calibration_samples": 8, **options}


@pytest.mark.parametrize("options", TYPES, ids=[str(list(each.values())) for each in TYPES])
def test_it_trains_resumes_exactly_and_loads_alone(
    settings: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    straight = train(settings, tmp_path / "straight", qat(**options), LISTEN)
    for number, stop in enumerate(STOPS):
        folder = tmp_path / f"stop {number}"
        train(settings, folder, qat(**options), LISTEN, hooks=[stop])
        resumed = train(settings, folder, qat(**options), LISTEN, resume=True)
        assert resumed.metrics == straight.metrics
        for name in (checkpoint.WEIGHTS, checkpoint.TRAINING):
            pair = [load_arrays(f / "latest" / name) for f in (folder, tmp_path / "straight")]
            assert plain(pair[0]) == plain(pair[1])
    _, again = checkpoint.restore(tmp_path / "straight" / "latest")
    assert quantized_layers(again).keys() == {"conv", "head"}
    full = options.get("quantize_outputs") == "all" or options.get("target") == "onnxruntime"
    assert bool(rounded_outputs(again)) == full
    image = paddle.randn([3, 3, 8, 8])
    straight.model.eval()
    np.testing.assert_array_equal(again(image).numpy(), straight.model(image).numpy())
    with float_sites(again):
        assert (again(image) - straight.model(image)).abs().max() > 0
    assert scales_of(again) == scales_of(straight.model)


def test_grids_begin_where_calibration_ends(settings: Any, tmp_path: Path) -> None:
    task = build_task("outside.toy", {"data": settings["data"], "synthetic": {}})
    model, batches = task.build_model(), [[paddle.randn([4, 3, 8, 8])] for _ in range(3)]
    rounding = Rounding()
    choice = select_layers(model, rounding, ("Conv2D", "Linear"), ())
    made = apply_quantization(
        model, choice, rounding, batches, "abs_max", GridPlan(unsigned=frozenset(choice.layers))
    )
    assert made.layers == ("conv", "head")
    conv, head = (scales.input for scales in scales_of(model))
    assert conv.absmax == max(float(batch.abs().max()) for (batch,) in batches)
    assert conv.signed
    assert not head.signed  # behind a ReLU
    with on_grids(model, ()):
        assert scales_of(model)[1].input.signed
    assert not scales_of(model)[1].input.signed


def test_one_grid_for_a_weight_is_that_of_the_folded_weight(settings: Any) -> None:
    task = build_task("outside.toy", {"data": settings["data"], "synthetic": {}})
    model = task.build_model()
    rng = np.random.default_rng(0)
    for norm in model.sublayers():
        if isinstance(norm, nn.BatchNorm2D):
            norm.weight.set_value(rng.uniform(0.1, 5, norm.weight.shape).astype("float32"))
            norm._variance.set_value(rng.uniform(0.1, 5, norm.weight.shape).astype("float32"))
    rounding = Rounding(weight_type="abs_max", weight_bits=4)
    choice = select_layers(model, rounding, ("Conv2D",), ())
    batches = [[paddle.randn([4, 3, 8, 8])]]
    layout = plan_grids(trace_float(task, model), model, "paddle")
    assert layout.norms == {"conv": "norm"}
    apply_quantization(model, choice, rounding, batches, "abs_max", layout)
    factor = (model.norm.weight / (model.norm._variance + model.norm._epsilon) ** 0.5).numpy()
    folded = model.conv.weight.numpy() * factor.reshape(-1, 1, 1, 1)
    top = np.abs(folded).max()
    wanted = np.rint(folded * np.float32(7) / top) * top / 7
    found = model.conv.rounded_weight().numpy() * factor.reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * top)


HINTS = QuantHints("abs_max", zero_points=True, balance=True, reconstruct=True)


def test_what_is_not_given_is_as_the_task_hints() -> None:
    found = QatConfig(target="openvino").completed(HINTS)
    assert (found.observer, found.zero_points) == ("abs_max", True)
    assert (found.balance, found.reconstruct) == (True, True)
    assert not QatConfig(target="paddle").completed(HINTS).zero_points
    pact = QatConfig(target="openvino", activation_preprocess_type="PACT").completed(HINTS)
    assert not pact.zero_points
    assert not QatConfig(weight_quantize_type="abs_max").completed(HINTS).reconstruct
    plain = QatConfig().completed(SlimHints().qat)
    assert (plain.observer, plain.zero_points) == ("avg", False)
    assert (plain.balance, plain.reconstruct) == (False, False)


def test_training_starts_where_quantization_after_training_ends(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    calls: list[Any] = []
    few = {"weight_bits": 3, "target": "openvino"}
    for name, hints in (("plain", SlimHints()), ("hinted", SlimHints(qat=HINTS))):
        monkeypatch.setattr(toy.Task, "slim_hints", lambda self, model, hints=hints: hints)
        caplog.clear()
        train(settings, tmp_path / name, qat(**few))
        calls.append(caplog.text)
    assert "evened out" not in calls[0]
    assert "fitted" not in calls[0]
    assert "qat: evened out activations" in calls[1]
    assert "qat: fitted 2 layers to what they made in float" in calls[1]


@pytest.mark.parametrize(("observer", "count"), [("output_mse", 8), ("mse", 16)])
def test_the_start_sees_a_few_images_where_gradients_are_computed(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observer: str, count: int
) -> None:
    seen = []

    def counted(model: Any, choice: Any, rounding: Any, batches: Any, *rest: Any) -> Any:
        given = list(batches)
        seen.append(sum(int(inputs[0].shape[0]) for inputs in given))
        return apply_quantization(model, choice, rounding, given, *rest)

    monkeypatch.setattr("core.quant.calibration.few_of", lambda inputs: 3)
    monkeypatch.setattr("core.quant.strategy.apply_quantization", counted)
    train(settings, tmp_path / "a", qat(observer=observer, calibration_samples=16))
    assert seen == [count]


def test_a_choice_of_the_recipe_cannot_be_left_open_later(settings: Any, tmp_path: Path) -> None:
    train(settings, tmp_path / "a", qat(balance=True), hooks=[StopAfter(1)])
    with pytest.raises(ConfigError, match=r"\.balance: the run to resume has True, got None"):
        train(settings, tmp_path / "a", qat(), resume=True)


def test_held_weights_are_rounded_once_and_anew_afterwards() -> None:
    model, x = nn.Sequential(nn.Conv2D(3, 4, 1)), paddle.randn([1, 3, 4, 4])
    choice = select_layers(model, Rounding(), ("Conv2D",), ())
    apply_quantization(model, choice, Rounding(), [[x]], "abs_max", GridPlan())
    model.eval()
    layer = quantized_layers(model)["0"]
    before = model(x).numpy()
    with weights_held(model):
        np.testing.assert_array_equal(model(x).numpy(), before)
        assert layer.rounded_weight() is layer.rounded_weight()
    layer.weight.set_value(layer.weight.numpy() * 2)
    assert layer.rounded_weight() is not layer.rounded_weight()
    assert np.abs(model(x).numpy() - before).max() > 0


def test_what_stays_in_float_has_a_reason() -> None:
    class Own(nn.Conv2D):
        pass

    class Net(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2D(3, 3, 1), Own(3, 3, 1), nn.Conv2D(3, 3, 1)
            self.block = nn.Sequential(nn.Conv2D(3, 3, 1))
            self.fc = nn.Linear(3, 3)

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            y = self.block(self.b(self.a(x)))
            return self.fc(y.mean([2, 3])) + (self.c(x).mean() if self.training else 0)

    model = Net()
    choice = select_layers(model, Rounding(), ("Conv2D",), ("block",))
    made = apply_quantization(
        model, choice, Rounding(), [[paddle.randn([1, 3, 4, 4])]], "avg", GridPlan()
    )
    assert made.layers == ("a",)
    assert made.left["b"].startswith("Own is not a plain")
    assert made.left["c"] == "does not run in evaluation"
    assert made.left["block.0"] == "never_quantize"
    assert made.left["fc"] == "quantizable_layer_type has no Linear"
    lines = "\n".join(summary(made))
    assert "quantized 1 layers, 4 stay in float" in lines
    assert type(model.c) is nn.Conv2D
    assert "does not run in evaluation): c" in lines


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weight_bits": 9}, "weight_bits: expected 2 to 8"),
        ({"activation_bits": 1}, "activation_bits: expected 2 to 8"),
        ({"dtype": "uint8"}, "dtype: "),
        ({"quantizable_layer_type": ["Conv3D"]}, "quantizable_layer_type"),
        ({"quantizable_layer_type": []}, "quantizable_layer_type: names no layer"),
        ({"moving_rate": 1.0}, "moving_rate: expected"),
        ({"window_size": 0}, "window_size: expected 1 or more"),
        ({"freeze_bn_after": -1}, "freeze_bn_after: expected 0 or more"),
        ({"activation_quantise_type": "lsq"}, "did you mean 'activation_quantize_type'"),
        ({"activation_quantize_type": "kl"}, "activation_quantize_type: "),
        (
            {"activation_quantize_type": "lsq", "activation_preprocess_type": "PACT"},
            "activation_preprocess_type: lsq learns its grid itself",
        ),
        ({"zero_points": True}, "zero_points: paddle knows none; give target: onnxruntime or"),
        (
            {"zero_points": True, "target": "openvino", "activation_preprocess_type": "PACT"},
            "zero_points: PACT clips both ends alike",
        ),
        (
            {"reconstruct": True, "weight_quantize_type": "abs_max"},
            "reconstruct: expected weight_quantize_type channel_wise_abs_max, got abs_max",
        ),
    ],
)
def test_wrong_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(QatConfig, wrong, "strategies.0")


def test_wrong_runs(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="qat: would round random weights"):
        train(settings, tmp_path / "random", qat(start_epoch=0))
    train(settings, tmp_path / "plain")
    fresh = {"pretrained": str(tmp_path / "plain" / "latest"), "reinit": ["head.*"]}
    with pytest.raises(ConfigError, match=re.escape("as model.reinit starts head.* anew; if")):
        train(merge(settings, {"model": fresh}), tmp_path / "fresh", qat(start_epoch=0))
    with pytest.raises(ConfigError, match="never_quantize: 'con' matches nothing"):
        train(settings, tmp_path / "typo", qat(never_quantize=["con"]))
    with pytest.raises(ConfigError, match="no layer is left to quantize: conv: never_quantize"):
        train(settings, tmp_path / "none", qat(never_quantize=["conv", "head"]))
    with pytest.raises(ConfigError, match="already quantized by"):
        train(settings, tmp_path / "twice", qat(), qat(start_epoch=2))
    cut = {"kind": "prune", "start_epoch": 2, "target_ratio": 0.3}
    with pytest.raises(ConfigError, match="cannot be removed beside or after"):
        train(settings, tmp_path / "order", qat(), cut)


def test_a_quantized_checkpoint_is_not_quantized_again(settings: Any, tmp_path: Path) -> None:
    train(settings, tmp_path / "first", qat())
    again = merge(settings, {"model": {"pretrained": str(tmp_path / "first" / "latest")}})
    with pytest.raises(ConfigError, match="are quantized already"):
        train(again, tmp_path / "second", qat(start_epoch=0))


def test_broken_calibration_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2D(3, 2, 1), nn.ReLU(), nn.Conv2D(2, 2, 1))
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    choice = select_layers(model, Rounding(), ("Conv2D",), ())
    bad = paddle.full([1, 3, 2, 2], float("nan"))
    for batches, message in (([[bad]], "^0: expected finite"), ([], "calibration: no data")):
        with pytest.raises(DataError, match=message):
            apply_quantization(model, choice, Rounding(), batches, "avg", GridPlan())
        assert not quantized_layers(model)
        assert model.state_dict().keys() == before.keys()


def test_a_record_of_another_model_names_the_layer() -> None:
    record = {
        "rounding": dataclasses.asdict(Rounding()),
        "layers": [
            {"path": "1", "nonnegative": False, "signed": True, "norm": None, "limit": "none"}
        ],
    }
    with pytest.raises(UserError, match=r"^1: cannot be quantized: ReLU"):
        Qat.replay(nn.Sequential(nn.Conv2D(3, 2, 1), nn.ReLU()), record)


def test_the_rate_rises_to_what_the_task_suggests(
    settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rates = []

    class Watch(Hook):
        def after_step(self, engine: Engine, terms: Any, rate: float) -> None:
            rates.append(rate)

    flat = merge(settings, {"train": {"schedule": {"kind": "constant"}}})
    caplog.set_level(logging.INFO)
    train(flat, tmp_path / "a", qat(warmup_epochs=0.5), hooks=[Watch()])
    assert rates[:4] == [0.02] * 4
    assert rates[4:8] == pytest.approx([0.002 / 3, 0.004 / 3, 0.002, 0.002])
    assert "qat: learning rate x 0.1 (as the task suggests), 2 steps of warm-up" in caplog.text
    rates.clear()
    train(flat, tmp_path / "b", qat(warmup_epochs=0, learning_rate_scale=0.5), hooks=[Watch()])
    assert rates[4:] == [0.01] * 12


def test_a_recipe_that_begins_with_rounding_is_short(settings: Any) -> None:
    task = build_task("outside.toy", {"data": settings["data"]})
    share = task.qat_budget.epochs_scale
    assert share == 0.2
    assert suggested_epochs({"strategies": [{"kind": "qat"}]}, task, 28) == 6
    assert suggested_epochs({"strategies": [{"kind": "qat"}]}, task, 1) == 1
    late = {"strategies": [{"kind": "qat", "start_epoch": 3}, {"kind": "prune"}]}
    assert suggested_epochs(late, task, 28) is None
