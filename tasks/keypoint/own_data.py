"""Settings for a user's own keypoint data, derived from COCO categories and YOLO files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from core.errors import DataError
from core.settings.config import merge, read
from core.task import Split
from core.training.images import read_annotated_image
from core.training.inspection import Inspection, Labelled, read_data_section
from core.training.looking import look_at_images, some_of, spread
from tasks.keypoint.annotations import Persons
from tasks.keypoint.categories import choose_category
from tasks.keypoint.config import Config, DataConfig
from tasks.keypoint.data import image_folder, load_split
from tasks.keypoint.drawing import draw_skeleton
from tasks.keypoint.joint_names import JointsFound, find_flip_pairs, joints_of_category
from tasks.keypoint.layouts import Layout, find_layout, named_files, what_lies_there
from tasks.keypoint.yolo import YoloData, read_yolo

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "model": {"name": "upsampling", "backbone": "PPLCNet_x1_0"},
        "train": {
            "epochs": 100,
            "batch_size": 16,
            "learning_rate": 0.001,
            "optimizer": {"kind": "adamw", "weight_decay": 0.01},
            "schedule": {"kind": "cosine", "warmup_epochs": 2},
        },
    }
)
SQUARE = 1.15  # a box whose sides differ less is cut out as a square
MOST_BYTES = 50_000_000  # largest annotation file that is read to look at boxes
LAYOUTS = {"coco": "COCO keypoints", "yolo": "YOLO pose labels"}


def from_data(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return where annotations and images are, the joints, an input size and a batch.

    Raises:
        DataError: The annotations contradict themselves.
    """
    data, given, model = (
        read_data_section(DataConfig, settings),
        settings.get("data"),
        settings.get("model"),
    )
    known = isinstance(model, Mapping) and "num_joints" in model
    if data is None or not isinstance(given, Mapping):
        return {}
    if known and ("train_annotations" in given or any(f.is_file() for f in named_files(data))):
        return {}
    return _found(data, given, find_layout(data, given))


def inspect(settings: Mapping[str, Any]) -> Inspection:
    """Look for annotations, count persons, open some images, and list the joints."""
    data, given = read_data_section(DataConfig, settings), settings["data"]
    if data is None or not Path(data.root).is_dir():
        return Inspection("keypoint", missing=(f"{given.get('root')}: no such folder",))
    lines: list[str] = []
    missing: list[str] = []
    found: dict[str, Any] = {}
    kind, sure, trainable = "", 0, False
    try:
        layout = find_layout(data, given)
        if layout.kind == "none":
            return Inspection("keypoint", missing=(what_lies_there(data),))
        kind, sure = f"{LAYOUTS[layout.kind]} ({_files_of(layout, data)})", 2
        joints = _joints(layout, data)
        lines += [*joints.in_words(), *_other_categories(layout, data)]
        found = _found(data, given, layout)
        config = _config_for(given, found)
        train, val = (load_split(config, split)[1] for split in ("train", "val"))
        lines.append(_splits_in_words(train, val, config.data))
        paths = _training_images(config, train)
        looked = look_at_images(paths, whole=True)
        lines.append(looked.in_words())
        missing += [f"cannot be read: {line}" for line in looked.broken[:5]]
        trainable = not looked.broken
    except DataError as error:
        missing.append(str(error))
    return Inspection("keypoint", kind, sure, tuple(lines), tuple(missing), found, trainable)


def labelled(config: Config, count: int) -> list[Labelled]:
    """Return training images with box, skeleton and numbered joints of one person each."""
    _, persons = load_split(config, "train")
    skeleton = config.joint_set.skeleton
    paths = _training_images(config, persons)
    drawn = []
    for text in spread([str(i) for i in range(len(persons))], count):
        index = int(text)
        width, height = persons.sizes[index].tolist()
        size = (width, height) if width else None
        image = read_annotated_image(paths[index], size, "its annotation says")
        drawn.append(Labelled(Path(paths[index]).name, _draw(image, persons, index, skeleton)))
    return drawn


def write_lists(config: Config, folder: Path) -> dict[str, Any]:
    """Write nothing: a drawn split depends on the names of the images and the seed alone."""
    return {}


def _draw(
    image: np.ndarray, persons: Persons, index: int, skeleton: tuple[tuple[int, int], ...]
) -> np.ndarray:
    joints = persons.joints[index]
    points = [(float(x), float(y), float(seen > 0)) for x, y, seen in joints]
    x, y, width, height = persons.boxes[index]
    drawn = draw_skeleton(image, points, skeleton, 0.5, float(max(width, height)))
    corners = (
        (round(float(x)), round(float(y))),
        (round(float(x + width)), round(float(y + height))),
    )
    cv2.rectangle(drawn, *corners, (255, 255, 255), 1)
    scale = max(image.shape[:2]) / 1000
    for number, (across, down, seen) in enumerate(points):
        if seen:
            place = round(across) + 4, round(down) - 4
            font = cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(drawn, str(number), place, font, max(scale, 0.35), (255, 255, 0), 1)
    return drawn


