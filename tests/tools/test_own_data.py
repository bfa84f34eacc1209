"""Data sets of one's own, from nothing to an int8 file and a picture.

Each takes four commands (look, train, quantize, predict) and three lines of YAML, those that the
first command writes; what `-o` changes here only saves the test's time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from core.runtimes.description import read_description
from tests.drawn_folders import (
    SIDE,
    draw_export,
    draw_figures,
    draw_folders,
    draw_masks,
    draw_polygons,
    ground,
    write,
)

Tool = Callable[..., tuple[Any, str]]


@dataclass(frozen=True)
class Own:
    """A data set, what inspection says of it, and what makes its training short."""

    draw: Callable[[Path], Path]
    task: str
    said: tuple[str, ...]
    short: tuple[str, ...]
    pictures: str


OWN = [
    Own(
        draw_folders,
        "cls",
        ("4 classes", "16 pictures for training, 4 for validation"),
        ("model.name=SqueezeNet1_1", "data.image_size=32", "data.resize_short=32"),
        "",
    ),
    Own(
        draw_masks,
        "seg",
        ("3 classes: ground, disc, box", "masks are in colours"),
        ("model.name=FastSCNN", "model.arguments={enable_auxiliary_loss: false}"),
        "JPEGImages",
    ),
    Own(
        draw_polygons,
        "seg",
        ("labelme's JSON files", "3 classes: background, box, disc; shapes: box (6), disc (6)"),
        ("model.name=FastSCNN", "model.arguments={enable_auxiliary_loss: false}"),
        "",
    ),
    Own(
        draw_export,
        "seg",
        ("an export of CVAT for images", "3 classes: background, disc, box"),
        ("model.name=FastSCNN", "model.arguments={enable_auxiliary_loss: false}"),
        "images",
    ),
    Own(
        draw_figures,
        "keypoint",
        ("6 joints of 'robot' (id 3)", "left_arm and right_arm, left_leg and right_leg"),
        ("model.backbone=MobileNetV1_x0_25", "model.name=upsampling", "data.input_size=[64,32]"),
        "pictures",
    ),
]


@pytest.mark.parametrize("own", OWN, ids=lambda own: own.draw.__name__)
def test_from_nothing_to_int8_and_a_picture(call_tool: Tool, tmp_path: Path, own: Own) -> None:
    (tmp_path / "mine").mkdir()
    own.draw(tmp_path / "mine")
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}

    status, output = call_tool("data.py", "inspect", "mine", "--save_dir", "look")
    assert status == 0, output
    assert f"(task {own.task})" in output
    assert all(said in output for said in own.said), output
    config = (tmp_path / "look" / "config.yml").read_text()
    assert config in output
    assert len(config.splitlines()) == 3
    assert yaml.safe_load(config)["data"] == {"root": "mine"}
    assert cv2.imread(str(tmp_path / "look" / "samples.png")) is not None

    short = [f"-o{each}" for each in ("train.epochs=1", "data.num_workers=0", *own.short)]
    status, output = call_tool("train.py", "-c", "look/config.yml", "--save_dir", "run", *short)
    assert status == 0, output

    status, output = call_tool(
        "ptq.py", "--weights", "run/best_model", "--save_dir", "small", "--no_metric"
    )
    assert status == 0, output
    description = read_description(tmp_path / "small" / "int8")
    assert description is not None
    assert description.quantization is not None

    pictures = str(Path("mine", own.pictures))
    status, output = call_tool(
        *("predict.py", "--model_dir", "small/int8"),
        *("--image_path", pictures, "--save_dir", "seen"),
    )
    assert status == 0, output
    predicted = json.loads((tmp_path / "seen" / "predictions.json").read_text())
    for name, entry in predicted.items():
        drawn = cv2.imread(str(tmp_path / "seen" / entry["picture"]))
        assert drawn.shape == (SIDE, SIDE, 3), name
    after = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert after == before  # nothing is written into the user's folder


@pytest.mark.parametrize("own", [OWN[0], OWN[1]], ids=lambda own: own.task)
def test_grey_pictures_are_trained_on_and_looked_at(
    call_tool: Tool, tmp_path: Path, own: Own
) -> None:
    own.draw(tmp_path / "mine")
    given = (f"task={own.task}", "data.root=mine", "data.channels=1", "data.num_workers=0")
    short = [f"-o{each}" for each in (*given, "train.epochs=1", *own.short)]
    status, output = call_tool("train.py", *short, "--save_dir", "run")
    assert status == 0, output
    drawn = cv2.imread(str(tmp_path / "run" / "validation.png"))
    pixels = drawn[:240].reshape(-1, 3).astype(int)  # of the first row, without its words
    assert (np.ptp(pixels, axis=1) == 0).mean() > 0.5


def test_a_run_needs_no_config_at_all(call_tool: Tool, tmp_path: Path) -> None:
    draw_folders(tmp_path / "mine")
    given = ["-o", "task=cls", "-o", "data.root=mine", "-o", "model.name=SqueezeNet1_1"]
    status, output = call_tool("train.py", *given, "--dry_run", "--save_config", "whole.yml")
    assert status == 0, output
    assert "30 epochs, 30 steps" in output
    whole = yaml.safe_load((tmp_path / "whole.yml").read_text())
    assert whole["data"]["root"] == "mine"
    (tmp_path / "output" / "cls" / "run" / "latest").mkdir(parents=True)
    (tmp_path / "output" / "cls" / "run" / "latest" / "model.json").write_text("{}")
    status, output = call_tool("train.py", *given, "--dry_run")
    assert status == 2
    assert "output/cls/run holds an earlier run" in output


def test_a_folder_of_nothing_is_told_in_a_line_for_each_task(
    call_tool: Tool, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "shots").mkdir(parents=True)
    write(tmp_path / "mine" / "shots" / "1.jpg", ground(0))
    status, output = call_tool("data.py", "inspect", "mine")
    assert status == 1
    told = [line for line in output.splitlines() if "mine holds folders shots" in line]
    assert sorted(line.split(":")[0] for line in told) == ["cls", "keypoint", "seg"]


@pytest.mark.parametrize("own", [OWN[0], OWN[1], OWN[-1]], ids=lambda own: own.task)
def test_pictures_that_training_would_stop_at_end_inspection_with_1(
    call_tool: Tool, tmp_path: Path, own: Own
) -> None:
    own.draw(tmp_path / "mine")
    pictures = sorted((tmp_path / "mine" / own.pictures).rglob("*.[jp][pn]g"))
    for picture in pictures:
        picture.write_bytes(picture.read_bytes()[:40])
    status, output = call_tool("data.py", "inspect", "mine", "--task", own.task)
    assert status == 1, output
    assert "missing or wrong: cannot be read: " in output
    assert "training would stop there (data.on_error: skip leaves out" in output


def test_a_drawn_split_is_written_as_lists(call_tool: Tool, tmp_path: Path) -> None:
    draw_folders(tmp_path / "mine")
    status, output = call_tool("data.py", "inspect", "mine", "--task", "cls", "--save_dir", "look")
    assert status == 0, output
    assert "config_lists.yml reads them" in output
    data = yaml.safe_load((tmp_path / "look" / "config_lists.yml").read_text())["data"]
    assert len(Path(data["val_list"]).read_text().splitlines()) == 4
    status, output = call_tool("data.py", "inspect", "mine", "--task", "cls", "--save_dir", "look")
    assert status == 0, output  # its own files are replaced
    (tmp_path / "look" / "labels.txt").write_text("mine")
    before = (tmp_path / "look" / "config.yml").read_bytes()
    status, output = call_tool("data.py", "inspect", "mine", "--task", "cls", "--save_dir", "look")
    assert (status, "look/labels.txt: was changed since; move it" in output) == (2, True)
    assert (tmp_path / "look" / "config.yml").read_bytes() == before
    for inside in ("mine", "mine/look"):
        status, output = call_tool("data.py", "inspect", "mine", "--save_dir", inside)
        assert (status, f"error: {inside}: lies in mine, where what" in output) == (2, True)
    assert not (tmp_path / "mine" / "config.yml").exists()
