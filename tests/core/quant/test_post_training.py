"""Post-training quantization: every observer, unlabelled images, pruned models, refusals."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
from outside import toy
from paddle import nn

from core.errors import CheckpointError, ConfigError, DataError
from core.quant import post_training
from core.quant.apply import record_of
from core.quant.calibration import folder_images, training_images
from core.quant.choices import OBSERVERS
from core.quant.layers import quantized_layers
from core.quant.post_training import CalibrationBatches, PtqConfig, quantize_after_training
from core.quant.selection import select_with_hints
from core.quant.sites import float_sites, scales_of
from core.settings.config import merge, read
from core.targets.names import TARGETS
from core.task import QuantHints, SlimHints, Task, build_task
from core.training import checkpoint
from core.training.engine import Engine
from core.training.hooks import Checkpoints
from core.training.recipe import read_recipe
from core.training.run import read_run
from core.workflows.comparison_table import ComparisonRow, to_table


def images(count: int = 60, batch: int = 12) -> CalibrationBatches:
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(count // batch, batch, 3, 8, 8)).astype(np.float32)
    return lambda: ([paddle.to_tensor(array)] for array in arrays)


def write(folder: Path, count: int, size: tuple[int, int] = (8, 8)) -> Path:
    toy.draw_images(folder, count, seed=0)
    for file in folder.iterdir():
        cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file)), size))
    return folder


def mean_outputs(
    model: nn.Layer, paths: list[str], batches: CalibrationBatches
) -> list[np.ndarray]:
    """Mean output of layers over all images and places, by numpy."""
    seen: dict[str, list[np.ndarray]] = {path: [] for path in paths}
    layers = dict(model.named_sublayers())
    hooks = [
        layers[path].register_forward_post_hook(
            lambda _layer, _inputs, output, path=path: seen[path].append(output.numpy())
        )
        for path in paths
    ]
    for inputs in batches():
        model(*inputs)
    for hook in hooks:
        hook.remove()
    whole = [np.concatenate(seen[path]).astype(np.float64) for path in paths]
    return [each.mean(tuple(i for i in range(each.ndim) if i != 1)) for each in whole]


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("target", ["paddle", "openvino"])
def test_a_saved_model_answers_bit_for_bit(
    task: Task, tmp_path: Path, observer: Any, target: Any
) -> None:
    model = task.build_model()
    model.eval()
    x = paddle.randn([3, 3, 8, 8])
    exact = model(x).numpy()
    config = PtqConfig(observer=observer, target=target)
    made = quantize_after_training(task, model, images(), config)
    assert made.layers == ("conv", "head")
    wanted = model(x).numpy()
    lost = np.abs(wanted - exact).max() / np.abs(exact).max()
    # the inputs of the head, means of pictures, are all far from zero, where kl clips wildly
    assert 0 < lost < (1 if observer == "kl" else 0.1)
    with float_sites(model):
        np.testing.assert_array_equal(model(x).numpy(), exact)
    conv, head = (scales.input for scales in scales_of(model))
    assert (conv.signed, head.signed) == (True, target == "paddle")
    largest = max(float(batch.abs().max()) for (batch,) in images()())
    assert conv.absmax == largest if observer == "abs_max" else 0.3 * largest < conv.absmax
    assert conv.absmax <= largest

    edit = ("qat", record_of(model))
    checkpoint.save(tmp_path / "m", checkpoint.describe(task, [edit]), model.state_dict())
    _, again = checkpoint.restore(tmp_path / "m")
    np.testing.assert_array_equal(again(x).numpy(), wanted)
    again.train()
    again(10 * x)  # the grids are fixed
    assert scales_of(again) == scales_of(model)


def test_a_pruned_model_stays_pruned(
    toy_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    settings = merge(toy_settings(epochs=2), {"model": {"width": 8}})
    run = read_run(settings)
    cut = {"kind": "prune", "start_epoch": 1, "target_ratio": 0.5}
    recipe = read_recipe({"strategies": [cut]}, run.train.epochs, False)
    (tmp_path / "run").mkdir()
    Engine(run, recipe, tmp_path / "run", [Checkpoints()]).train(resume=False)
    source = checkpoint.load_description(tmp_path / "run" / "latest")
    assert source is not None
    task, model = checkpoint.restore(tmp_path / "run" / "latest")
    quantize_after_training(task, model, images(), PtqConfig())
    edits = [*source.edits, ("qat", record_of(model))]
    assert [kind for kind, _ in edits] == ["prune", "qat"]
    checkpoint.save(tmp_path / "m", checkpoint.describe(task, edits), model.state_dict())
    _, again = checkpoint.restore(tmp_path / "m")
    assert again.conv.weight.shape[0] < 8
    x = paddle.randn([2, 3, 8, 8])
    np.testing.assert_array_equal(again(x).numpy(), model(x).numpy())


def test_corrected_biases_give_the_means_of_float(task: Task) -> None:
    few_bits = {"weight_bits": 3, "activation_bits": 3, "observer": "abs_max"}
    places = ["norm", "head"]
    errors = []
    for corrected in (False, True):
        paddle.seed(0)
        model = task.build_model()
        model.eval()
        wanted = mean_outputs(model, places, images())
        config = PtqConfig(**few_bits, bias_correction=corrected)
        quantize_after_training(task, model, images(), config)
        found = mean_outputs(model, places, images())
        errors.append(max(np.abs(f - w).max() for f, w in zip(found, wanted)))
    assert errors[0] > 1e-2
    assert errors[1] < 1e-5


def test_batch_norms_are_estimated_on_the_images(task: Task) -> None:
    model = task.build_model()
    model.eval()
    inputs = np.concatenate([batch.numpy() for (batch,) in images()()])
    outputs = model.conv(paddle.to_tensor(inputs)).numpy()
    quantize_after_training(task, model, images(), PtqConfig(reestimate_bn=True))
    mean = outputs.astype(np.float64).mean((0, 2, 3))
    np.testing.assert_allclose(model.norm._mean.numpy(), mean, atol=1e-5)
    assert not model.training


class Chain(nn.Layer):
    """Two convolutions whose channels differ a thousandfold."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2D(3, 4, 1), nn.Conv2D(4, 2, 1)
        factor = np.array([1, 10, 100, 1000], np.float32).reshape(4, 1, 1, 1)
        self.a.weight.set_value(self.a.weight.numpy() * factor)
        self.a.bias.set_value(np.zeros(4, np.float32))
        self.b.weight.set_value(self.b.weight.numpy() / factor.reshape(1, 4, 1, 1))

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        return self.b(nn.functional.relu(self.a(image)))


