"""Inputs that are not square, and images of one channel or four."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest

from core.errors import ConfigError, DataError
from core.export.package import export
from core.runtimes.image_model import exported_model
from core.runtimes.predict_images import predict_files
from core.runtimes.predictor import load_predictor
from core.settings.config import merge
from core.task import Task, build_task
from tasks.cls import transforms
from tasks.cls.config import DataConfig

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (24, 90, 4), dtype=np.uint8)


def write(path: Path, channels: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), PIXELS[..., :channels])


def cls(root: Path, file_channels: int = 3, **sections: Any) -> Task:
    for name in ("ant", "bee"):
        for index in range(3):
            write(root / name / f"{index}.png", file_channels)
    settings = {
        "model": {"name": "MobileNetV1_x0_25", "num_classes": 2},
        "data": {"root": str(root), "num_workers": 0},
    }
    return build_task("cls", merge(settings, sections))


def seg(root: Path, file_channels: int, **sections: Any) -> Task:
    for index in range(3):
        write(root / "images" / f"{index}.png", file_channels)
        mask = RNG.integers(0, 2, PIXELS.shape[:2]).astype(np.uint8)
        (root / "masks").mkdir(exist_ok=True)
        cv2.imwrite(str(root / "masks" / f"{index}.png"), mask)
    settings = {
        "model": {"name": "BiSeNetV2", "num_classes": 2},
        "data": {"root": str(root), "num_workers": 0, "size": [64, 32]},
        "augment": {"resize": [64, 32]},
    }
    return build_task("seg", merge(settings, sections))


def sample_of(task: Task, split: Any) -> dict[str, np.ndarray]:
    dataset = task.build_dataset(split)
    return dataset.sample(0, np.random.default_rng(0))


@pytest.mark.parametrize("make", [cls, seg])
@pytest.mark.parametrize(("channels", "in_file"), [(1, 3), (1, 1), (4, 4), (3, 1)])
def test_samples_and_networks_have_the_channels(
    tmp_path: Path, make: Any, channels: int, in_file: int
) -> None:
    sections: dict[str, Any] = {"data": {"channels": channels}}
    if make is cls:
        sections["data"]["image_size"] = [32, 64]
        sections["augment"] = {"brightness": 0.5, "contrast": 0.5, "erasing": 1.0}
    task = make(tmp_path, in_file, **sections)
    for split in ("train", "val", "calibration"):
        assert sample_of(task, split)["image"].shape == (channels, 32, 64)
    [spec] = task.input_spec()
    assert list(spec.shape[1:]) == [channels, 32, 64]
    model = task.build_model()
    model.eval()
    model(paddle.to_tensor(sample_of(task, "val")["image"][None]))


def test_four_channels_must_be_in_the_file(tmp_path: Path) -> None:
    task = cls(tmp_path, 3, data={"channels": 4})
    with pytest.raises(DataError, match=r"\.png: the image has 3 channels of uint8, expected 4"):
        sample_of(task, "val")


def test_the_fourth_channel_stays_the_fourth(tmp_path: Path) -> None:
    data = {"channels": 4, "image_size": [24, 90], "mean": [0] * 4, "std": [1] * 4}
    image = sample_of(cls(tmp_path, 4, data=data), "val")["image"]
    stored = PIXELS[..., [2, 1, 0, 3]].transpose(2, 0, 1) / 255  # OpenCV writes BGRA
    np.testing.assert_allclose(image, stored, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "sections", "message"),
    [
        ("cls", {"data": {"channels": 2}}, r"^data\.channels: expected one of 1, 3, 4, got 2"),
        ("cls", {"data": {"channels": 1, "mean": [0, 0]}}, r"^data\.mean: expected 1 values"),
        (
            "cls",
            {"data": {"channels": 1}, "augment": {"policy": "autoaugment"}},
            r"^augment\.policy: expected none, as data\.channels is 1 and it needs RGB",
        ),
        ("cls", {"data": {"image_size": [4, 64]}}, r"^data\.image_size: expected at least 8"),
        (
            "cls",
            {"data": {"image_size": [48, 192], "resize_short": 256}},
            r"^data\.resize_short: expected null, as pictures are stretched",
        ),
        (
            "cls",
            {"model": {"options": {"input_image_channel": 1}}},
            r"^model\.options\.input_image_channel: data\.channels says how many channels",
        ),
        (
            "seg",
            {"data": {"channels": 4}, "augment": {"distort": 0.5}},
            r"^augment\.distort: expected 0, as data\.channels is 4 and it needs RGB",
        ),
        (
            "seg",
            {"data": {"channels": 1}, "model": {"name": "ESPNetV1", "num_classes": 11}},
            r"^data\.channels: ESPNetV1 cannot take images of 1 channels",
        ),
        ("keypoint", {"data": {"channels": 1}}, r"^data\.channels: unknown key"),
    ],
)
def test_what_cannot_be_is_one_line(task: str, sections: dict[str, Any], message: str) -> None:
    models = {
        "cls": {"name": "MobileNetV1_x0_25", "num_classes": 2},
        "seg": {"num_classes": 2},
        "keypoint": {"name": "lite_hrnet_18"},
    }
    settings = {"model": models[task], "data": {"root": "x"}}
    with pytest.raises(ConfigError, match=message):
        build_task(task, merge(settings, sections)).build_model()


def test_three_means_are_averaged_for_grey() -> None:
    data = DataConfig("x", channels=1, mean=(0.1, 0.2, 0.6), std=(1.0, 2.0, 3.0))
    assert data.mean == pytest.approx((0.3,))
    assert data.std == (2.0,)
    assert DataConfig("x", channels=4).mean[3] == pytest.approx(0.449, abs=1e-3)
    assert DataConfig("x", channels=1, mean=(0.5,), std=(0.5,)).mean == (0.5,)


@pytest.mark.parametrize(("side", "short"), [(224, 256), (64, 73), ([48, 192], None)])
def test_the_shorter_side_goes_with_the_input(side: Any, short: int | None) -> None:
    size = side if isinstance(side, int) else tuple(side)
    assert DataConfig("x", image_size=size).shorter_side == short


def test_windows_of_an_oblong_input_have_the_pictures_shape() -> None:
    image = np.zeros((100, 400, 3), np.uint8)
    image[..., 0] = np.arange(400) // 2
    rng = np.random.default_rng(0)
    for _ in range(50):
        cut = transforms.random_resized_crop(image, rng, (48, 192), (0.5, 1.0), (0.8, 1.25))
        assert cut.shape == (48, 192, 3)
        # 0.8 to 1.25 of the picture's own shape: at least sqrt(0.5 * 0.8) of its width is seen
        assert int(cut[0, -1, 0]) - int(cut[0, 0, 0]) > 0.6 * 200 - 4


def test_a_grey_oblong_model_is_exported_and_predicts(tmp_path: Path) -> None:
    data = {"channels": 1, "image_size": [48, 192]}
    task = cls(tmp_path / "data", 1, data=data)
    model = task.build_model()
    made = export(task, model, tmp_path / "model", formats=("onnx",))
    assert made.description.inputs[0].shape == (-1, 1, 48, 192)
    assert made.description.preprocess is not None
    assert made.description.preprocess.channels == "grey"
    predictor = load_predictor(tmp_path / "model", "onnxruntime")
    predict_files(exported_model(task, predictor), tmp_path / "data" / "ant", tmp_path / "seen")
    drawn = cv2.imread(str(tmp_path / "seen" / "0.png"))
    assert drawn.shape == (24, 90, 3)
