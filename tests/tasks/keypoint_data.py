"""Data sets of keypoints in one drawn image, for tests."""

from __future__ import annotations

import json

import cv2
import numpy as np

from core.settings.config import read
from tasks.keypoint.config import Config
from tasks.keypoint.data import KeypointDataset, load_split

VISIBLE = [[30.0 + 3 * i, 40.0 + 2 * i, 2] for i in range(17)]


def person(number: int = 1, **changes) -> dict:
    return {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "bbox": [20.0, 30.0, 60.0, 70.0],
        "area": 2500.0,
        "iscrowd": 0,
        "keypoints": [value for joint in VISIBLE for value in joint],
        **changes,
    }


def coco(*people: dict) -> dict:
    images = [{"id": 1, "file_name": "one.png", "width": 120, "height": 100}]
    return {"images": images, "annotations": list(people)}


def write_two_persons(tmp_path):
    """A data set of two persons in one image."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        image = np.random.default_rng(0).integers(0, 255, (100, 120, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / split / "one.png"), image)
        (tmp_path / f"{split}.json").write_text(json.dumps(coco(person(1), person(2))))
    return tmp_path


def build_config(root, **sections) -> Config:
    data = {
        "root": str(root),
        "train_annotations": "train.json",
        "val_annotations": "val.json",
        "train_images": "train",
        "val_images": "val",
        "input_size": [128, 96],
        "num_workers": 0,
        **sections.pop("data", {}),
    }
    return read(Config, {"model": {"name": "lite_hrnet_18"}, "data": data, **sections})


def build_dataset(root, split, **sections) -> KeypointDataset:
    config = build_config(root, **sections)
    return KeypointDataset(config, split, load_split(config, split)[1])
