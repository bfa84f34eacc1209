"""Read COCO keypoint annotations and detections, and report errors in them by name."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataError
from core.settings.reading import read_json
from core.settings.told_once import ONCE
from core.settings.yaml_loader import shown
from tasks.keypoint.categories import category_of, choose_category, is_id, is_number
from tasks.keypoint.config import BoxEnds

MOST = 1e12  # largest number
MOST_AREA = 1e10  # COCO's tools leave out who is larger
LEAST_SIDE = 1e-3  # smallest side of a box, in pixels
LONGEST_NAME = 4096  # characters of a file's name
NEAR = 0.1  # distance of a keypoint from its box, in sides of the box
MASKS = ("segmentation",)  # most of COCO's 240 MB, and not needed
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Annotations:
    """A COCO keypoint file, checked.

    Attributes:
        path: The file.
        files: File name of each image id.
        sizes: Width and height of each image id, where the file tells them.
        people: Its annotations as COCOeval wants them, crowds and unlabelled persons included.
        category: Id of the category that they have.
    """

    path: str
    files: dict[int, str]
    sizes: dict[int, tuple[int, int]]
    people: list[dict[str, Any]]
    category: int


@dataclass(frozen=True)
class Persons:
    """Persons to train or evaluate on, as arrays: worker processes share them without copies.

    Attributes:
        files: [P] file name of the image.
        image_ids: [P].
        sizes: [P, 2] width and height of the image; 0 where the file does not tell them.
        boxes: [P, 4] x, y, width, height, clipped to the image.
        joints: [P, K, 3] x, y, visibility; all 0 for detections.
        scores: [P] of the detector; 1 for annotated boxes.
        detected: The boxes come from a detector.
    """

    files: np.ndarray
    image_ids: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    joints: np.ndarray
    scores: np.ndarray
    detected: bool = False

    def __len__(self) -> int:
        return len(self.files)


def load_annotations(
    path: str | Path, num_joints: int, category: str | int | None = None
) -> Annotations:
    """Read and check a COCO keypoint file.

    Args:
        path: Path of the file.
        num_joints: Number of joints that each person must have.
        category: Name or id of the category whose annotations are persons; None takes the first
            that has keypoints.

    Raises:
        DataError: The file is missing, not JSON, not of COCO's form, has no keypoints or another
            number of joints, repeats an image, or an annotation belongs to no image.
    """
    content = read_json(path, DataError, leave_out=MASKS)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise DataError(f"{path}: expected a COCO file with 'images' and 'annotations'")
    for key in ("images", "annotations"):
        if not isinstance(content[key], list):
            got = type(content[key]).__name__
            raise DataError(f"{path}: {key}: expected a list, got {got}")
    files, sizes = _read_images(f"{path}", content["images"])
    chosen = choose_category(f"{path}", content, category)
    people: list[dict[str, Any]] = []
    odd: list[str] = []
    for number, raw in enumerate(content["annotations"]):
        where = f"{path}: annotations[{number}]"
        if not isinstance(raw, dict) or not {"image_id", "bbox"} <= raw.keys():
            raise DataError(f"{where}: expected image_id and bbox")
        if "id" in raw:
            where = f"{where} (id {shown(raw['id'])})"
        if category_of(where, raw, chosen) == chosen:
            people.append(_check_person(where, raw, files, num_joints, chosen))
            area = people[-1]["area"]
            if _settle_area(people[-1]):
                odd.append(f"{where}: area: {area:g} cannot be")
    _tell_of_repeated(f"{path}", content["annotations"])
    left_out = len(content["annotations"]) - len(people)
    if left_out:
        log.info(
            "%s: the %d annotations of category %d are used, %d of other categories are left out "
            "(data.category)",
            *(path, len(people), chosen, left_out),
            extra=ONCE,
        )
    if odd:
        text = "%s; that of the box is taken, in %d annotations"
        log.warning(text, odd[0], len(odd), extra=ONCE)
    return Annotations(str(path), files, sizes, people, chosen)


def annotated_persons(annotations: Annotations, box_ends: BoxEnds = "edge") -> Persons:
    """List the persons that can be trained or evaluated on, as COCO's own tools do.

    Crowds, persons without a labelled joint and boxes outside the image are left out.

    Args:
        annotations: The file's content.
        box_ends: Where boxes and images end, see `DataConfig`.

    Raises:
        DataError: Nobody is left.
    """
    chosen, boxes, boxless = [], [], 0
    for person in annotations.people:
        box = _clip(person["bbox"], annotations.sizes.get(person["image_id"]), box_ends)
        if person["iscrowd"] or not person["num_keypoints"]:
            continue
        boxless += box is None
        if box is not None:
            chosen.append(person)
            boxes.append(box)
    if not chosen:
        raise DataError(f"{annotations.path}: no person with a labelled keypoint and a box")
    if boxless:
        log.warning(
            "%s: %d of %d persons with labelled keypoints are left out, as their boxes have no "
            "size or lie outside of their images",
            *(annotations.path, boxless, boxless + len(chosen)),
            extra=ONCE,
        )
    image_ids = [person["image_id"] for person in chosen]
    persons = Persons(
        files=np.array([annotations.files[identity] for identity in image_ids]),
        image_ids=np.array(image_ids, dtype=np.int64),
        sizes=np.array([annotations.sizes.get(i, (0, 0)) for i in image_ids], dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float32),
        joints=np.array([p["keypoints"] for p in chosen], np.float32).reshape(len(chosen), -1, 3),
        scores=np.ones(len(chosen), dtype=np.float32),
    )
    _tell_of_misfits(annotations, persons)
    return persons


def detected_persons(
    path: str | Path, annotations: Annotations, num_joints: int, min_score: float
) -> Persons:
    """List the persons that a detector found: COCO's result format, the persons' category.

    Raises:
        DataError: The file is missing or broken, names an unknown image, or no box is left.
    """
    content = read_json(path, DataError, leave_out=MASKS)
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of detections, got {type(content).__name__}")
    image_ids, boxes, scores = [], [], []
    others = low = 0
    for number, found in enumerate(content):
        where = f"{path}: detection {number}"
        if not isinstance(found, dict) or not {"image_id", "bbox", "score"} <= found.keys():
            raise DataError(f"{where}: expected image_id, bbox and score")
        if category_of(where, found, annotations.category) != annotations.category:
            others += 1
            continue
        if not is_id(found["image_id"]) or found["image_id"] not in annotations.files:
            raise DataError(
                f"{where}: {annotations.path} has no image with the id {shown(found['image_id'])}"
            )
        raw_box = _numbers(f"{where}: bbox", found["bbox"], 4)
        box = _clip(raw_box, annotations.sizes.get(found["image_id"]))
        (score,) = _numbers(f"{where}: score", [found["score"]], 1)
        if box is None or score < min_score:
            low += 1
        else:
            image_ids.append(found["image_id"])
            boxes.append(box)
            scores.append(score)
    if not image_ids:
        raise DataError(f"{path}: no person detected with a score of {min_score} or more")
    if others or low:
        log.info(
            "%s: %d boxes are used; left out: %d of other categories than %d (data.category), %d "
            "outside of their images or scored below %g (data.detection_score)",
            *(path, len(boxes), others, annotations.category, low, min_score),
            extra=ONCE,
        )
    return Persons(
        files=np.array([annotations.files[identity] for identity in image_ids]),
        image_ids=np.array(image_ids, dtype=np.int64),
        sizes=np.array([annotations.sizes.get(i, (0, 0)) for i in image_ids], dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float32),
        joints=np.zeros((len(image_ids), num_joints, 3), np.float32),
        scores=np.array(scores, dtype=np.float32),
        detected=True,
    )


def _tell_of_repeated(path: str, annotations: list[dict[str, Any]]) -> None:
    """Warn of ids that several annotations have: other programs read the last of them alone."""
    ids = [each["id"] for each in annotations if is_id(each.get("id"))]
    counts = Counter(ids)
    if len(counts) < len(ids):
        first = next(identity for identity, count in counts.items() if count > 1)
        log.warning(
            "%s: %d annotations have an id that another has, first %d; all of them are read",
            *(path, len(ids) - len(counts), first),
            extra=ONCE,
        )


def _tell_of_misfits(annotations: Annotations, persons: Persons) -> None:
    """Warn where most persons cannot be what the file says: of other units, or another form."""
    labelled = persons.joints[..., 2] > 0
    left, top, width, height = persons.boxes.T[:, :, None]
    x, y = persons.joints[..., 0], persons.joints[..., 1]
    wide, high = NEAR * width, NEAR * height
    near = (x > left - wide) & (x < left + width + wide)
    near &= (y > top - high) & (y < top + height + high)
    lost = int(np.count_nonzero(~(near & labelled).any(axis=1)))
    if 2 * lost > len(persons):
        log.warning(
            "%s: of %d of %d persons no labelled keypoint is near their box; both are expected in "
            "pixels of the image",
            *(annotations.path, lost, len(persons)),
            extra=ONCE,
        )
    wide, high = persons.sizes.T[:, :, None]
    outside = (x < -1) | (y < -1) | (x > wide + 1) | (y > high + 1)
    outside &= labelled & (wide > 0)
    if outside.any():
        one, joint = (int(each[0]) for each in np.nonzero(outside))
        log.warning(
            "%s: %d of %d labelled keypoints lie outside of their images, as [%g, %g] in %s of "
            "%d x %d pixels",
            *(annotations.path, np.count_nonzero(outside), np.count_nonzero(labelled)),
            *(*persons.joints[one, joint, :2], persons.files[one], *persons.sizes[one]),
            extra=ONCE,
        )
    known = [p for p in annotations.people if p["image_id"] in annotations.sizes]
    cut = 0
    for person in known:
        (left, top, width, height), size = person["bbox"], annotations.sizes[person["image_id"]]
        cut += left + width > size[0] + 1 or top + height > size[1] + 1
    if 2 * cut > len(known):
        log.warning(
            "%s: %d of %d boxes reach beyond their images and are cut; expected [x, y, width, "
            "height], not the corners",
            *(annotations.path, cut, len(known)),
            extra=ONCE,
        )


def _read_images(path: str, images: list[Any]) -> tuple[dict[int, str], dict[int, tuple[int, int]]]:
    """Return file name and size of each image by its id."""
    files: dict[int, str] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for number, image in enumerate(images):
        where = f"{path}: images[{number}]"
        if not isinstance(image, dict) or not {"id", "file_name"} <= image.keys():
            raise DataError(f"{where} has no 'id' and 'file_name'")
        identity, name = image["id"], image["file_name"]
        if not is_id(identity):
            raise DataError(f"{where}: expected a number as id, got {shown(identity)}")
        if identity in files:
            raise DataError(f"{where}: id {identity} is repeated")
        if not isinstance(name, str) or "\0" in name or len(name) > LONGEST_NAME:
            raise DataError(f"{where}: file_name: expected the name of a file, got {shown(name)}")
        files[identity] = name
        if "width" in image and "height" in image:
            sizes[identity] = _size(where, image["width"], image["height"])
    return files, sizes


def _check_person(
    where: str, raw: dict[str, Any], files: dict[int, str], num_joints: int, category: int
) -> dict[str, Any]:
    if not is_id(raw["image_id"]) or raw["image_id"] not in files:
        raise DataError(f"{where}: no image has the id {shown(raw['image_id'])}")
    keypoints = raw.get("keypoints", [0] * (3 * num_joints))
    if isinstance(keypoints, list) and len(keypoints) % 3 == 0 and len(keypoints) != 3 * num_joints:
        raise DataError(
            f"{where}: has {len(keypoints) // 3} joints, but model.num_joints is {num_joints}"
        )
    keypoints = _numbers(f"{where}: keypoints", keypoints, 3 * num_joints)
    odd = next((value for value in keypoints[2::3] if value not in (0, 1, 2)), None)
    if odd is not None:
        raise DataError(
            f"{where}: keypoints: expected 0 (not labelled), 1 or 2 as third number of each, got "
            f"{shown(odd)}"
        )
    box = _numbers(f"{where}: bbox", raw["bbox"], 4)
    (area,) = _numbers(f"{where}: area", [raw.get("area", box[2] * box[3])], 1)
    return {
        "image_id": raw["image_id"],
        "category_id": category,
        "bbox": box,
        "area": area,
        "iscrowd": read_crowd(where, raw),
        "keypoints": keypoints,
        "num_keypoints": sum(value > 0 for value in keypoints[2::3]),
    }


def read_crowd(where: str, raw: dict[str, Any]) -> int:
    """Return 1 if an entry is of a crowd, otherwise 0.

    Raises:
        DataError: It says neither.
    """
    crowd = raw.get("iscrowd", 0)
    if not isinstance(crowd, int) or crowd not in (0, 1):
        raise DataError(f"{where}: iscrowd: expected 0 or 1, got {shown(crowd)}")
    return int(crowd)


def _settle_area(person: dict[str, Any]) -> bool:
    """Take the box's area where the area cannot be; tell whether a labelled person had such.

    COCO's tools divide errors by it. One without a box either is left out, as if not labelled.
    """
    if 0 < person["area"] <= MOST_AREA:
        return False
    width, height = person["bbox"][2:]
    labelled = bool(person["num_keypoints"])
    if min(width, height) <= 0:
        person["num_keypoints"] = 0
    else:
        person["area"] = min(width * height, MOST_AREA)
    return labelled


def _size(where: str, width: Any, height: Any) -> tuple[int, int]:
    for name, value in (("width", width), ("height", height)):
        if not is_number(value) or not 1 <= value < MOST or value != int(value):
            raise DataError(f"{where}: {name}: expected a positive number, got {shown(value)}")
    return int(width), int(height)


def _numbers(where: str, values: Any, count: int) -> list[float]:
    if not isinstance(values, list) or len(values) != count:
        got = f"{len(values)}" if isinstance(values, list) else type(values).__name__
        raise DataError(f"{where}: expected {count} numbers, got {got}")
    for value in values:
        if not is_number(value) or not abs(value) <= MOST:
            raise DataError(f"{where}: expected finite numbers only, got {shown(value)}")
    return values


def _clip(
    box: list[float], size: tuple[int, int] | None, box_ends: BoxEnds = "edge"
) -> list[float] | None:
    x, y, width, height = box
    least = LEAST_SIDE
    if box_ends == "last_pixel":
        # x and y are clipped first, width and height stay, as in PaddleDetection
        x, y = max(0.0, x), max(0.0, y)
        width, height = width - 1, height - 1
        size = (size[0] - 1, size[1] - 1) if size is not None else None
        least = 0.0
    right, bottom = x + width, y + height
    if size is not None:
        x, y = max(0.0, x), max(0.0, y)
        right, bottom = min(float(size[0]), right), min(float(size[1]), bottom)
    sides = (right - x, bottom - y)
    return [x, y, *sides] if min(sides) >= least and max(sides) > LEAST_SIDE else None
