"""README, the page of classification and the guides, followed by one reader."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import trislim
from core.settings.config import load_yaml
from tests.calling import call
from tests.docs.reader import Reader
from tests.drawn_folders import draw_folders, ground, write

NETWORK = "model.name=SqueezeNet1_1"  # is traced and exported in a second
SMALL = {
    "configs/cls/demo.yml": (
        *(NETWORK, "synthetic.train_images=32", "synthetic.val_images=8"),
        "train.batch_size=8",
    ),
    "look/config.yml": (NETWORK, "data.image_size=32", "data.resize_short=36"),
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Someone with class folders of their own who begins with the README."""
    reader = beginner(tmp_path_factory.mktemp("cls"))
    assert reader.follow("README.md") > 15
    return reader


def beginner(folder: Path) -> Reader:
    """Return someone with class folders of their own who has read nothing yet."""
    reader = Reader(folder, SMALL)
    draw_folders(folder / "photos")
    reader.draw_new_photos(".jpg")
    return reader


@pytest.mark.chain
def test_readme(reader: Reader) -> None:
    made = reader.folder / "output"
    names = ("look/samples.png", "cls/demo/curves.png", "int8/model.onnx", "ptq/int8/deploy.yml")
    assert [name for name in names if not (made / name).is_file()] == []
    before, after = (load_yaml(made / name / "deploy.yml") for name in ("exported", "int8"))
    assert after["report"]["macs"] < 0.6 * before["report"]["macs"]
    assert after["quantization"]["layers"] > 10


@pytest.mark.chain
def test_classification(tmp_path: Path) -> None:
    reader = beginner(tmp_path)
    assert reader.follow("docs/classification.md") > 8
    assert reader.read_configs("docs/classification.md") == 1
    model = trislim.load(reader.folder / "int8", backend="onnxruntime")
    best = model.predict(reader.folder / "new_photos" / "1.jpg")["top"][0]
    scores = np.exp(reader.found["logits"][0].astype(np.float64))  # of the page's own program
    assert best["label"] == scores.argmax()
    assert best["score"] == pytest.approx(scores.max() / scores.sum(), abs=1e-5)


@pytest.mark.chain
def test_own_data(reader: Reader, tmp_path: Path) -> None:
    wanted = ("--weights", "run/best_model", "--ending", "softmax", "--format", "paddle,onnx")
    folder, place = tmp_path, ("--save_dir", tmp_path / "theirs_paddle")
    status, output = call(reader.folder, "export_model.py", *wanted, *place)
    assert status == 0, output
    reader = beginner(folder)
    (folder / "theirs_paddle" / "deploy.yml").unlink()  # of another project, it has none
    (folder / "theirs_paddle" / "model.onnx").rename(folder / "theirs.onnx")
    assert reader.follow("docs/own_data.md") == 9
    assert (folder / "small/int8/deploy.yml").is_file()
    assert (folder / "theirs_int8/int8/deploy.yml").is_file()


def draw_video(file: Path) -> None:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 5, (64, 64))
    for index in range(3):
        writer.write(ground(index))
    writer.release()


@pytest.mark.chain
@pytest.mark.parametrize(
    ("page", "least"),
    [
        *(("docs/predict.md", 3), ("docs/prune.md", 2), ("docs/distill.md", 2)),
        *(("docs/quantize.md", 8), ("docs/python.md", 1), ("docs/files.md", 1)),
        *(("docs/measuring.md", 1), ("docs/zoo.md", 2)),
    ],
)
def test_guides(reader: Reader, page: str, least: int) -> None:
    write(reader.folder / "a.jpg", ground(0))
    draw_video(reader.folder / "clip.mp4")
    assert reader.follow(page) >= least


@pytest.mark.chain
def test_the_readme_of_the_task(tmp_path: Path) -> None:
    assert beginner(tmp_path).follow("tasks/cls/README.md") == 2
