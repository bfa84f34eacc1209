"""Annotations with values of neighbouring kinds: refused in one line, or read as they stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from core.errors import DataError
from tasks.keypoint.boxes import read_boxes
from tasks.keypoint.config import DataConfig
from tasks.keypoint.layouts import find_layout
from tasks.keypoint.yolo import load_yolo, read_yolo
from tasks.seg import own_data
from tasks.seg.label_maps import find_label_map, read_colors
from tasks.seg.pairs import read_stems
from tasks.seg.shapes import whole

GOOD = "0 .5 .5 .5 .5 .4 .4 2 .5 .5 1 .6 .6 0"


def write_yolo(root: Path, line: str = GOOD, **changes: Any) -> Path:
    (root / "images").mkdir()
    (root / "labels").mkdir()
    cv2.imwrite(str(root / "images" / "0.png"), np.zeros((20, 20, 3), np.uint8))
    (root / "labels" / "0.txt").write_text(line)
    known = {"train": "images", "val": "images", "kpt_shape": [3, 3], "names": {0: "person"}}
    kept = {key: value for key, value in {**known, **changes}.items() if value is not None}
    (root / "data.yaml").write_text(yaml.safe_dump(kept))
    return root / "data.yaml"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD.replace("0 .5", "99 .5", 1), "expected a class of names .0., got 99"),
        (GOOD.replace("0 .5", "0.7 .5", 1), "expected a class of names .0., got 0.7"),
        (GOOD.replace("0 .5", "nan .5", 1), "expected a class of names .0., got nan"),
        (GOOD.replace("0 .5", "1e999 .5", 1), "expected a class of names .0., got 1e999"),
        (GOOD.replace(".4 .4 2", ".4 .4 7"), "expected a visibility of 0, 1 or 2, got 7.0"),
        (GOOD.replace(".4 .4 2", ".4 .4 nan"), "expected a visibility of 0, 1 or 2, got nan"),
        (GOOD.replace(".4 .4 2", "1e300 .4 2"), "expected joints in shares of the image"),
        (GOOD.replace(".4 .4 2", ".4 nan 2"), "expected joints in shares of the image"),
    ],
)
def test_lines_of_yolo(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"labels/0\.txt:1: {message}"):
        load_yolo(write_yolo(tmp_path, line), 3, None, "train", str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": {"person": 0}}, "names: expected numbers of classes, got 'person'"),
        ({"flip_idx": ["nose", 2, 1]}, "flip_idx: expected 3 joints in pairs"),
        ({"flip_idx": [0.0, 2.0, 1.0]}, "flip_idx: expected 3 joints in pairs"),
        ({"val": "a" * 5000}, "val: no name of a file"),
        ({"names": None, "nc": "many"}, "nc: expected 1 to 100000, got 'many'"),
    ],
)
def test_keys_of_yolo(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.yaml: {message}"):
        read_yolo(write_yolo(tmp_path, **changes))


def test_a_good_file_of_yolo_is_read(tmp_path: Path) -> None:
    found = load_yolo(write_yolo(tmp_path), 3, None, "train", str(tmp_path))
    assert [person["num_keypoints"] for person in found.people] == [2]


def test_classes_of_yolo_may_be_counted_alone(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, GOOD.replace("0 .5", "2 .5", 1), names=None, nc=3)
    assert len(load_yolo(path, 3, None, "train", str(tmp_path)).people) == 1


@pytest.mark.parametrize("images", [5, "a", None, {"a": 1}])
def test_images_of_coco_that_are_no_list(tmp_path: Path, images: Any) -> None:
    content = {"images": images, "annotations": [{"keypoints": [1, 1, 2]}], "categories": []}
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="its images are not found"):
        find_layout(DataConfig(root=str(tmp_path)), {})


@pytest.mark.parametrize("crowd", ["0", "no", 0.5, None, [0]])
def test_crowds_of_boxes_are_numbers(tmp_path: Path, crowd: Any) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"image_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": crowd}]))
    with pytest.raises(DataError, match="iscrowd: expected 0 or 1"):
        read_boxes(path, None, 0.5)


def test_names_in_lists_of_voc_may_have_dots_and_spaces(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    lines = ["frame.1", "frame.2.jpg", "img 1", "a/b.png masks/b.png", "plain"]
    path.write_text("\n".join(lines))
    assert read_stems(path) == ["frame.1", "frame.2", "img 1", "b", "plain"]


def test_names_of_classes_keep_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("unlabeled\nroad\ncar\nvoid\n")
    found = find_label_map(tmp_path)
    assert found is not None
    assert found.names == ("unlabeled", "road", "car")


def test_a_vast_line_of_a_label_map(tmp_path: Path) -> None:
    path = tmp_path / "labelmap.txt"
    path.write_text("a:0,0,0::\n" + "x" * 200_000)
    with pytest.raises(DataError, match=r"labelmap\.txt:2: expected 'name"):
        read_colors(path)


@pytest.mark.parametrize("value", [2**31, 10**5000], ids=["large", "vast"])
def test_vast_numbers_of_pixels(value: int) -> None:
    with pytest.raises(
        DataError, match="left: expected a whole number from 0 on, got 'a vast one'"
    ):
        whole(value, "left")


@pytest.mark.parametrize("broken", ["no image", "other size"])
def test_masks_that_stop_training_stop_the_inspection(tmp_path: Path, broken: str) -> None:
    for index in range(4):
        for folder in ("images", "masks"):
            path = tmp_path / folder / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), np.full((16, 16), index % 2, np.uint8))
    assert own_data.inspect({"data": {"root": str(tmp_path)}}).trainable
    if broken == "no image":
        (tmp_path / "masks" / "1.png").write_bytes(b"no image")
    else:
        cv2.imwrite(str(tmp_path / "masks" / "1.png"), np.ones((8, 8), np.uint8))
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert found.missing
    assert not found.trainable
