"""The pages of segmentation and of keypoints, followed with data of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

import trislim
from tests.docs.reader import Reader
from tests.drawn_folders import NAMES, draw_figures, draw_masks
from tests.wrong_kernels import needs_right_kernels

SEGMENTATION = (
    *("model.name=FastSCNN", "model.arguments={enable_auxiliary_loss: false}", "loss.coef=[1.0]"),
    "data.size=[96,64]",
)
DEMOS = {
    "configs/seg/demo.yml": (*SEGMENTATION, "synthetic.train_images=8", "synthetic.val_images=4"),
    "configs/keypoint/demo.yml": ("synthetic.train_images=16", "synthetic.val_images=8"),
}
CITIES = ("train/aachen/a_000001", "train/ulm/u_000002", "val/bonn/b_000003")
KEYPOINT = ("model.backbone=MobileNetV1_x0_25", "data.input_size=[64,32]")


@needs_right_kernels
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


@pytest.mark.chain
def test_segmentation_readme(tmp_path: Path) -> None:
    """The demo, and the command that writes the lists of Cityscapes."""
    root = tmp_path / "data" / "cityscapes"
    for name in CITIES:
        file = root / "leftImg8bit" / f"{name}_leftImg8bit.png"
        file.parent.mkdir(parents=True)
        file.touch()
    assert Reader(tmp_path, DEMOS).follow("tasks/seg/README.md") == 2
    lines = (root / "train.list").read_text().splitlines()
    assert lines[1] == " ".join(
        f"{kind}/train/ulm/u_000002_{ending}.png"
        for kind, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelTrainIds"))
    )
    assert [len(lines), len((root / "val.list").read_text().splitlines())] == [2, 1]


@pytest.mark.chain
def test_keypoint_readme(tmp_path: Path) -> None:
    assert Reader(tmp_path, DEMOS).follow("tasks/keypoint/README.md") == 1
