"""`tools/ptq.py` as a user calls it: checkpoint and files, all runtimes, refusals, Ctrl-C."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from outside import toy

from core.act.config import STATIC_OBSERVERS
from core.export.files import FILES
from core.export.rejected import REASON
from core.network.layers import get
from core.quant.grid_plan import plan_grids
from core.quant.layers import quantized_layers
from core.runtimes.predictor import load_predictor
from core.settings.config import load_yaml, merge, parse_overrides
from core.targets.names import BACKENDS
from core.task import build_task
from core.training import checkpoint
from core.training.engine import Engine
from core.training.hooks import Checkpoints
from core.training.recipe import read_recipe
from core.training.run import read_run

ROOT = Path(__file__).resolve().parents[2]
Call = Callable[..., tuple[Any, str]]


@pytest.fixture
def call(call_tool: Any) -> Any:
    """Run the tool; return its status and what it printed."""
    return partial(call_tool, "ptq.py")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint of the toy task, with pictures for calibration and validation."""
    paddle.seed(0)
    data = {"root": str(tmp_path / "data")}
    task = build_task("outside.toy", {"data": data, "synthetic": {}, "model": {"width": 8}})
    for split in ("train", "val"):
        task.build_dataset(split)
    checkpoint.save(tmp_path / "float", checkpoint.describe(task), task.build_model().state_dict())
    return tmp_path / "float"


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.chain
def test_checkpoint_files_and_table(call: Call, weights: Path, tmp_path: Path) -> None:
    words = ("--weights", weights, "--save_dir", "out", "--format", "paddle,onnx")
    status, said = call(*words, "--card", "cc-by-4.0")
    assert status == 0, said
    assert "license: cc-by-4.0" in (tmp_path / "out" / "int8" / "README.md").read_text()
    assert "calibrated on 16 images; 100 to 500" in said
    for row in ("float", "quantized, mse", *(f"int8, {backend}" for backend in BACKENDS)):
        assert f"│ {row} " in said
    assert files(tmp_path / "out").keys() == {
        *("model/model.safetensors", "model/model.pdparams", "model/model.json"),
        *("int8/model.pdmodel", "int8/model.pdiparams", "int8/model.onnx", "int8/deploy.yml"),
        "int8/README.md",
    }
    task, model = checkpoint.restore(tmp_path / "out" / "model")
    assert quantized_layers(model).keys() == {"conv", "head"}
    description = json.loads((tmp_path / "out" / "model" / "model.json").read_text())
    assert [kind for kind, _ in description["edits"]] == ["qat"]
    assert not model.head.input_quantizer.signed  # openvino is who reads ONNX by default
    dataset, rng = task.build_dataset("val"), np.random.default_rng(0)
    batch = np.stack([dataset.sample(i, rng)["image"] for i in range(6)])
    eager = model(paddle.to_tensor(batch)).numpy()
    for backend in ("onnxruntime", "openvino"):
        found = load_predictor(tmp_path / "out" / "int8", backend).run(batch)["level"]
        np.testing.assert_allclose(found, eager, rtol=0, atol=2e-5)
    target = np.stack([dataset.sample(i, rng)["target"] for i in range(6)])
    mae = float(np.abs(eager - target).mean())
    assert description["metrics"]["mae"] == pytest.approx(mae)
    assert f"{mae:.4f}" in said


def test_all_observers_in_one_table(call: Call, weights: Path, tmp_path: Path) -> None:
    words = ("--weights", weights, "--save_dir", "out", "--observer", "all")
    status, said = call(*words, "--eval_rate", 0.5)
    assert status == 0, said
    found = {}
    for line in said.splitlines():
        if "quantized, " in line:
            cells = [cell.strip() for cell in line.split("│")]
            found[cells[1].removeprefix("quantized, ")] = float(cells[2])
    assert list(found) == [*STATIC_OBSERVERS, "output_mse"]
    best = last_line(said).partition(":")[0].removeprefix("written, calibrated with ")
    assert found[best] == min(found.values())  # an error: lower is better
    description = json.loads((tmp_path / "out" / "model" / "model.json").read_text())
    assert description["metrics"] == {}  # of half of the data
    assert quantized_layers(checkpoint.restore(tmp_path / "out" / "model")[1]).keys() == {
        "conv",
        "head",
    }


