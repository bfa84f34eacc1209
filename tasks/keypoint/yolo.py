"""Pose labels of YOLO: a data.yaml, and a text file beside each image with a person per line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import ConfigError, DataError
from core.settings.config import load_one_yaml, suggest
from core.settings.reading import read_lines
from core.task import Split
from core.training.image_files import list_image_files
from core.training.images import read_image
from core.training.looking import size_of
from tasks.keypoint.annotations import Annotations

YAML = (".yaml", ".yml")
MOST_CLASSES = 100_000
_FOLDERS = ("images", "labels")  # labels lie in the second, as images in the first
_OF_SPLIT = {"train": ("train",), "val": ("val", "valid", "test")}


@dataclass(frozen=True)
class YoloData:
    """Content of a data.yaml.

    Attributes:
        path: The file.
        images: Folders or lists of images by split; `val` may be absent.
        categories: Names by number.
        joints: Number of keypoints.
        dimensions: 3: x, y, visibility; 2: x and y only.
        flip: For each joint the one that takes its place in a mirror; empty if not given.
        joint_names: Empty if not given.
    """

    path: Path
    images: dict[str, tuple[Path, ...]]
    categories: dict[int, str]
    joints: int
    dimensions: int
    flip: tuple[int, ...] = ()
    joint_names: tuple[str, ...] = ()


def is_yolo_pose(path: Path) -> bool:
    """Tell whether a YAML file is one of YOLO pose data."""
    return "kpt_shape" in _keys(path)


def is_yolo(path: Path) -> bool:
    """Tell whether a YAML file is one of YOLO data of any kind."""
    return {"train", "names"} <= _keys(path)


def _keys(path: Path) -> set[str]:
    try:
        return set(load_one_yaml(path))
    except ConfigError:
        return set()


def read_yolo(path: Path) -> YoloData:
    """Read a data.yaml.

    Raises:
        DataError: It is malformed, or names no images that exist.
    """
    try:
        content = load_one_yaml(path)
    except ConfigError as error:
        raise DataError(str(error)) from error
    shape = content.get("kpt_shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or not all(isinstance(n, int) for n in shape)
        or shape[0] < 1
        or shape[1] not in (2, 3)
    ):
        raise DataError(f"{path}: kpt_shape: expected [joints, 2 or 3], got {str(shape)[:80]}")
    names = content.get("names", ["object"] * _count(path, content.get("nc", 1)))
    pairs = names.items() if isinstance(names, dict) else enumerate(_list(path, "names", names))
    categories = {_class_number(path, number): str(name) for number, name in pairs}
    images = {
        split: found
        for split, keys in _OF_SPLIT.items()
        if (found := _images(path, content, next((k for k in keys if content.get(k)), "")))
    }
    if "train" not in images:
        raise DataError(f"{path}: train: expected a folder of images, got {content.get('train')!r}")
    return YoloData(
        path,
        images,
        categories,
        shape[0],
        shape[1],
        _flip(path, content.get("flip_idx", []), shape[0]),
        _joint_names(content.get("kpt_names"), shape[0]),
    )


def load_yolo(
    path: Path, num_joints: int, category: str | int | None, split: Split, root: str
) -> Annotations:
    """Read the labels of a split; file names are relative to the root of the data.

    Args:
        path: The data.yaml.
        num_joints: Number of joints that each person must have.
        category: Name or number of the class whose lines count; None takes all.
        split: Which images.
        root: Root folder of the data.

    Raises:
        DataError: A file is malformed, with its line, or an image cannot be read.
    """
    data = read_yolo(path)
    if data.joints != num_joints:
        raise DataError(
            f"{path}: kpt_shape: {data.joints} joints, but model.num_joints is {num_joints}"
        )
    wanted = _category(data, category)
    files: dict[int, str] = {}
    sizes: dict[int, tuple[int, int]] = {}
    people: list[dict[str, Any]] = []
    for identity, image in enumerate(images_of(data, split)):
        labels = label_file(image)
        files[identity] = Path(os.path.relpath(image, root)).as_posix()
        if not labels.is_file():  # an image without anybody
            continue
        sizes[identity] = size_of(str(image)) or _decoded_size(image)
        for number, line in read_lines(labels, DataError):
            found = _person(f"{labels}:{number}", line, data, sizes[identity])
            if wanted is None or found["category_id"] == wanted:
                people.append(found | {"image_id": identity, "category_id": 0})
    if not people:
        raise DataError(f"{path}: no labels for the images of {split}")
    return Annotations(str(path), files, sizes, people, 0)


def images_of(data: YoloData, split: Split) -> list[Path]:
    """List the images of a split; of training, where there are none for validation.

    Raises:
        DataError: A folder or list cannot be read.
    """
    key = "val" if split == "val" and "val" in data.images else "train"
    found: list[Path] = []
    for place in data.images[key]:
        if place.is_dir():
            found += list_image_files(place)
        else:
            found += [place.parent / line for _, line in read_lines(place, DataError)]
    return found


def label_file(image: Path) -> Path:
    """Return where the labels of an image lie: in `labels/` for `images/`, else beside it."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == _FOLDERS[0]:
            parts[index] = _FOLDERS[1]
            break
    return Path(*parts).with_suffix(".txt")