def _found(data: DataConfig, given: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Return the settings that a layout and its joints say."""
    if layout.kind == "none":
        return {}
    found = merge(_joints(layout, data).settings(), {"data": dict(layout.settings)})
    config = _config_for(given, found)
    _, persons = load_split(config, _quick_split(config.data))
    size = _input_size(persons)
    batch = min(len(persons), DEFAULTS["train"]["batch_size"])
    return merge(found, {"data": {"input_size": size}, "train": {"batch_size": batch}})


def _quick_split(data: DataConfig) -> Split:
    """Return a split that is there, and not COCO's 118,000 images, to look at boxes."""
    train, val = named_files(data)
    if train.is_file() and (not val.is_file() or train.stat().st_size < MOST_BYTES):
        return "train"
    return "val"


def _joints(layout: Layout, data: DataConfig) -> JointsFound:
    if layout.kind == "yolo":
        return _joints_of_yolo(read_yolo(layout.file))
    content, path = layout.content, str(layout.file)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DataError(f"{path}: expected a COCO file with 'images' and 'annotations'")
    chosen = choose_category(path, content, data.category)
    categories = content.get("categories", [])
    known: dict[int, dict[str, Any]] = {e["id"]: e for e in categories}
    category = known.get(chosen, {"id": chosen})
    counts = {
        len(each["keypoints"]) // 3
        for each in content["annotations"]
        if isinstance(each, dict)
        and each.get("category_id", chosen) == chosen
        and isinstance(each.get("keypoints"), list)
    }
    if len(counts) != 1:
        told = f"{sorted(counts)} joints; expected as many" if counts else "no keypoints"
        others = [_named(e) for e in categories if e["id"] != chosen and e.get("keypoints")]
        hint = f"; {some_of(others)} may have: set data.category" if others else ""
        raise DataError(f"{path}: annotations of {_named(category)} have {told}{hint}")
    return joints_of_category(path, category, counts.pop())


def _joints_of_yolo(yolo: YoloData) -> JointsFound:
    pairs = find_flip_pairs(yolo.joint_names)
    if yolo.flip:
        pairs = tuple((i, other) for i, other in enumerate(yolo.flip) if i < other)
    names = some_of([repr(name) for name in yolo.categories.values()])
    return JointsFound(yolo.joints, yolo.joint_names, pairs, (), names)


def _other_categories(layout: Layout, data: DataConfig) -> list[str]:
    """Say which categories of a COCO file are left out."""
    if layout.kind != "coco":
        return []
    chosen = choose_category(str(layout.file), layout.content, data.category)
    others = [each for each in layout.content.get("categories", []) if each["id"] != chosen]
    if not others:
        return []
    told = some_of([_named(each) for each in others])
    return [f"other categories are left out (data.category): {told}"]


def _files_of(layout: Layout, data: DataConfig) -> str:
    """Name the annotation files."""
    names = (layout.settings.get(f"{split}_annotations") for split in ("train", "val"))
    named = list(dict.fromkeys(name for name in names if name))
    return ", ".join(named) or str(layout.file.relative_to(data.root))


def _named(category: Mapping[str, Any]) -> str:
    return f"{category.get('name', '')!r} (id {category['id']})"


def _config_for(given: Mapping[str, Any], found: Mapping[str, Any]) -> Config:
    """Return a config to read annotations with; the network does not matter."""
    rest = {key: value for key, value in found.items() if key != "train"}
    return read(Config, merge(rest, {"data": dict(given), "model": dict(DEFAULTS["model"])}))


def _training_images(config: Config, persons: Persons) -> list[str]:
    folder = image_folder(config, "train")
    return [os.path.join(folder, name) for name in persons.files]


def _input_size(persons: Persons) -> list[int]:
    """Return height and width of an input in the shape of the boxes."""
    aspect = float(np.median(persons.boxes[:, 3] / persons.boxes[:, 2]))
    if aspect > SQUARE:
        return [256, 192]
    return [192, 256] if aspect < 1 / SQUARE else [256, 256]


def _splits_in_words(train: Persons, val: Persons, data: DataConfig) -> str:
    images = [len(set(persons.image_ids.tolist())) for persons in (train, val)]
    told = (
        f"{len(train)} labelled in {images[0]} images for training, {len(val)} in {images[1]} for "
        "validation"
    )
    if data.val_share is None:
        return told
    share = f"{100 * data.val_share:.0f} % of the images"
    return f"{told}, drawn: {share} (data.val_share, data.split_seed)"