@pytest.mark.parametrize("files_of", ["paddle", "onnx"])
def test_reconstructed_layers_are_in_the_files_as_they_are(
    call: Call, weights: Path, tmp_path: Path, files_of: str
) -> None:
    words = ("--weights", weights, "--save_dir", "out", "--format", files_of, "--reconstruct")
    status, said = call(*words)
    assert status == 0, said
    assert "fitted 2 layers to what they made in float" in said
    assert "evened out" not in said
    _, model = checkpoint.restore(tmp_path / "out" / "model")
    _, exact = checkpoint.restore(weights)
    for path, layer in quantized_layers(model).items():
        value, before = layer.weight.numpy(), get(exact, path).weight.numpy()
        assert np.abs(layer.rounded_weight().numpy() - value).max() < 1e-5 * np.abs(value).max()
        assert 0 < np.abs(value - before).max() < 0.2 * np.abs(before).max()


@pytest.mark.parametrize(
    ("formats", "target", "rows"),
    [("onnx", "openvino", 2), ("paddle", "paddle", 1), ("lite", "lite", 1)],
)
def test_one_format_is_quantized_for_its_runtime(
    call: Call,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    formats: str,
    target: str,
    rows: int,
) -> None:
    converter = tmp_path / "python-of-lite"
    converter.write_text('#!/bin/sh\n[ -z "$6" ] || printf conv2d/int8_out/4/2/1 > "$6.nb"\n')
    converter.chmod(0o755)
    monkeypatch.setenv("TRISLIM_LITE_PYTHON", str(converter))
    chosen = []
    real = plan_grids

    def note(task: Any, model: Any, target: str, *rest: Any) -> Any:
        chosen.append(target)
        return real(task, model, target, *rest)

    monkeypatch.setattr("core.quant.grid_plan.plan_grids", note)
    words = ("--weights", weights, "--save_dir", "out", "--format", formats, "--no_metric")
    status, said = call(*words)
    assert status == 0, said
    assert chosen == [target]
    assert said.count("│ int8, ") == rows
    assert files(tmp_path / "out" / "int8").keys() == {"deploy.yml", *FILES[formats]}


@pytest.mark.chain
def test_classification_with_everything_on(call: Call, tmp_path: Path) -> None:
    config, overrides = ROOT / "configs" / "cls" / "demo.yml", []
    for each in (
        *("synthetic.train_images=8", "synthetic.val_images=4", f"data.root={tmp_path / 'data'}"),
        *("model.name=SqueezeNet1_1", "augment.mixup=0.2"),
    ):
        overrides += ["-o", each]
    paddle.seed(0)
    task = read_run(merge(load_yaml(config), parse_overrides(overrides[1::2]))).task
    checkpoint.save(tmp_path / "w", checkpoint.describe(task), task.build_model().state_dict())
    status, said = call(
        *("-c", config, *overrides, "--weights", "w", "--save_dir", "out", "--batch_size", 4),
        *("--equalize", "--bias_correction", "--reestimate_bn", "--format", "paddle,onnx"),
        *("--num_calib", 8, "--weight_quantize_type", "abs_max"),
    )
    assert status == 0, said
    assert "corrected the biases of 26 layers on 8 images" in said
    assert "evened out the channels between" in said
    assert "evened out the channels between 0" not in said
    for backend in BACKENDS:
        assert f"│ int8, {backend} " in said


