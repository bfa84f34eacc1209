"""Read COCO keypoint annotations and detections, and name what is wrong with them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataError
from tasks.keypoint.config import BoxEnds

PERSON_CATEGORY = 1


@dataclass(frozen=True)
class Annotations:
    """A COCO keypoint file, checked.

    Attributes:
        path: The file.
        files: File name of each image id.
        sizes: Width and height of each image id, where the file tells them.
        people: Its annotations as COCOeval wants them, crowds and unlabelled persons included.
    """

    path: str
    files: dict[int, str]
    sizes: dict[int, tuple[int, int]]
    people: list[dict[str, Any]]


@dataclass(frozen=True)
class Persons:
    """Persons to train or evaluate on, as arrays: worker processes share them without copies.

    Attributes:
        files: [P] file name of the image.
        image_ids: [P].
        boxes: [P, 4] x, y, width, height, clipped to the image.
        joints: [P, K, 3] x, y, visibility; all 0 for detections.
        scores: [P] of the detector; 1 for annotated boxes.
        detected: The boxes come from a detector.
    """

    files: np.ndarray
    image_ids: np.ndarray
    boxes: np.ndarray
    joints: np.ndarray
    scores: np.ndarray
    detected: bool = False

    def __len__(self) -> int:
        return len(self.files)


def load_annotations(path: str | Path, num_joints: int) -> Annotations:
    """Read and check a COCO keypoint file.

    Raises:
        DataError: The file is missing, not JSON, not of COCO's form, has no keypoints or another
            number of joints, or an annotation belongs to no image.
    """
    content = _read_json(Path(path))
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise DataError(f"{path}: expected a COCO file with 'images' and 'annotations'")
    for key in ("images", "annotations"):
        if not isinstance(content[key], list):
            got = type(content[key]).__name__
            raise DataError(f"{path}: {key}: expected a list, got {got}")
    files, sizes = {}, {}
    for number, image in enumerate(content["images"]):
        try:
            identity = image["id"]
            files[identity] = str(image["file_name"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: images[{number}] has no 'id' and 'file_name'") from error
        if not isinstance(identity, int):
            raise DataError(f"{path}: images[{number}]: expected a number as id, got {identity!r}")
        if "width" in image and "height" in image:
            sizes[identity] = _size(f"{path}: images[{number}]", image["width"], image["height"])
    if not any(isinstance(a, dict) and "keypoints" in a for a in content["annotations"]):
        raise DataError(f"{path}: no annotation has 'keypoints': not a COCO keypoint file")
    people = [
        _check_person(f"{path}: annotations[{number}]", raw, files, num_joints)
        for number, raw in enumerate(content["annotations"])
    ]
    return Annotations(str(path), files, sizes, people)


def annotated_persons(annotations: Annotations, box_ends: BoxEnds = "edge") -> Persons:
    """List the persons that can be trained or evaluated on, as COCO's own tools do.

    Crowds, persons without a labelled joint and boxes outside the image are left out.

    Args:
        annotations: The file's content.
        box_ends: Where boxes and images end, see `DataConfig`.

    Raises:
        DataError: Nobody is left.
    """
    chosen, boxes = [], []
    for person in annotations.people:
        box = _clip(person["bbox"], annotations.sizes.get(person["image_id"]), box_ends)
        if not person["iscrowd"] and person["num_keypoints"] > 0 and box is not None:
            chosen.append(person)
            boxes.append(box)
    if not chosen:
        raise DataError(f"{annotations.path}: no person with a labelled keypoint and a box")
    image_ids = [person["image_id"] for person in chosen]
    return Persons(
        files=np.array([annotations.files[identity] for identity in image_ids]),
        image_ids=np.array(image_ids, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float32),
        joints=np.array([p["keypoints"] for p in chosen], np.float32).reshape(len(chosen), -1, 3),
        scores=np.ones(len(chosen), dtype=np.float32),
    )


def detected_persons(
    path: str | Path, annotations: Annotations, num_joints: int, min_score: float
) -> Persons:
    """List the persons that a detector found: COCO's result format, category 1.

    Raises:
        DataError: The file is missing or broken, names an unknown image, or no box is left.
    """
    content = _read_json(Path(path))
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of detections, got {type(content).__name__}")
    image_ids, boxes, scores = [], [], []
    for number, found in enumerate(content):
        where = f"{path}: detection {number}"
        if not isinstance(found, dict) or not {"image_id", "bbox", "score"} <= found.keys():
            raise DataError(f"{where}: expected image_id, bbox and score")
        if found.get("category_id", PERSON_CATEGORY) != PERSON_CATEGORY:
            continue
        if not isinstance(found["image_id"], int) or found["image_id"] not in annotations.files:
            raise DataError(
                f"{where}: {annotations.path} has no image with the id {found['image_id']!r}"
            )
        raw_box = _numbers(f"{where}: bbox", found["bbox"], 4)
        box = _clip(raw_box, annotations.sizes.get(found["image_id"]))
        (score,) = _numbers(f"{where}: score", [found["score"]], 1)
        if box is not None and score >= min_score:
            image_ids.append(found["image_id"])
            boxes.append(box)
            scores.append(score)
    if not image_ids:
        raise DataError(f"{path}: no person detected with a score of {min_score} or more")
    return Persons(
        files=np.array([annotations.files[identity] for identity in image_ids]),
        image_ids=np.array(image_ids, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float32),
        joints=np.zeros((len(image_ids), num_joints, 3), np.float32),
        scores=np.array(scores, dtype=np.float32),
        detected=True,
    )


def _read_json(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, object_hook=_drop_masks)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such annotation file") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{path}: not JSON: {error.msg} at {place}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _drop_masks(mapping: dict[str, Any]) -> dict[str, Any]:
    """Forget outlines while reading: most of COCO's 240 MB, and nobody here looks at them."""
    mapping.pop("segmentation", None)
    return mapping


