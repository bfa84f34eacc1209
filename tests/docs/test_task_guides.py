"""The pages of segmentation and of keypoints, followed with data of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

import trislim
from tests.docs.reader import Reader
from tests.drawn_folders import NAMES, draw_figures, draw_masks

SEGMENTATION = (
    *("model.name=FastSCNN", "model.arguments={enable_auxiliary_loss: false}", "loss.coef=[1.0]"),
    "data.size=[64,64]",
)
KEYPOINT = ("model.backbone=MobileNetV1_x0_25", "data.input_size=[64,32]")


@pytest.mark.chain
def test_segmentation(tmp_path: Path) -> None:
    reader = Reader(tmp_path, {"look/config.yml": SEGMENTATION})
    draw_masks(tmp_path / "street", "images", "masks")
    reader.draw_new_photos(".jpg")
    assert reader.follow("docs/segmentation.md") > 12
    assert reader.read_configs("docs/segmentation.md") == 1
    model = trislim.load(tmp_path / "int8", backend="onnxruntime")
    mask = model.predict(tmp_path / "new_photos" / "1.jpg")["mask"]
    assert (mask == reader.found["mask"]).all()  # of the page's own program


@pytest.mark.chain
def test_keypoint(tmp_path: Path) -> None:
    reader = Reader(tmp_path, {"look/config.yml": KEYPOINT})
    draw_figures(tmp_path / "robots")
    reader.draw_new_photos(".png")
    assert reader.follow("docs/keypoint.md") > 12
    assert reader.read_configs("docs/keypoint.md") == 1
    assert len(reader.found["prediction"]["keypoints"]) == len(NAMES)