def test_a_folder_of_images_is_enough(call: Call, weights: Path, tmp_path: Path) -> None:
    toy.draw_images(tmp_path / "pictures", 3, seed=0)
    (tmp_path / "pictures" / "b.png").write_bytes(b"no image")
    for file in (tmp_path / "data").rglob("*.png"):
        file.unlink()
    for folder in ("train", "val", ""):
        (tmp_path / "data" / folder).rmdir()
    words = ("--weights", weights, "--save_dir", "out", "--images")
    status, said = call(*words, "pictures")
    assert status == 0, said
    assert "calibrated on 3 images" in said
    assert "b.png: not an image" in said
    assert "nothing is measured: data.root: " in said
    assert (tmp_path / "out" / "int8" / "model.pdmodel").is_file()
    assert not (tmp_path / "data").exists()
    status, said = call(*words, "pictures", "--observer", "all", "--overwrite")
    assert status == 2
    assert "does not exist" in said
    assert "observer: all compares by the metric" in last_line(said)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--observer", "mes"), "error: observer: expected one of abs_max, avg, percentile, kl,"),
        (("--observer", "mes"), "did you mean 'mse'?"),
        (("--target", "openvine"), "did you mean 'openvino'?"),
        (("--format", "onx"), "error: format: no format 'onx' (did you mean 'onnx'?)"),
        (("--num_calib", "0"), "--num_calib: expected a whole number, 1 or more, got '0'"),
        (("--weights", "absent"), "error: absent: no such weights file"),
        (("--images", "absent"), "error: absent: no such file or folder"),
        (("--images", "empty"), "error: empty: holds no images"),
        (("--images", "bad"), "error: calibration: none of 1 images can be read: bad/a.png: not"),
        (("--save_dir", "float"), "error: save_dir: float is no folder of this tool"),
        (("--save_dir", "/proc/nowhere"), "error: /proc/nowhere: cannot be written"),
        (("--never_quantize", "haed"), "error: never_quantize: 'haed' matches nothing"),
        (("--weight_quantize_type", "absmax"), "did you mean 'abs_max'?"),
        (("--max_drop", "0.5"), "error: max_drop: there is no validation data to measure the"),
        (("--max_drop", "-1"), "--max_drop: expected points from 0 to 100, got '-1'"),
    ],
)
def test_errors_are_one_line(
    call: Call, weights: Path, tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    given = {"--weights": weights, "--save_dir": "out", **dict([options])}
    status, said = call(*(part for pair in given.items() for part in pair), "--no_metric")
    assert status == 2
    assert message in last_line(said)
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.chain
def test_a_pruned_checkpoint_stays_pruned(call: Call, weights: Path, tmp_path: Path) -> None:
    data = {"root": str(tmp_path / "data")}
    settings = {"task": {"name": "outside.toy"}, "data": data, "model": {"width": 8}}
    settings["train"] = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01}
    run = read_run(settings)
    cut = {"kind": "prune", "start_epoch": 1, "target_ratio": 0.5}
    (tmp_path / "run").mkdir()
    recipe = read_recipe({"strategies": [cut]}, 2, False)
    Engine(run, recipe, tmp_path / "run", [Checkpoints()]).train(resume=False)
    words = ("--save_dir", "out", "--format", "onnx")
    status, said = call("--weights", "run/latest", *words)
    assert status == 0, said
    assert said.count("│ int8, ") == 2  # onnxruntime, openvino
    assert files(tmp_path / "out" / "int8").keys() == {"model.onnx", "deploy.yml"}
    description = checkpoint.load_description(tmp_path / "out" / "model")
    assert description is not None
    assert [kind for kind, _ in description.edits] == ["prune", "qat"]
    assert description.epoch == 2
    _, model = checkpoint.restore(tmp_path / "out" / "model")
    assert model.conv.weight.shape[0] < 8


def test_what_cannot_be_quantized(call: Call, weights: Path, tmp_path: Path) -> None:
    words = ("--save_dir", "out", "--no_metric", "--weights")
    status, said = call(*words, weights, "--observer", "all")
    assert status == 2
    assert "observer: all compares by the metric" in last_line(said)
    assert call(*words, weights)[0] == 0
    status, said = call("--save_dir", "twice", "--no_metric", "--weights", "out/model")
    assert status == 2
    assert last_line(said).startswith("error: weights: the model is quantized already")
    status, said = call(*words, "out/model")
    assert status == 2
    assert "holds the weights themselves" in last_line(said)
    task, model = checkpoint.restore(weights)
    model.conv.weight.set_value(model.conv.weight * float("nan"))
    checkpoint.save(tmp_path / "nan", checkpoint.describe(task), model.state_dict())
    status, said = call("--save_dir", "b", "--no_metric", "--weights", "nan")
    assert status == 2
    assert last_line(said).endswith(
        "nan/model.safetensors: conv.weight: 216 of 216 values are not finite"
    )
    assert not (tmp_path / "b").exists()