@pytest.mark.parametrize(("option", "gain"), [("equalize", 10), ("balance", 5)])
def test_evened_out_channels_lose_less(task: Task, option: str, gain: float) -> None:
    errors = []
    for given in ({}, {option: True}):
        paddle.seed(1)
        model = Chain()
        model.eval()
        batches = images()
        wanted = [model(*inputs).numpy() for inputs in batches()]
        config = PtqConfig(weight_quantize_type="abs_max", processors="vnni", **given)
        quantize_after_training(task, model, batches, config)
        found = [model(*inputs).numpy() for inputs in batches()]
        errors.append(float(np.mean((np.array(found) - np.array(wanted)) ** 2)))
    assert errors[1] < errors[0] / gain


def test_few_images_are_warned_about(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    quantize_after_training(task, task.build_model(), images(100, 10), PtqConfig())
    assert "100 to 500" not in caplog.text
    quantize_after_training(task, task.build_model(), images(99, 3), PtqConfig())
    assert "calibrated on 99 images; 100 to 500" in caplog.text


@pytest.mark.parametrize(("observer", "seen"), [("output_mse", 49), ("mse", 98)])
def test_where_gradients_are_computed_all_steps_see_a_few_images(
    task: Task, observer: Any, seen: int, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    counts = []

    def count(step: Any) -> Any:
        def counted(*given: Any, **options: Any) -> Any:
            position = {"apply_quantization": 3, "reconstruct": 3, "balance": 3}[step.__name__]
            batches = list(given[position])
            counts.append(sum(int(inputs[0].shape[0]) for inputs in batches))
            return step(*given[:position], batches, *given[position + 1 :], **options)

        return counted

    for step in ("apply_quantization", "reconstruct", "balance"):
        monkeypatch.setattr(post_training, step, count(getattr(post_training, step)))
    config = PtqConfig(observer=observer, balance=True, reconstruct=True, processors="vnni")
    quantize_after_training(task, task.build_model(), images(98, 7), config)
    assert counts == [seen] * 3
    quantize_after_training(task, task.build_model(), images(47, 1), config)
    told = "48 or more" if observer == "output_mse" else "100 to 500"
    assert f"calibrated on 47 images; {told} that look like" in caplog.text


def test_hints_of_the_task_count(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        toy.Task, "slim_hints", lambda self, model: SlimHints(never_quantize=("head",))
    )
    model = task.build_model()
    made = quantize_after_training(task, model, images(), PtqConfig())
    assert made.layers == ("conv",)
    assert made.left == {"head": "never_quantize (task)"}
    with pytest.raises(ConfigError, match=r"^never_quantize: no layer is left to quantize"):
        select_with_hints(task, task.build_model(), PtqConfig(never_quantize=("conv",)))


def test_hints_for_a_target_hold_for_it_alone(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    hints = SlimHints(never_quantize_for={"paddle": ("head",)})
    monkeypatch.setattr(toy.Task, "slim_hints", lambda self, model: hints)
    found = {
        target: select_with_hints(task, task.build_model(), PtqConfig(target=target)).layers
        for target in TARGETS
    }
    assert found.pop("paddle") == ("conv",)
    assert set(found.values()) == {("conv", "head")}


@pytest.mark.parametrize("name", ["conv.weight", "norm._variance", "head.bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_have_a_name(task: Task, name: str, value: float) -> None:
    model = task.build_model()
    tensor = model.state_dict()[name]
    broken = tensor.numpy()
    broken.flat[0] = value
    tensor.set_value(broken)
    with pytest.raises(CheckpointError, match=rf"^{re.escape(name)}: holds values that are not"):
        quantize_after_training(task, model, images(), PtqConfig())
    assert not quantized_layers(model)


def test_other_refusals(task: Task, tmp_path: Path) -> None:
    model = task.build_model()
    with pytest.raises(DataError, match="calibration: no data"):
        quantize_after_training(task, model, list, PtqConfig())
    with pytest.raises(ConfigError, match="never_quantize: 'haed' matches nothing"):
        quantize_after_training(task, model, images(), PtqConfig(never_quantize=("haed",)))
    bad = [paddle.full([1, 3, 8, 8], float("nan"))]
    with pytest.raises(DataError, match=r"^conv: expected finite"):
        quantize_after_training(task, model, lambda: [bad], PtqConfig())
    assert not quantized_layers(model)
    quantize_after_training(task, model, images(), PtqConfig())
    with pytest.raises(ConfigError, match="quantized already"):
        quantize_after_training(task, model, images(), PtqConfig())

    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no images"):
        folder_images(task, tmp_path / "empty", 8)
    with pytest.raises(DataError, match="absent: no such file or folder"):
        folder_images(task, tmp_path / "absent", 8)
    (tmp_path / "empty" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 1 images can be read: .*a.png: not an image"):
        list(folder_images(task, tmp_path / "empty", 8)())
    absent = build_task("outside.toy", {"data": {"root": str(tmp_path / "nowhere")}})
    with pytest.raises(DataError, match="no such folder; a folder of images will do: --images"):
        training_images(absent, 8)


def test_reconstruction_brings_outputs_nearer_to_float(
    task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    few_bits: dict[str, Any] = {"weight_bits": 3, "observer": "abs_max"}
    (x,) = next(iter(images(240, 240)()))
    errors = []
    for reconstruct in (False, True):
        paddle.seed(0)
        model = task.build_model()
        model.eval()
        exact = model(x).numpy()
        config = PtqConfig(**few_bits, reconstruct=reconstruct)
        quantize_after_training(task, model, images(), config)
        errors.append(float(np.square(model(x).numpy() - exact).mean()))
    assert errors[1] < 0.5 * errors[0]
    assert "fitted 2 layers to what they made in float" in caplog.text


def test_what_is_not_given_is_as_the_task_hints(
    task: Task, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hints = QuantHints("abs_max", zero_points=True, balance=True, reconstruct=True)
    found = PtqConfig(target="openvino").completed(hints)
    assert (found.observer, found.zero_points) == ("abs_max", True)
    assert (found.balance, found.reconstruct) == (True, True)
    assert not PtqConfig(target="paddle").completed(hints).zero_points
    assert not PtqConfig(weight_quantize_type="abs_max").completed(hints).reconstruct
    given = PtqConfig("kl", target="openvino", zero_points=False, balance=False, reconstruct=False)
    assert given.completed(hints) == given
    of_outputs = QuantHints(quantize_outputs={"onnxruntime": "residual"})
    for target, given, wanted in (
        ("onnxruntime", None, "residual"),
        ("onnxruntime", "all", "all"),
        ("openvino", None, None),
    ):
        completed = PtqConfig(target=target, quantize_outputs=given).completed(of_outputs)
        assert completed.quantize_outputs == wanted
    plain = PtqConfig().completed(QuantHints())
    assert (plain.observer, plain.zero_points) == ("mse", False)
    assert (plain.balance, plain.reconstruct) == (False, False)

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(toy.Task, "slim_hints", lambda self, model: SlimHints(ptq=hints))
    model = task.build_model()
    quantize_after_training(task, model, images(), PtqConfig(target="openvino"))
    assert quantized_layers(model)["conv"].input_quantizer.asymmetric
    for said in ("evened out activations", "fitted 2 layers"):
        assert said in caplog.text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"reconstruct": True, "weight_quantize_type": "abs_max"},
            "reconstruct: expected weight_quantize_type channel_wise_abs_max, got abs_max",
        ),
        ({"observer": "mes"}, "observer: expected one of abs_max, avg, percentile, kl, mse, emd"),
        ({"observer": "mes"}, "did you mean 'mse'?"),
        ({"target": "openvine"}, "did you mean 'openvino'?"),
        ({"weight_bits": 9}, "weight_bits: expected 2 to 8"),
        ({"activation_bits": 1}, "activation_bits: expected 2 to 8"),
        ({"quantizable_layer_type": []}, "quantizable_layer_type: names no layer"),
        ({"equalise": True}, "did you mean 'equalize'?"),
    ],
)
def test_wrong_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(PtqConfig, wrong)


def test_the_table_says_what_was_lost() -> None:
    rows = [
        ComparisonRow("float", 0.592),
        ComparisonRow("mse", 0.588, 1.25),
        ComparisonRow("int8, paddle", None, None, [("model.onnx", 4000, 1100)]),
    ]
    table = to_table(rows, "top1")
    cells = [list(column.cells) for column in table.columns]
    assert [column.header for column in table.columns][:3] == ["model", "top1", "change"]
    assert cells[1] == ["0.5920", "0.5880", "-"]
    assert cells[2] == ["", "-0.0040", ""]
    assert [each[2] for each in cells[4:]] == ["model.onnx", "4.0", "1.1", "28%", ""]


def test_progress_is_quiet_unless_asked_for(
    task: Task, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    quantize_after_training(
        task, task.build_model(), training_images(task, 4), PtqConfig(bias_correction=True)
    )
    assert "corrected the biases of 2 layers on 4 images" in caplog.text
    assert "%|" not in capsys.readouterr().err
