"""Read joints from their names, which tell the pairs that a mirror swaps, and from COCO files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import DataError
from tasks.keypoint.joints import COCO_NAMES, Pairs

_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
# a side is a word of its own, or begins or ends a word in camel case: leftEye, eye_L, EyeRight
_SIDE = re.compile(r"(?i:left|right)|(?<![A-Za-z])[lrLR](?![A-Za-z])|(?<=[a-z])[LR](?![A-Za-z])")


@dataclass(frozen=True)
class JointsFound:
    """The joints of one category.

    Attributes:
        count: Number of joints.
        names: Empty if the data do not tell.
        flip_pairs: None: unknown, so mirror images must not be used.
        skeleton: Limbs; may be empty.
        category: Name of the category, for people.
    """

    count: int
    names: tuple[str, ...] = ()
    flip_pairs: Pairs | None = None
    skeleton: Pairs = ()
    category: str = ""

    def settings(self) -> dict[str, Any]:
        """Return the settings that describe these joints."""
        found: dict[str, Any] = {"model": {"num_joints": self.count}}
        if self.count == len(COCO_NAMES) and self.names in ((), COCO_NAMES):
            return found  # COCO's joints need no description
        joints: dict[str, Any] = {}
        # left open, pairs are refused where a setting of the user needs them; 17 would be COCO's
        if self.flip_pairs is not None or self.count == len(COCO_NAMES):
            joints["flip_pairs"] = [list(pair) for pair in self.flip_pairs or ()]
        if self.names:
            joints["names"] = list(self.names)
        joints["skeleton"] = [list(pair) for pair in self.skeleton]
        found |= {"joints": joints, "augment": {"half_body": 0.0}}
        if self.flip_pairs is None:
            found["augment"]["flip"] = 0.0
            found["evaluation"] = {"flip_test": False}
        return found

    def in_words(self) -> list[str]:
        """Describe the joints in words."""
        of = f" of {self.category}" if self.category else ""
        names = f": {', '.join(self.names)}" if self.names else " without names"
        if self.flip_pairs is None:
            mirror = "which joints a mirror swaps is not known: no flips (joints.flip_pairs)"
        elif not self.flip_pairs:
            mirror = "a mirror swaps no joints"
        else:
            named = self.names or tuple(str(i) for i in range(self.count))
            pairs = ", ".join(f"{named[a]} and {named[b]}" for a, b in self.flip_pairs)
            mirror = f"a mirror swaps {pairs}"
        limbs = f"{len(self.skeleton)} limbs" if self.skeleton else "no limbs (joints.skeleton)"
        return [f"{self.count} joints{of}{names}", f"{mirror}; {limbs}"]


def find_flip_pairs(names: Sequence[str]) -> Pairs | None:
    """Return the joints whose names differ in the side alone; None where that leaves doubt.

    That is where no name has a side, or one with a side has no partner.
    """
    places = {name.lower(): index for index, name in enumerate(names)}
    pairs = []
    for index, name in enumerate(names):
        if _SIDE.search(name) is None:
            continue
        other = places.get(_SIDE.sub(lambda found: _SIDES[found[0].lower()], name).lower())
        if other is None:
            return None
        if index < other:
            pairs.append((index, other))
    return tuple(pairs) if pairs or len(names) == 1 else None


def joints_of_category(path: str, category: Mapping[str, Any], count: int) -> JointsFound:
    """Read names and skeleton of a category of a COCO file.

    Args:
        path: Path of the file, for messages.
        category: Entry of `categories`; empty if the file has none.
        count: Joints that the annotations have.

    Raises:
        DataError: Its names are not as many, or its skeleton is malformed.
    """
    given = category.get("keypoints") or []
    names = tuple(str(name) for name in given) if isinstance(given, list) else ()
    where = f"{path}: category {category.get('name', '')!r}"
    if names and len(names) != count:
        raise DataError(f"{where}: names {len(names)} keypoints, annotations have {count}")
    limbs = category.get("skeleton") or []
    whole = isinstance(limbs, list) and all(
        isinstance(limb, list) and len(limb) == 2 and all(type(i) is int for i in limb)
        for limb in limbs
    )
    if not whole:
        raise DataError(f"{where}: skeleton: expected pairs of joints, got {str(limbs)[:80]}")
    first = 0 if any(0 in limb for limb in limbs) else 1  # COCO counts from 1
    pairs = tuple((a - first, b - first) for a, b in limbs)
    outside = [joint for pair in pairs for joint in pair if not 0 <= joint < count]
    if outside:
        raise DataError(f"{where}: skeleton: joint {outside[0] + first} of {count}")
    name = f"{category['name']!r} (id {category['id']})" if "name" in category else ""
    return JointsFound(count, names, find_flip_pairs(names), pairs, name)
