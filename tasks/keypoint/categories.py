"""Which annotations of a COCO file are persons; JSON values of the right type and no other."""

from __future__ import annotations

from typing import Any

from core.errors import DataError
from core.settings.config import suggest
from core.settings.yaml_loader import shown

LARGEST_ID = 2**63
DEFAULT = 1  # where a file has neither categories nor their ids


def choose_category(path: str, content: dict[str, Any], wanted: str | int | None) -> int:
    """Return the id of the category whose annotations are persons.

    Args:
        path: Path of the file, for messages.
        content: Content of the file, with `annotations`.
        wanted: Its name or id; None takes the first that has keypoints, or the only one that
            annotations with keypoints have.

    Raises:
        DataError: There is none, or it is not clear which.
    """
    if not any(isinstance(a, dict) and "keypoints" in a for a in content["annotations"]):
        raise DataError(f"{path}: no annotation has 'keypoints': not a COCO keypoint file")
    known = _categories(path, content.get("categories", []))
    if wanted is not None:
        for identity, (name, _) in known.items():
            if wanted in (identity, name):
                return identity
        if not known and isinstance(wanted, int):
            return wanted
        names = [name for name, _ in known.values()]
        hint = suggest(str(wanted), names) if names else "; it has no categories"
        raise DataError(f"{path}: no category {shown(wanted)} (data.category){hint}")
    with_joints = [identity for identity, (_, joints) in known.items() if joints]
    if with_joints:
        return with_joints[0]
    found = list(
        dict.fromkeys(
            category_of(f"{path}: annotations[{number}]", raw, DEFAULT)
            for number, raw in enumerate(content["annotations"])
            if isinstance(raw, dict) and "keypoints" in raw
        )
    )
    if len(found) > 1:
        listed = ", ".join(str(identity) for identity in found[:10])
        raise DataError(
            f"{path}: annotations with keypoints have the categories {listed}; set data.category"
        )
    return found[0]


def category_of(where: str, raw: dict[str, Any], default: int) -> int:
    """Return the category of an annotation or a detection.

    Raises:
        DataError: It is no whole number.
    """
    identity = raw.get("category_id", default)
    if not is_id(identity):
        raise DataError(f"{where}: category_id: expected a number, got {shown(identity)}")
    return int(identity)


def is_id(value: Any) -> bool:
    """Tell whether a JSON value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_ID


def is_number(value: Any) -> bool:
    """Tell whether a JSON value is a number; true, false and digits in quotes are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _categories(path: str, categories: Any) -> dict[int, tuple[str, bool]]:
    """Return name and whether there are keypoints of each category by its id."""
    if not isinstance(categories, list):
        raise DataError(f"{path}: categories: expected a list, got {shown(categories)}")
    known: dict[int, tuple[str, bool]] = {}
    for number, each in enumerate(categories):
        where = f"{path}: categories[{number}]"
        if not isinstance(each, dict) or not is_id(each.get("id")):
            raise DataError(f"{where}: expected a number as id")
        if each["id"] in known:
            raise DataError(f"{where}: id {each['id']} is repeated")
        known[each["id"]] = (str(each.get("name", "")), bool(each.get("keypoints")))
    return known
