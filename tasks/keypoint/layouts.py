"""How keypoint data lie in a folder: COCO files with folders of images, or YOLO's data.yaml."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import DataError
from core.settings.reading import read_json
from core.training.image_files import list_class_folders
from core.training.looking import files_in, folder_in_words
from tasks.keypoint.config import DataConfig
from tasks.keypoint.yolo import YAML, is_yolo, is_yolo_pose, read_yolo

DEEPEST = 2  # folders below the root in which annotations are looked for, images one more
MOST_FILES = 40
MOST_FOLDERS = 400
_SPLITS = {"train": ("train",), "val": ("val", "test")}
_TELLING = ("keypoint", "pose")  # in the name of a file that need not be opened to be chosen
Kind = Literal["coco", "yolo", "none"]


@dataclass(frozen=True)
class Layout:
    """Where annotations and images are, as settings of `data`.

    Attributes:
        kind: Kind of the annotations.
        settings: Paths relative to the root; `val_share` where one file holds all.
        content: Content of a COCO file, the smaller one of two.
        file: File with this content, or the data.yaml.
    """

    kind: Kind
    settings: Mapping[str, Any]
    file: Path = Path()
    content: Any = None


def find_layout(data: DataConfig, given: Mapping[str, Any]) -> Layout:
    """Look for annotations and the images that they name.

    Args:
        data: With the defaults.
        given: The section `data` as the config says it: paths in it are taken as they are.

    Raises:
        DataError: The images of an annotation file are not found.
    """
    root = Path(data.root)
    named = [path for path in named_files(data) if path.is_file()]
    if named:  # perhaps one alone: data to measure on have no training split
        if named[0].suffix.lower() in YAML:
            return Layout("yolo", {}, named[0])
        small = min(named, key=lambda file: file.stat().st_size)
        return Layout("coco", {}, small, read_json(small, DataError))
    if "train_annotations" in given or "val_annotations" in given:
        return Layout("none", {})  # told when it is opened
    for file in _files(root, YAML):
        if is_yolo_pose(file):
            return _yolo(root, file)
    found = _keypoint_files(root)
    splits = [_of_split(found, root, names) for names in _SPLITS.values()]
    if splits[0] is not None and splits[1] is not None:
        return _coco(root, splits[0], splits[1], given)
    single = splits[0] or splits[1] or (found[0] if found else None)
    return _coco(root, single, single, given) if single else Layout("none", {})


def named_files(data: DataConfig) -> list[Path]:
    """Return the annotation files that a config names, or the default ones."""
    return [Path(data.root) / name for name in (data.train_annotations, data.val_annotations)]


def what_lies_there(data: DataConfig) -> str:
    """Describe the content found in place of annotations, and the one expected."""
    root, told = Path(data.root), ""
    files = _files(root, (".json", *YAML))
    names = [str(file.relative_to(root)) for file in files]
    if files:
        told = f" ({', '.join(names[:5])})"
    boxes = next((name for name, file in zip(names, files) if _is_of_detection(file)), None)
    hint = f"; {boxes} has boxes or outlines and no keypoints, and no task reads those"
    return (
        f"{folder_in_words(root)}{told}; for keypoints expected a COCO file with 'images', "
        "'annotations' with 'keypoints' and 'categories' (anywhere, names with train and val, or "
        "one for all), or a data.yaml of YOLO with kpt_shape"
        f"{hint if boxes else ''}"
    )


def image_place(root: Path, file: Path, names: Sequence[str]) -> str:
    """Return the folder, relative to the root, in which images of an annotation file lie.

    Args:
        root: Root folder of the data.
        file: The annotation file, for the message.
        names: Names of some images.

    Raises:
        DataError: There is none.
    """
    likely = [root, file.parent, *_folders(root, DEEPEST + 1)]
    there = {
        folder: sum((folder / name).is_file() for name in names) for folder in dict.fromkeys(likely)
    }
    best = max(there, key=lambda folder: there[folder])  # the first of those that have most
    if there[best]:  # pictures that are missing are told by their names later on
        return Path(os.path.relpath(best, root)).as_posix()
    raise DataError(
        f"{file}: its images are not found: no folder in {root} has "
        f"{', '.join(repr(name) for name in names[:3])}"
    )


def _coco(root: Path, train: Path, val: Path, given: Mapping[str, Any]) -> Layout:
    small = min((train, val), key=lambda file: file.stat().st_size)
    content = read_json(small, DataError)
    found: dict[str, Any] = {
        "train_annotations": Path(os.path.relpath(train, root)).as_posix(),
        "val_annotations": Path(os.path.relpath(val, root)).as_posix(),
    }
    if train == val:
        found["val_share"] = 0.2
    for key, file in (("train_images", train), ("val_images", val)):
        if key not in given:
            here = content if file == small else read_json(file, DataError)
            found[key] = image_place(root, file, _names(here))
    return Layout("coco", found, small, content)


def _yolo(root: Path, file: Path) -> Layout:
    relative = Path(os.path.relpath(file, root)).as_posix()
    found: dict[str, Any] = {"train_annotations": relative, "val_annotations": relative}
    found |= {"train_images": ".", "val_images": "."}
    if "val" not in read_yolo(file).images:
        found["val_share"] = 0.2
    return Layout("yolo", found, file)


def _names(content: Any) -> list[str]:
    """Return names of some images, spread over a COCO file."""
    images = content.get("images", []) if isinstance(content, dict) else []
    images = images if isinstance(images, list) else []  # told when it is opened
    names = [e["file_name"] for e in images if isinstance(e, dict) and "file_name" in e]
    names = [name for name in names if isinstance(name, str) and "\0" not in name]
    return names[:: max(len(names) // 3, 1)][:4]


def _keypoint_files(root: Path) -> list[Path]:
    """Return the COCO files with keypoints, in order of their names."""
    files = _files(root, (".json",))
    telling = [file for file in files if any(word in file.name.lower() for word in _TELLING)]
    return telling or [file for file in files if _has_keypoints(file)]


def _has_keypoints(file: Path) -> bool:
    return any("keypoints" in each for each in _annotations(file))


def _is_of_detection(file: Path) -> bool:
    """Tell whether a file is one of COCO or YOLO, of boxes or outlines alone."""
    if file.suffix.lower() in YAML:
        return is_yolo(file) and not is_yolo_pose(file)
    annotations = _annotations(file)
    outlined = any("bbox" in each or "segmentation" in each for each in annotations)
    return outlined and not any("keypoints" in each for each in annotations)


def _annotations(file: Path) -> list[dict[str, Any]]:
    """Return the annotations of a COCO file; none of another."""
    try:
        content = read_json(file, DataError)
    except DataError:
        return []
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        return []
    annotations = content["annotations"]
    return [e for e in annotations if isinstance(e, dict)] if isinstance(annotations, list) else []


def _of_split(files: Sequence[Path], root: Path, words: Sequence[str]) -> Path | None:
    """Return the file whose name, or the name of whose folder, says that it is of a split."""
    for word in words:
        for file in files:
            if any(word in part.lower() for part in file.relative_to(root).parts):
                return file
    return None


def _files(root: Path, suffixes: Sequence[str]) -> list[Path]:
    places = [root, *_folders(root, DEEPEST)]
    every = (file for place in places for file in files_in(place, suffixes))
    return list(itertools.islice(every, MOST_FILES))


def _folders(root: Path, depth: int) -> list[Path]:
    return list(itertools.islice(_below(root, depth), MOST_FOLDERS))


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the folders below one, the nearer ones first."""
    inside = [folder / name for name in list_class_folders(folder)]
    yield from inside
    if depth > 1:
        for each in inside:
            yield from _below(each, depth - 1)