def _check_person(where: str, raw: Any, files: dict[int, str], num_joints: int) -> dict[str, Any]:
    if not isinstance(raw, dict) or not {"image_id", "bbox"} <= raw.keys():
        raise DataError(f"{where}: expected image_id and bbox")
    if "id" in raw:
        where = f"{where} (id {raw['id']})"
    if not isinstance(raw["image_id"], int) or raw["image_id"] not in files:
        raise DataError(f"{where}: no image has the id {raw['image_id']!r}")
    keypoints = raw.get("keypoints", [0] * (3 * num_joints))
    if isinstance(keypoints, list) and len(keypoints) % 3 == 0 and len(keypoints) != 3 * num_joints:
        raise DataError(
            f"{where}: has {len(keypoints) // 3} joints, but model.num_joints is {num_joints}"
        )
    keypoints = _numbers(f"{where}: keypoints", keypoints, 3 * num_joints)
    box = _numbers(f"{where}: bbox", raw["bbox"], 4)
    (area,) = _numbers(f"{where}: area", [raw.get("area", box[2] * box[3])], 1)
    return {
        "image_id": raw["image_id"],
        "category_id": PERSON_CATEGORY,
        "bbox": box,
        "area": area,
        "iscrowd": int(bool(raw.get("iscrowd", 0))),
        "keypoints": keypoints,
        "num_keypoints": sum(value > 0 for value in keypoints[2::3]),
    }


def _size(where: str, width: Any, height: Any) -> tuple[int, int]:
    for name, value in (("width", width), ("height", height)):
        if not isinstance(value, (int, float)) or not 1 <= value < math.inf:
            raise DataError(f"{where}: {name}: expected a positive number, got {value!r}")
    return int(width), int(height)


def _numbers(where: str, values: Any, count: int) -> list[float]:
    if not isinstance(values, list) or len(values) != count:
        got = f"{len(values)}" if isinstance(values, list) else type(values).__name__
        raise DataError(f"{where}: expected {count} numbers, got {got}")
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        raise DataError(f"{where}: expected finite numbers only")
    return values


def _clip(
    box: list[float], size: tuple[int, int] | None, box_ends: BoxEnds = "edge"
) -> list[float] | None:
    x, y, width, height = box
    least = math.nextafter(0, 1)  # of a side
    if box_ends == "last_pixel":
        # what a box loses on the left it keeps on the right, as in PaddleDetection
        x, y = max(0.0, x), max(0.0, y)
        width, height = width - 1, height - 1
        size = (size[0] - 1, size[1] - 1) if size is not None else None
        least = 0.0
    right, bottom = x + width, y + height
    if size is not None:
        x, y = max(0.0, x), max(0.0, y)
        right, bottom = min(float(size[0]), right), min(float(size[1]), bottom)
    sides = (right - x, bottom - y)
    return [x, y, *sides] if min(sides) >= least and max(sides) > 0 else None