def test_ctrl_c_leaves_what_was_there(
    call: Call, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--weights", weights, "--save_dir", "out", "--no_metric")
    assert call(*words)[0] == 0
    before = files(tmp_path)

    def interrupt(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("core.export.package.write_description", interrupt)
    status, said = call(*words, "--observer", "abs_max")
    wanted = "error: save_dir: out holds what an earlier run made; name another folder"
    assert (status, last_line(said)[: len(wanted)]) == (2, wanted)
    assert files(tmp_path) == before
    status, said = call(*words, "--observer", "abs_max", "--overwrite")
    assert (status, last_line(said)) == (130, "interrupted")
    assert files(tmp_path) == before


def test_help(call: Call) -> None:
    status, said = call("--help")
    assert status == 0
    assert "usage: " in said
    assert "images without labels to calibrate on (default: those for t" in " ".join(said.split())


@pytest.mark.chain
def test_layers_go_back_to_float_until_the_metric_holds(
    call: Call, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a metric that only one of the two layers spoils."""
    eager = [0.2]

    def measure(_validation: Any, model: Any) -> float:
        if isinstance(model, paddle.nn.Layer):
            layers = quantized_layers(model).values()
            rounding = [layer for layer in layers if not layer.bypassed]
            eager.append(0.2 + 0.1 * len(rounding) ** 4)  # mae: lower is better
        return eager[-1]  # files have the metric of the model

    monkeypatch.setattr("core.workflows.comparison_table.Validation.measure", measure)
    words = ("--weights", weights, "--save_dir", "out")
    status, said = call(*words)
    assert status == 0, said
    assert "WARNING more than 3 points lost; --max_drop or never_quantize" in said
    assert "│ all 2 together " in said
    status, said = call(*words, "--max_drop", 10, "--overwrite")
    assert status == 0, said
    assert "max_drop: 0 of 2 layers in float: 160.00 points" in said
    assert "max_drop: 1 of 2 layers in float: 10.00 points" in said
    assert "│ quantized, 1 back in float " in said
    _, model = checkpoint.restore(tmp_path / "out" / "model")
    assert len(quantized_layers(model)) == 1
    description = json.loads((tmp_path / "out" / "model" / "model.json").read_text())
    assert description["metrics"]["mae"] == pytest.approx(0.3)
    before = files(tmp_path / "out")
    status, said = call(*words, "--max_drop", 9, "--overwrite")
    assert status == 2
    assert last_line(said).startswith("error: max_drop: with all layers but one in float")
    assert files(tmp_path / "out") == before


def test_files_of_another_metric_than_the_model_are_refused(
    call: Call, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(_validation: Any, model: Any) -> float:
        return 0.2 if isinstance(model, paddle.nn.Layer) else 0.9

    monkeypatch.setattr("core.workflows.comparison_table.Validation.measure", measure)
    status, said = call("--weights", weights, "--save_dir", "out")
    assert status == 2
    message = "int8, paddle: mae of the file is 0.9000, of the quantized model 0.2000"
    assert message in last_line(said)
    assert last_line(said).endswith("; the files are in out.rejected, not in out")
    assert not (tmp_path / "out").exists()
    kept = tmp_path / "out.rejected"
    assert sorted(each.name for each in kept.iterdir()) == ["int8", "model", REASON]
    assert message in (kept / REASON).read_text()
    assert load_predictor(kept / "int8").description.quantization is not None
    assert len(quantized_layers(checkpoint.restore(kept / "model")[1])) == 2


def test_files_of_a_better_metric_than_the_model_are_right(
    call: Call, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(_validation: Any, model: Any) -> float:
        return 0.9 if isinstance(model, paddle.nn.Layer) else 0.1

    monkeypatch.setattr("core.workflows.comparison_table.Validation.measure", measure)
    status, said = call("--weights", weights, "--save_dir", "out")
    assert status == 0, said
    assert "mae of the file is 0.1000, of the quantized model 0.9000; better is not" in said
