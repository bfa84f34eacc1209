"""COCO files and YOLO labels without a word in the config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from core.errors import ConfigError, DataError
from core.settings.config import merge, read
from tasks.keypoint import own_data
from tasks.keypoint.config import Config
from tasks.keypoint.data import KeypointDataset, load_split
from tasks.keypoint.joint_names import find_flip_pairs, joints_of_category

NAMES = ["head", "left_arm", "right_arm", "hip", "left_leg", "right_leg"]
LIMBS = [[1, 4], [2, 4], [3, 4], [4, 5], [4, 6]]
ROBOT = {"id": 3, "name": "robot", "keypoints": NAMES, "skeleton": LIMBS}
WIDTH, HEIGHT = 120, 100


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))


def write_coco(root: Path, file: str, images: str, count: int = 5, **changes: Any) -> None:
    joints = changes.pop("joints", 6)
    for index in range(count):
        picture(root / images / f"{index}.png")
    points = [value for i in range(joints) for value in (30 + 2 * i, 20 + 3 * i, 2)]
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT}
            for i in range(count)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 3, "bbox": [20, 10, 40, 60], "area": 2000}
            | {"keypoints": points}
            for i in range(count)
        ]
        + [{"id": 99, "image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9]}],
        "categories": [{"id": 1, "name": "box"}, ROBOT],
        **changes,
    }
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))


def config_of(root: Path, **data: Any) -> Config:
    given = {"data": {"root": str(root), "num_workers": 0, **data}}
    found = {k: v for k, v in own_data.from_data(given).items() if k != "train"}
    whole = merge({"model": {"name": "lite_hrnet_18"}}, found)
    return read(Config, merge(whole, given))


@pytest.mark.parametrize(
    ("places", "counts"),
    [
        ([("export.json", "pictures")], (4, 1)),
        ([("annotations/x_train.json", "images/train"), ("annotations/x_val.json", "v")], (5, 5)),
        ([("train/_annotations.coco.json", "train"), ("valid/_annotations.coco.json", "valid")],
         (5, 5)),
    ],
)  # fmt: skip
def test_coco_files_and_their_images_are_found(
    tmp_path: Path, places: list[tuple[str, str]], counts: tuple[int, int]
) -> None:
    for file, images in places:
        write_coco(tmp_path, file, images)
    (tmp_path / "other.json").write_text("[1, 2]")
    config = config_of(tmp_path)
    persons = [load_split(config, split)[1] for split in ("train", "val")]
    assert tuple(map(len, persons)) == counts
    assert config.model.num_joints == 6
    assert config.data.input_size == (256, 192)
    joints = config.joint_set
    assert joints.names == tuple(NAMES)
    assert joints.flip_pairs == ((1, 2), (4, 5))
    assert joints.skeleton == ((0, 3), (1, 3), (2, 3), (3, 4), (3, 5))
    assert config.augment.half_body == 0
    sample = KeypointDataset(config, "train", persons[0]).sample(0, np.random.default_rng(0))
    assert sample["target"].shape[0] == 6


def test_one_file_gives_each_image_to_one_split(tmp_path: Path) -> None:
    write_coco(tmp_path, "all.json", "images", 10)
    config = config_of(tmp_path)
    train, val = (set(load_split(config, s)[1].files.tolist()) for s in ("train", "val"))
    assert (len(train), len(val)) == (8, 2)
    assert not train & val


def test_the_category_can_be_chosen(tmp_path: Path) -> None:
    other = {"id": 1, "name": "box", "keypoints": ["a", "b"]}
    write_coco(tmp_path, "all.json", "images", categories=[other, ROBOT])
    with pytest.raises(DataError, match=r"'box' \(id 1\) have no keypoints; 'robot' \(id 3\)"):
        config_of(tmp_path)
    assert config_of(tmp_path, category="robot").joint_set.names == tuple(NAMES)


def test_cocos_own_joints_need_no_words(tmp_path: Path) -> None:
    person = {"id": 3, "name": "person"}
    write_coco(tmp_path, "all.json", "images", joints=17, categories=[person])
    config = config_of(tmp_path)
    assert config.joint_set.names[0] == "nose"
    assert config.augment.half_body > 0


def test_without_names_nothing_is_mirrored(tmp_path: Path) -> None:
    write_coco(tmp_path, "all.json", "images", categories=[{"id": 3, "name": "robot"}])
    config = config_of(tmp_path)
    assert config.model.num_joints == 6
    assert config.augment.flip == 0
    assert not config.evaluation.flip_test
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert "which joints a mirror swaps is not known" in found.found[1]
    given = {"model": {"name": "lite_hrnet_18"}, "data": {"root": str(tmp_path), "num_workers": 0}}
    flipped = {"augment": {"flip": 0.5}}
    settings = {k: v for k, v in own_data.from_data(given).items() if k != "train"}
    with pytest.raises(ConfigError, match=r"joints.flip_pairs: needed for augment.flip"):
        read(Config, merge(merge(given, settings), flipped))


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (NAMES, ((1, 2), (4, 5))),
        (["L_eye", "R_eye", "nose"], ((0, 1),)),
        (["eye.r", "eye.l"], ((0, 1),)),
        (["leftEye", "rightEye", "EyeL", "EyeR"], ((0, 1), (2, 3))),
        (["Left Knee", "Right Knee"], ((0, 1),)),
        (["nose", "tail", "roll"], None),
        (["tl", "tr", "bl", "br"], None),
        (["tip"], ()),
        (["left_eye", "nose"], None),
        ([], None),
    ],
)
def test_sides_are_read_from_names(names: list[str], pairs: Any) -> None:
    assert find_flip_pairs(names) == pairs


def test_skeletons_count_from_one_or_zero() -> None:
    found = joints_of_category("x", {"id": 1, "skeleton": [[0, 1], [1, 2]]}, 3)
    assert found.skeleton == ((0, 1), (1, 2))
    with pytest.raises(DataError, match=r"skeleton: joint 4 of 3"):
        joints_of_category("x", {"id": 1, "skeleton": [[1, 4]]}, 3)
    with pytest.raises(DataError, match=r"skeleton: expected pairs of joints"):
        joints_of_category("x", {"id": 1, "skeleton": [[1, 2, 3]]}, 3)
    with pytest.raises(DataError, match=r"names 2 keypoints, annotations have 3"):
        joints_of_category("x", {"id": 1, "keypoints": ["a", "b"]}, 3)


def write_yolo(root: Path, splits: dict[str, str], count: int = 5, **changes: Any) -> None:
    content = {
        "kpt_shape": [6, 3],
        "flip_idx": [0, 2, 1, 3, 5, 4],
        "names": {0: "robot"},
        **{key: f"images/{folder}" for key, folder in splits.items()},
        **changes,
    }
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    (root / "notes.yaml").write_text("a: 1\n")
    points = " ".join(f"{0.3 + 0.02 * i:.4f} {0.2 + 0.05 * i:.4f} 2" for i in range(6))
    for folder in splits.values():
        (root / "labels" / folder).mkdir(parents=True)
        for index in range(count):
            picture(root / "images" / folder / f"{folder}{index}.png")
            line = f"0 0.5 0.5 0.4 0.6 {points}\n"
            (root / "labels" / folder / f"{folder}{index}.txt").write_text(line)


def test_yolo_labels(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train": "a", "val": "b"})
    config = config_of(tmp_path)
    assert config.joint_set.flip_pairs == ((1, 2), (4, 5))
    (_, train), (_, val) = (load_split(config, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (5, 5)
    np.testing.assert_allclose(train.boxes[0], [36, 20, 48, 60], atol=1e-4)
    np.testing.assert_allclose(train.joints[0, 0], [36, 20, 2], atol=1e-4)
    sample = KeypointDataset(config, "val", val).sample(0, np.random.default_rng(0))
    assert sample["target"].max() > 0.9
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert found.layout == "YOLO pose labels (data.yaml)"
    assert found.found[0].startswith("6 joints of 'robot'")


def test_yolo_without_validation_is_split(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train": "a"})
    config = config_of(tmp_path)
    train, val = (set(load_split(config, s)[1].files.tolist()) for s in ("train", "val"))
    assert (len(train), len(val)) == (4, 1)
    assert not train & val


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.4 0.6 1 1 2", r"a0\.txt:1: expected 23 numbers .*6 joints of 3\), got 8"),
        ("0 x 0.5", r"a0\.txt:1: expected numbers, got '0 x 0\.5'"),
        ("0 50 50 40 60" + " 1 1 2" * 6, r"a0\.txt:1: expected a box in shares of the image"),
    ],
)
def test_broken_yolo_labels_are_named(tmp_path: Path, line: str, message: str) -> None:
    write_yolo(tmp_path, {"train": "a"})
    (tmp_path / "labels" / "a" / "a0.txt").write_text(line)
    with pytest.raises(DataError, match=message):
        config_of(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kpt_shape": [6]}, r"kpt_shape: expected \[joints, 2 or 3\], got \[6\]"),
        ({"flip_idx": [1, 2, 0, 3, 4, 5]}, r"flip_idx: expected 6 joints in pairs"),
        ({"train": "gone"}, r"train: expected a folder of images, got 'gone'"),
    ],
)
def test_broken_yolo_files_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_yolo(tmp_path, {"train": "a"}, **changes)
    with pytest.raises(DataError, match=message):
        config_of(tmp_path)


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_boxes_and_outlines_without_keypoints_are_told(tmp_path: Path, kind: str) -> None:
    picture(tmp_path / "images" / "0.png")
    if kind == "coco":
        box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9]}
        content = {"images": [{"id": 0, "file_name": "0.png"}], "annotations": [box]}
        (tmp_path / "boxes.json").write_text(json.dumps(content))
    else:
        (tmp_path / "boxes.yaml").write_text("train: images\nval: images\nnames: [box]\n")
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "a.yaml").write_text("names: [box]\n")
    (told,) = own_data.inspect({"data": {"root": str(tmp_path)}}).missing
    assert "; boxes." in told
    assert told.endswith("has boxes or outlines and no keypoints, and no task reads those")


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_keypoints_under_another_name_are_not_called_boxes(tmp_path: Path, kind: str) -> None:
    if kind == "coco":
        write_coco(tmp_path, "persons.json", "images")
    else:
        write_yolo(tmp_path, {"train": "a"})
    with pytest.raises(DataError, match="no such file") as raised:
        load_split(config_of(tmp_path, val_annotations="other.json"), "val")
    assert "no keypoints" not in str(raised.value)


def test_both_files_of_coco_are_named(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_coco(tmp_path, f"{split}.json", split)
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert found.layout == "COCO keypoints (train.json, val.json)"


def test_images_that_are_not_there_are_told(tmp_path: Path) -> None:
    write_coco(tmp_path, "all.json", "images")
    first, *others = sorted((tmp_path / "images").iterdir())
    first.unlink()
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert not any("not found" in each for each in found.missing)  # the others are where they are
    for path in others:
        path.unlink()
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert "its images are not found: no folder in" in found.missing[0]
    (tmp_path / "all.json").unlink()
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert "for keypoints expected a COCO file" in found.missing[0]


def test_samples_have_joints_and_boxes(tmp_path: Path) -> None:
    write_coco(tmp_path, "all.json", "images")
    [drawn] = own_data.labelled(config_of(tmp_path), 1)
    assert drawn.picture.shape == (HEIGHT, WIDTH, 3)
    assert (drawn.picture == 255).all(axis=2).any()  # box and joints are white


def test_data_to_measure_on_alone_stay_whole(tmp_path: Path) -> None:
    """Of a validation split under the default name, no part is taken for training."""
    write_coco(tmp_path, "annotations/person_keypoints_val2017.json", "val2017")
    for known in ({}, {"num_joints": 6}):
        found = own_data.from_data({"data": {"root": str(tmp_path)}, "model": known})
        assert "val_share" not in found.get("data", {})
    assert found == {}
    config = config_of(tmp_path)
    assert len(load_split(config, "val")[1]) == 5
