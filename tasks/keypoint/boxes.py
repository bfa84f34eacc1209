"""Boxes of persons in pictures, as detectors and annotators write them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from core.errors import DataError
from core.settings.config import suggest
from core.settings.reading import read_json
from core.settings.yaml_loader import shown
from core.task import Box, BoxesOf
from tasks.keypoint.annotations import LEAST_SIDE, MOST, read_crowd
from tasks.keypoint.categories import DEFAULT, category_of, is_id, is_number

log = logging.getLogger(__name__)
Key = int | str | None  # number or name of a picture; None: any picture


class PictureBoxes:
    """The boxes of a file, found by the path of a picture or the number in its name.

    Paths need not begin in the same folder: the one that has fewer folders must be the end of the
    other, and no second path may fit as well.

    Args:
        boxes: By the picture they are in.
        listed: Paths of all pictures that the file lists, also of those without boxes.
    """

    def __init__(self, boxes: Mapping[Key, Sequence[Box]], listed: Iterable[str] = ()) -> None:
        self._boxes = boxes
        self._listed: dict[str, set[str]] = {}
        for path in {key for key in boxes if isinstance(key, str)} | {*listed}:
            self._listed.setdefault(PurePosixPath(path).name, set()).add(path)

    def __bool__(self) -> bool:
        return bool(self._boxes)

    def __call__(self, picture: Path) -> list[Box]:
        keys: list[Key] = [*self._paths_of(picture.as_posix())]
        keys += self._paths_of(picture.with_suffix("").as_posix())
        if picture.stem.isdecimal():  # 000000000139.jpg is COCO's image 139
            keys.append(int(picture.stem))
        found = next((self._boxes.get(key, ()) for key in keys if self._knows(key)), ())
        return [*found, *self._boxes.get(None, ())]

    def _knows(self, key: Key) -> bool:
        return isinstance(key, str) or key in self._boxes

    def _paths_of(self, picture: str) -> list[str]:
        """Return the listed path that is that of a picture, or none."""
        parts = PurePosixPath(picture).parts
        shared: dict[str, int] = {}
        for path in self._listed.get(parts[-1], ()):
            own = PurePosixPath(path).parts
            count = min(len(own), len(parts))
            if own[-count:] == parts[-count:]:
                shared[path] = count
        most = [path for path, count in shared.items() if count == max(shared.values())]
        return [picture] if picture in shared else most if len(most) == 1 else []


class FolderBoxes:
    """The boxes in a folder with a JSON file for each picture, of the picture's name.

    Args:
        folder: Holds `a.json`, or `a.jpg.json`, for a picture `a.jpg`.
        category: Category of persons; None takes COCO's.
        least_score: Boxes of a lower score are left out.
    """

    def __init__(self, folder: Path, category: str | int | None, least_score: float) -> None:
        self._folder, self._category, self._least_score = folder, category, least_score

    def __call__(self, picture: Path) -> list[Box]:
        for name in (picture.with_suffix(".json"), picture.with_name(f"{picture.name}.json")):
            file = self._folder / name
            if file.is_file():
                return read_file(file, self._category, self._least_score)(picture)
        return []


def read_boxes(path: Path, category: str | int | None, least_score: float) -> BoxesOf:
    """Read the boxes of pictures.

    Args:
        path: A COCO file, of detections or of annotations; a list of boxes alone, which are then
            those of every picture; or a folder with such a file for each picture.
        category: Name or id of the category that is persons; None takes the one that is called
            person, else COCO's 1.
        least_score: Boxes of a lower score are left out.

    Raises:
        DataError: A file is missing or broken, or the one file has no box that is left.
    """
    if path.is_dir():
        if not any(path.rglob("*.json")):
            raise DataError(f"{path}: holds no JSON files with the boxes of a picture each")
        return FolderBoxes(path, category, least_score)
    boxes = read_file(path, category, least_score)
    if not boxes:
        raise DataError(f"{path}: holds no boxes of persons, or all were left out, as the log says")
    return boxes


def read_file(path: Path, category: str | int | None, least_score: float) -> PictureBoxes:
    """Read the boxes of one file, see `read_boxes`.

    Raises:
        DataError: It is missing or broken.
    """
    content = read_json(path, DataError)
    files: dict[int | str, str] = {}
    entries, categories, key = content, [], "detection"
    if isinstance(content, dict) and "annotations" in content:
        entries, key = content["annotations"], "annotations"
        categories = content.get("categories", [])
        for known, name in _named(path, content.get("images", [])):
            if files.setdefault(known, name) != name:
                raise DataError(
                    f"{path}: images: the id {shown(known)} is of {shown(files[known])} and of "
                    f"{shown(name)}"
                )
    if not isinstance(entries, list) or not isinstance(categories, list):
        raise DataError(f"{path}: expected a list of boxes, or a COCO file with 'annotations'")
    wanted = _person(path, categories, category)
    boxes: dict[Key, list[Box]] = {}
    others = low = 0
    for number, raw in enumerate(entries):
        where = f"{path}: {key}[{number}]"
        if isinstance(raw, list):
            raw = {"bbox": raw}
        if not isinstance(raw, dict) or "bbox" not in raw:
            raise DataError(f"{where}: expected a box [x, y, width, height], or 'bbox' with one")
        box, crowd = _read_box(where, raw), read_crowd(where, raw)
        if category_of(where, raw, wanted) != wanted:
            others += 1
        elif box is None or crowd or _is_below(box, least_score):
            low += 1
        else:
            boxes.setdefault(_picture(where, raw, files), []).append(box)
    if others:
        log.info("%s: persons are category %d; %d boxes of others left out", path, wanted, others)
    if low:
        log.info(
            "%s: left out %d boxes: of crowds, empty, or scored below %g (--box_threshold)",
            *(path, low, least_score),
        )
    return PictureBoxes(boxes, files.values())


def clip(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """Return x, y, width and height of the part of a box that is inside of an image.

    Raises:
        DataError: None is.
    """
    left, top = max(0.0, box.x), max(0.0, box.y)
    right, bottom = min(float(width), box.x + box.width), min(float(height), box.y + box.height)
    if min(right - left, bottom - top) < LEAST_SIDE:
        sides = f"[{box.x:g}, {box.y:g}, {box.width:g}, {box.height:g}]"
        raise DataError(f"the image is {width}x{height}, and the box {sides} lies outside of it")
    return left, top, right - left, bottom - top


def _named(path: Path, images: Any) -> Iterable[tuple[int | str, str]]:
    """Yield id and file name of the images of a COCO file."""
    for number, image in enumerate(images if isinstance(images, list) else [images]):
        where = f"{path}: images[{number}]"
        if not isinstance(image, dict) or not {"id", "file_name"} <= image.keys():
            raise DataError(f"{where}: expected 'id' and 'file_name'")
        if not (is_id(image["id"]) or isinstance(image["id"], str)):
            raise DataError(f"{where}: id: expected a number or a name, got {shown(image['id'])}")
        if not isinstance(image["file_name"], str):
            name = shown(image["file_name"])
            raise DataError(f"{where}: file_name: expected a name, got {name}")
        yield image["id"], image["file_name"]


def _person(path: Path, categories: list[Any], wanted: str | int | None) -> int:
    known = {
        str(each.get("name", "")): each["id"]
        for each in categories
        if isinstance(each, dict) and is_id(each.get("id"))
    }
    if isinstance(wanted, int):
        return wanted
    if wanted is None:
        only = next(iter(known.values())) if len(known) == 1 else DEFAULT
        return int(known.get("person", only))
    if wanted in known:
        return int(known[wanted])
    hint = suggest(wanted, list(known)) if known else "; it names none: give the id"
    raise DataError(f"{path}: no category {wanted!r} (data.category){hint}")


def _read_box(where: str, raw: dict[str, Any]) -> Box | None:
    """Return the box of an entry; None if it is empty."""
    sides, score = raw["bbox"], raw.get("score")
    if not isinstance(sides, list) or len(sides) != 4 or not all(_fine(side) for side in sides):
        raise DataError(f"{where}: bbox: expected x, y, width, height, got {shown(sides)}")
    if score is not None and not _fine(score):
        raise DataError(f"{where}: score: expected a number, got {shown(score)}")
    if min(sides[2:]) < LEAST_SIDE:
        return None
    x, y, width, height = (float(side) for side in sides)
    return Box(x, y, width, height, None if score is None else float(score))


def _is_below(box: Box, least_score: float) -> bool:
    return box.score is not None and box.score < least_score


def _fine(value: Any) -> bool:
    return is_number(value) and abs(value) <= MOST


def _picture(where: str, raw: dict[str, Any], files: dict[int | str, str]) -> Key:
    """Return the picture of an entry: by its file's name if that is given, else its number."""
    key = raw.get("file_name", raw.get("image_id"))
    if key is None or isinstance(key, str):
        return files.get(key, key) if key is not None else None
    if not is_id(key):
        raise DataError(f"{where}: image_id: expected a number or a name, got {shown(key)}")
    return files.get(key, int(key))