def _person(where: str, line: str, data: YoloData, size: tuple[int, int]) -> dict[str, Any]:
    wanted = 5 + data.joints * data.dimensions
    try:
        values = [float(value) for value in line.split()]
    except ValueError as error:
        raise DataError(f"{where}: expected numbers, got {line[:80]!r}") from error
    if len(values) != wanted:
        raise DataError(
            f"{where}: expected {wanted} numbers (class, box, {data.joints} joints of "
            f"{data.dimensions}), got {len(values)}"
        )
    if not all(-1 <= value <= 2 for value in values[1:5]):
        raise DataError(f"{where}: expected a box in shares of the image, got {values[1:5]}")
    if values[0] not in data.categories:
        known = ", ".join(map(str, list(data.categories)[:20]))
        raise DataError(f"{where}: expected a class of names ({known}), got {line.split()[0][:80]}")
    width, height = size
    x, y, wide, high = values[1] * width, values[2] * height, values[3] * width, values[4] * height
    keypoints: list[float] = []
    for place in range(5, wanted, data.dimensions):
        across, down, *seen = values[place : place + data.dimensions]
        visible = seen[0] if seen else 2.0 * bool(across or down)
        if visible not in (0, 1, 2):
            raise DataError(f"{where}: expected a visibility of 0, 1 or 2, got {visible}")
        if visible and not (-1 <= across <= 2 and -1 <= down <= 2):
            raise DataError(
                f"{where}: expected joints in shares of the image, got {across}, {down}"
            )
        keypoints += [across * width, down * height, visible] if visible else [0.0, 0.0, 0.0]
    return {
        "category_id": int(values[0]),
        "bbox": [x - wide / 2, y - high / 2, wide, high],
        "area": wide * high,
        "iscrowd": 0,
        "keypoints": keypoints,
        "num_keypoints": sum(value > 0 for value in keypoints[2::3]),
    }


def _images(path: Path, content: dict[str, Any], key: str) -> tuple[Path, ...]:
    """Return the folders or lists that exist, of those that a data.yaml names."""
    named = content.get(key) or []
    base = path.parent / str(content.get("path") or "")
    found = []
    for entry in named if isinstance(named, list) else [named]:
        text = str(entry)
        plain = text.replace("../", "").removeprefix("./")  # as Roboflow writes them
        places = [base / text, path.parent / text, path.parent / plain]
        try:
            found += [next((place for place in places if place.exists()), None)]
        except (OSError, ValueError) as error:  # too long, or with a NUL
            raise DataError(f"{path}: {key}: no name of a file: {text[:80]!r}") from error
    return tuple(place for place in found if place is not None)


def _count(path: Path, count: Any) -> int:
    if type(count) is not int or not 1 <= count <= MOST_CLASSES:
        raise DataError(f"{path}: nc: expected 1 to {MOST_CLASSES}, got {str(count)[:80]!r}")
    return count


def _class_number(path: Path, number: Any) -> int:
    if isinstance(number, bool) or not str(number).isdecimal() or len(str(number)) > 9:
        raise DataError(f"{path}: names: expected numbers of classes, got {str(number)[:80]!r}")
    return int(number)


def _category(data: YoloData, wanted: str | int | None) -> int | None:
    if wanted is None:
        return None
    for number, name in data.categories.items():
        if wanted in (number, name):
            return number
    hint = suggest(str(wanted), list(data.categories.values()))
    raise DataError(f"{data.path}: no class {wanted!r} (data.category){hint}")


def _flip(path: Path, flip: Any, joints: int) -> tuple[int, ...]:
    order = _list(path, "flip_idx", flip)
    if order and (
        len(order) != joints
        or not all(type(each) is int for each in order)
        or sorted(order) != list(range(joints))
        or any(order[order[i]] != i for i in range(joints))
    ):
        raise DataError(f"{path}: flip_idx: expected {joints} joints in pairs, got {order[:20]}")
    return tuple(order)


def _joint_names(given: Any, joints: int) -> tuple[str, ...]:
    names = next(iter(given.values()), []) if isinstance(given, dict) else given
    if not isinstance(names, list) or len(names) != joints:
        return ()
    return tuple(str(name) for name in names)


def _list(path: Path, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{path}: {key}: expected a list, got {str(value)[:80]}")
    return value


def _decoded_size(image: Path) -> tuple[int, int]:
    height, width = read_image(str(image)).shape[:2]
    return width, height
