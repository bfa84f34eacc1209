"""The interface for scripts and notebooks: three lines from a checkpoint to int8 files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from outside import toy

import trislim
from core.errors import CheckpointError, ConfigError, DataError, ExportError, FileError
from core.network.batch_norms import is_batch_norm
from core.network.layers import get
from core.settings.config import to_mapping
from core.task import build_task
from core.training import checkpoint
from core.training.images import read_image

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.fixture
def model(weights: Path) -> trislim.Model:
    found = trislim.load(weights)
    assert isinstance(found, trislim.Model)
    return found


def picture(weights: Path) -> Path:
    return next((weights.parent / "data").rglob("*.png"))


def state(model: trislim.Model) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.network.state_dict().items()}


def test_importing_it_loads_nothing() -> None:
    code = "import sys, trislim; print(sorted({n.partition('.')[0] for n in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(ast.literal_eval(done.stdout))
    assert "trislim" in loaded
    assert not {"paddle", "numpy", "core", "cv2"} & loaded
    assert {"load", "train", "Model", "ExportedModel"} <= set(dir(trislim))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = trislim.lod


@pytest.mark.chain
def test_three_lines(weights: Path, tmp_path: Path) -> None:
    model = trislim.load(weights).quantize(images=tmp_path / "data")
    exported = model.export(tmp_path / "int8", formats=["paddle"])
    names = {file.name for file in (tmp_path / "int8").iterdir()}
    assert names == {"deploy.yml", "model.pdmodel", "model.pdiparams"}
    assert "quantization" in (tmp_path / "int8" / "deploy.yml").read_text(encoding="utf-8")
    again = trislim.load(tmp_path / "int8", backend="paddle")
    assert isinstance(again, trislim.ExportedModel)
    assert again.predictor.backend == "paddle"
    assert plain(again.predict(picture(weights))) == plain(exported.predict(picture(weights)))
    assert (
        plain(exported.predict(picture(weights))).keys() == model.predict(picture(weights)).keys()
    )
    assert again.evaluate().keys() == model.evaluate().keys()
    rows = exported.benchmark(again, runs=2, warmup=0, memory=False)
    assert [row.backend for row in rows] == ["paddle", "paddle"]
    assert repr(exported).startswith(f"ExportedModel({str(tmp_path / 'int8')!r}, paddle, ")


def test_what_is_made_leaves_the_model_alone(model: trislim.Model, tmp_path: Path) -> None:
    before, metrics = state(model), model.evaluate()
    quantized = model.quantize(tmp_path / "data", target="paddle", observer="abs_max")
    pruned = model.prune(0.3)
    assert not model.quantized
    assert quantized.quantized
    assert pruned.parameters < model.parameters == quantized.parameters
    assert model.edits == ()
    for name, value in state(model).items():
        np.testing.assert_array_equal(value, before[name])
    assert model.evaluate() == metrics
    assert repr(quantized).endswith("parameters, int8)")
    assert quantized.target == "openvino"  # for which its ONNX file, if any, is laid out


def test_a_made_model_is_saved_and_loaded(model: trislim.Model, tmp_path: Path) -> None:
    made = model.prune(0.3, calibration_samples=0).quantize(tmp_path / "data")
    assert [kind for kind, _ in made.edits] == ["prune", "qat"]
    again = trislim.load(made.save(tmp_path / "saved"))
    assert isinstance(again, trislim.Model)
    assert again.quantized
    assert again.parameters == made.parameters
    image = picture(tmp_path / "float")
    assert plain(again.predict(image)) == plain(made.predict(image))


def test_norms_that_were_folded_away_survive_a_cut(model: trislim.Model) -> None:
    """They get statistics before the cut, with the scale that undoes them, not after it."""
    path = next(p for p, layer in model.network.named_sublayers() if is_batch_norm(layer))
    norm = get(model.network, path)
    for tensor, value in ((norm.weight, 1.0), (norm.bias, 0.3), (norm._mean, 0.0)):
        tensor.set_value(paddle.full_like(tensor, value))
    norm._variance.set_value(paddle.ones_like(norm._variance) - norm._epsilon)
    cut = get(model.prune(0.3).network, path)
    factors = cut.weight.numpy() / np.sqrt(cut._variance.numpy() + cut._epsilon)
    np.testing.assert_allclose(factors, 1, atol=0.2)
    assert abs(cut._variance.numpy() - 1).min() > 0.5


def test_what_is_there_is_replaced_if_so_wanted(model: trislim.Model, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    model.export(folder, formats=["paddle"])
    with pytest.raises(ExportError, match="files: holds an earlier export"):
        model.export(folder, formats=["paddle"])
    (folder / "model.pdiparams").write_bytes(b"old")
    model.export(folder, formats=["paddle"], overwrite=True)
    assert (folder / "model.pdiparams").stat().st_size > 100


def plain(prediction: dict[str, object]) -> dict[str, object]:
    return {name: np.asarray(value).tolist() for name, value in prediction.items()}


def test_pictures_as_files_and_as_arrays(model: trislim.Model, weights: Path) -> None:
    file = picture(weights)
    pixels = read_image(str(file))
    assert plain(model.predict(file)) == plain(model.predict(str(file)))
    assert plain(model.predict(pixels)) == plain(model.predict(file))
    drawn = model.draw(file)
    assert drawn.dtype == np.uint8
    assert drawn.ndim == 3
    with pytest.raises(DataError, match=r"gone\.png"):
        model.predict("gone.png")


@pytest.mark.parametrize("channels", [1, 4])
def test_pictures_have_the_channels_that_the_model_takes(channels: int, tmp_path: Path) -> None:
    paddle.seed(0)
    settings = {
        "model": {"name": "MobileNetV3_small_x0_35", "num_classes": 3},
        "data": {"root": str(tmp_path), "channels": channels, "image_size": 32},
    }
    task = build_task("cls", settings)
    checkpoint.save(tmp_path / "run", checkpoint.describe(task), task.build_model().state_dict())
    made = trislim.load(tmp_path / "run")
    values = np.random.default_rng(0).integers(0, 256, (40, 50, channels), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), values[..., [2, 1, 0, 3]] if channels == 4 else values)
    assert made.predict(tmp_path / "a.png") == made.predict(values)
    assert made.draw(values).shape == (40, 50, 3)
    expected = rf"image: expected \[height, width, {channels}\] uint8, got \[8, 8, 3\] uint8"
    with pytest.raises(DataError, match=expected):
        made.predict(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"got .* float32"):
        made.predict(values.astype(np.float32))
    if channels == 1:
        assert made.predict(values[..., 0]) == made.predict(values)


def test_boxes_say_where_the_persons_are(model: trislim.Model) -> None:
    network = {"name": "upsampling", "backbone": "PPLCNet_x0_25"}
    task = build_task(
        "keypoint", {"model": network, "data": {"root": "none", "input_size": [64, 64]}}
    )
    people = trislim.Model(task, task.build_model())
    image = np.random.default_rng(0).integers(0, 255, (80, 90, 3), dtype=np.uint8)
    whole, part = people.predict(image, boxes=[(0, 0, 90, 80), np.array([40, 10, 30, 60])])["boxes"]
    assert whole["keypoints"] == people.predict(image)["keypoints"] != part["keypoints"]
    assert part["box"] == [40, 10, 30, 60]
    assert people.predict(image, boxes=[]) == {"boxes": []}
    drawn = people.draw(image, boxes=[[40, 10, 30, 60]])
    assert (drawn[10, 40:70] == 255).all()  # upper side of the box
    for wrong in ([1, 2, 3], [1, 2, 3, np.nan], "abcd"):
        with pytest.raises(DataError, match=r"^boxes\[1\]: expected x, y, width, height, got"):
            people.predict(image, boxes=[(0, 0, 90, 80), wrong])
    with pytest.raises(DataError, match=r"90x80, and the box \[90, 0, 5, 5\] lies outside of it"):
        people.predict(image, boxes=[(90, 0, 5, 5)])
    with pytest.raises(ConfigError, match=r"^--boxes: the task outside.toy answers for whole"):
        model.predict(image, boxes=[(0, 0, 90, 80)])


def test_settings_and_other_data(weights: Path, tmp_path: Path) -> None:
    other = trislim.load(weights, overrides=[f"data.root={tmp_path / 'other'}"])
    assert to_mapping(other.task.config)["data"]["root"] == str(tmp_path / "other")
    assert isinstance(other.task, toy.Task)
    with pytest.raises(ConfigError, match=r"quantize_output: unknown key .*quantize_outputs"):
        other.quantize(quantize_output="all")
    with pytest.raises(ConfigError, match=r"target_ratio: expected"):
        other.prune(1.5)
    with pytest.raises(ConfigError, match=r"backend: .* is no exported model"):
        trislim.load(weights, backend="paddle")
    with pytest.raises(ConfigError, match=r"output: .* is no exported model"):
        trislim.load(weights, output="logits")


def test_weights_that_do_not_describe_themselves(weights: Path, tmp_path: Path) -> None:
    (weights / "model.json").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.json beside it; name its config"):
        trislim.load(weights)
    config = tmp_path / "toy.yml"
    config.write_text(
        "task: {name: outside.toy}\nmodel: {width: 8}\n"
        f"data: {{root: {tmp_path / 'data'}}}\n"
        "train: {epochs: 1, batch_size: 4, learning_rate: 0.1}\n",
        encoding="utf-8",
    )
    made = trislim.load(weights, config=config)
    assert isinstance(made, trislim.Model)
    assert made.evaluate().keys() == {"mae"}


def test_training_from_a_script(tmp_path: Path) -> None:
    settings = {
        "task": {"name": "outside.toy"},
        "model": {"width": 4},
        "data": {"root": str(tmp_path / "data")},
        "synthetic": {},
        "train": {"epochs": 9, "batch_size": 4, "learning_rate": 0.1},
    }
    run = {"save_dir": tmp_path / "run", "overrides": ["train.epochs=1"]}
    made = trislim.train(settings, **run)
    with pytest.raises(ConfigError, match=r"run holds a (finished )?run"):
        trislim.train(settings, **run)
    assert trislim.train(settings, **run, overwrite=True).epoch == made.epoch
    assert trislim.train(settings, **run, resume=True).epoch == made.epoch
    assert made.epoch == 1
    assert (tmp_path / "run" / "latest").is_dir()


@pytest.mark.parametrize("place", ["photos", "."])
def test_saving_takes_nothing_else_away(
    model: trislim.Model, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "1.jpg").write_text("mine")
    monkeypatch.chdir(tmp_path if place == "photos" else photos)
    with pytest.raises(FileError, match=r"holds 1\.jpg, which is no part of"):
        model.save(place)
    assert (photos / "1.jpg").read_text() == "mine"
    (photos / "1.jpg").unlink()
    monkeypatch.chdir(tmp_path)
    (photos / ".DS_Store").touch()
    assert trislim.load(model.save(photos)).parameters == model.parameters
    assert trislim.load(model.save(photos)).parameters == model.parameters


def test_arguments_that_mean_nothing(model: trislim.Model, tmp_path: Path) -> None:
    for share in (0, 2, float("nan")):
        with pytest.raises(ConfigError, match=r"^share: expected a number above 0, up to 1"):
            model.evaluate(share=share)
    for batch_size in (0, -1):
        with pytest.raises(ConfigError, match=r"^batch_size: expected a whole number, 1 or more"):
            model.evaluate(batch_size=batch_size)
    for count in (0, -1):
        with pytest.raises(ConfigError, match=r"^count: expected a whole number, 1 or more"):
            model.quantize(tmp_path / "data", count=count)
    with pytest.raises(
        DataError, match=r"^image: expected \[height, width, 3\] uint8, got \[0, 8, 3"
    ):
        model.predict(np.zeros((0, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"^image: the image is 1x40000; expected sides up to"):
        model.predict(np.zeros((40000, 1, 3), np.uint8))
    with pytest.raises(DataError, match=r"^image: expected a path or an array .*, got list"):
        model.predict([1, 2])
    for shape in ([3, 10**9, 8], [10**12, 3, 8, 8]):
        with pytest.raises(ExportError, match=r"^input_shape: expected"):
            model.export(tmp_path / "out", input_shape=shape)
    with pytest.raises(ConfigError, match=r"^prune: the model is quantized; prune it first"):
        model.quantize(tmp_path / "data", count=2).prune(0.3)
    with pytest.raises(ConfigError, match=r"^num_steps: is for pruning in a training; here all"):
        model.prune(0.3, num_steps=5)
    with pytest.raises(ConfigError, match=r"^target_ratio: is what ratio says, too; give one"):
        model.prune(0.3, target_ratio=0.05)


def test_the_folder_of_a_training_names_its_checkpoint(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    weights.rename(tmp_path / "run" / "best_model")
    with pytest.raises(
        CheckpointError, match=r"run: is the folder of a training; name .*best_model"
    ):
        trislim.load(tmp_path / "run")


@pytest.mark.parametrize(("name", "missing"), [("a.xml", "a.bin"), ("a.pdmodel", "a.pdiparams")])
def test_a_file_that_needs_another(tmp_path: Path, name: str, missing: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ExportError, match=rf"{missing}: no such file, and {name} needs it"):
        trislim.load(tmp_path / name)
