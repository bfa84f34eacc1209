"""Data sets of one's own, from nothing to an int8 file and a picture.

Each takes four commands (look, train, quantize, predict) and three lines of YAML, those that the
first command writes; what `-o` changes here only saves the test's time.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from core.runtimes.description import read_description
from tasks.seg import label_maps, layouts

ROOT = Path(__file__).resolve().parents[2]
SIDE = 64
MAP = {"ground": (0, 0, 0), "disc": (200, 30, 30), "box": (30, 30, 220)}
NAMES = ["head", "left_arm", "right_arm", "hip", "left_leg", "right_leg"]
Tool = Callable[..., tuple[Any, str]]


def ground(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(50, 110, (SIDE, SIDE, 3), dtype=np.uint8)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


def draw_folders(root: Path) -> Path:
    """Four classes in flat folders."""
    for number, name in enumerate(("red ball", "red box", "blue ball", "blue box")):
        color = (220, 40, 40) if number < 2 else (40, 40, 220)
        for index in range(5):
            image, at = ground(10 * number + index), 24 + 4 * index
            if number % 2:
                cv2.rectangle(image, (at - 12, at - 12), (at + 12, at + 12), color, -1)
            else:
                cv2.circle(image, (at, at), 14, color, -1)
            write(root / name / f"{index}.jpg", image)
    return root


def draw_masks(root: Path) -> Path:
    """Colour masks with a label map, as CVAT exports them."""
    for index in range(6):
        image, mask = ground(index), np.zeros((SIDE, SIDE, 3), np.uint8)
        for canvas, colors in ((image, ((230, 190, 40), (40, 220, 200))), (mask, (*MAP.values(),))):
            disc, box = colors[-2:]
            cv2.circle(canvas, (18, 20 + 3 * index), 12, disc, -1)
            cv2.rectangle(canvas, (38, 8), (58, 30 + 4 * index), box, -1)
        write(root / "JPEGImages" / f"{index}.jpg", image)
        write(root / "SegmentationClass" / f"{index}.png", mask)
    lines = [f"{name}:{red},{green},{blue}::" for name, (red, green, blue) in MAP.items()]
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines]))
    return root


def draw_polygons(root: Path) -> Path:
    """Polygons as labelme saves them, beside their images."""
    draw_masks(root)
    for index in range(6):
        (root / "JPEGImages" / f"{index}.jpg").rename(root / f"{index}.jpg")
        box = [[38, 8], [59, 8], [59, 31 + 4 * index], [38, 31 + 4 * index]]
        disc = [[18.5, 20.5 + 3 * index], [18.5, 33 + 3 * index]]
        shapes = [
            {"label": "box", "points": box, "shape_type": "polygon"},
            {"label": "disc", "points": disc, "shape_type": "circle"},
        ]
        content = {"shapes": shapes, "imageWidth": SIDE, "imageHeight": SIDE, "imageData": None}
        (root / f"{index}.json").write_text(json.dumps(content))
    for folder in ("JPEGImages", "SegmentationClass"):
        shutil.rmtree(root / folder)
    (root / "labelmap.txt").unlink()
    return root


def draw_export(root: Path) -> Path:
    """The same in an export of CVAT."""
    draw_polygons(root)
    images = []
    for index in range(6):
        write(root / "images" / f"{index}.jpg", cv2.imread(str(root / f"{index}.jpg"))[..., ::-1])
        box = f'<box label="box" xtl="38" ytl="8" xbr="59" ybr="{31 + 4 * index}"/>'
        disc = f'<ellipse label="disc" cx="18.5" cy="{20.5 + 3 * index}" rx="12.5" ry="12.5"/>'
        name = f'name="{index}.jpg" width="{SIDE}" height="{SIDE}"'
        images.append(f'<image id="{index}" {name}>{box}{disc}</image>')
        (root / f"{index}.jpg").unlink()
        (root / f"{index}.json").unlink()
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("disc", "box"))
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    (root / "annotations.xml").write_text(f"<annotations>{meta}{''.join(images)}</annotations>")
    return root


def draw_figures(root: Path) -> Path:
    """Six joints under category 3, all in one COCO file."""
    images, annotations = [], []
    for index in range(6):
        x, y = 26 + 2 * index, 10 + index
        points = [(0, 0), (12, 10), (-12, 10), (0, 22), (8, 40), (-8, 40)]
        points = [(x + right, y + down) for right, down in points]
        image = ground(index)
        for start, end in ((0, 3), (1, 3), (2, 3), (3, 4), (3, 5)):
            cv2.line(image, points[start], points[end], (230, 210, 40), 2)
        write(root / "pictures" / f"{index}.png", image)
        images.append({"id": index, "file_name": f"{index}.png", "width": SIDE, "height": SIDE})
        keypoints = [value for point in points for value in (*point, 2)]
        box = {"bbox": [x - 16, y - 6, 32, 52], "area": 1000, "keypoints": keypoints}
        annotations.append({"id": 2 * index, "image_id": index, "category_id": 3, **box})
        other = {"id": 2 * index + 1, "image_id": index, "category_id": 1, "bbox": [0, 0, 4, 4]}
        annotations.append(other)
    robot = {"id": 3, "name": "robot", "keypoints": NAMES, "skeleton": [[1, 4], [4, 5], [4, 6]]}
    categories = [{"id": 1, "name": "box"}, robot]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "export.json").write_text(json.dumps(content))
    return root


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


def test_a_folder_of_nothing_is_told_in_a_line_for_each_task(
    call_tool: Tool, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "shots").mkdir(parents=True)
    write(tmp_path / "mine" / "shots" / "1.jpg", ground(0))
    status, output = call_tool("data.py", "inspect", "mine")
    assert status == 1
    told = [line for line in output.splitlines() if "mine holds folders shots" in line]
    assert sorted(line.split(":")[0] for line in told) == ["cls", "keypoint", "seg"]


def test_a_drawn_split_is_written_as_lists(call_tool: Tool, tmp_path: Path) -> None:
    draw_folders(tmp_path / "mine")
    status, output = call_tool("data.py", "inspect", "mine", "--task", "cls", "--save_dir", "look")
    assert status == 0, output
    assert "config_lists.yml reads them" in output
    data = yaml.safe_load((tmp_path / "look" / "config_lists.yml").read_text())["data"]
    assert len(Path(data["val_list"]).read_text().splitlines()) == 4


def test_the_page_names_tools_and_flags_that_exist() -> None:
    text = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python tools/(\w+\.py)(.*)$", text, re.M)
    assert {tool for tool, _ in commands} >= {"data.py", "train.py", "ptq.py", "predict.py"}
    shared = (ROOT / "core" / "options.py").read_text(encoding="utf-8")
    for tool, rest in commands:
        known = (ROOT / "tools" / tool).read_text(encoding="utf-8") + shared
        for flag in re.findall(r"--(\w+)", rest):
            assert f"--{flag}" in known, f"{tool} --{flag}"
    names = {*layouts.IMAGES, *layouts.MASKS, *label_maps.WITH_COLORS, *label_maps.NAMES_ONLY}
    assert {"images", "masks", "img", "gt", "labelmap.txt", "class_names.txt"} <= names
