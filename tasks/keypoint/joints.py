"""Joints of a data set: names, sides, limbs, and how exactly people can place them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Pairs = tuple[tuple[int, int], ...]

COCO_NAMES = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035),
    *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
    *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
COCO_FLIP_PAIRS: Pairs = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))
COCO_UPPER_BODY = tuple(range(11))
COCO_SKELETON: Pairs = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6)),
    *((5, 7), (6, 8), (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
COCO_TORSO = (6, 11)
UNIFORM_SIGMA = 0.05


@dataclass(frozen=True)
class JointsConfig:
    """Names, sides and limbs of the joints; null takes COCO's where there are 17 joints.

    Attributes:
        names: For reports; null numbers the joints.
        sigmas: OKS deviation per joint as in COCO; null is 0.05 for each if not COCO.
        flip_pairs: Joints that a mirror swaps; needed for flips, [] if there are none.
        upper_body: Joints of the upper half, for the half-body augmentation.
        skeleton: Limbs to draw, as pairs of joints.
        torso: Two joints whose distance is the unit of `evaluation.pck_unit: torso`.
    """

    names: tuple[str, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    flip_pairs: tuple[tuple[int, int], ...] | None = None
    upper_body: tuple[int, ...] | None = None
    skeleton: tuple[tuple[int, int], ...] | None = None
    torso: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.sigmas is not None and min(self.sigmas, default=1.0) <= 0:
            raise ValueError(f"sigmas: expected numbers > 0, got {min(self.sigmas)}")
        swapped = [joint for pair in self.flip_pairs or () for joint in pair]
        if len(set(swapped)) != len(swapped):
            raise ValueError("flip_pairs: expected each joint in one pair only")


@dataclass(frozen=True)
class JointSet:
    """The joints of one data set, all gaps filled."""

    names: tuple[str, ...]
    sigmas: tuple[float, ...]
    flip_pairs: Pairs | None
    upper_body: tuple[int, ...] | None
    skeleton: Pairs
    torso: tuple[int, int] | None

    def mirror(self) -> np.ndarray:
        """Return for each joint the one that takes its place in a mirror, [K] int64."""
        order = np.arange(len(self.names))
        for left, right in self.flip_pairs or ():
            order[left], order[right] = right, left
        return order


def resolve_joints(config: JointsConfig, count: int) -> JointSet:
    """Fill what the config leaves open and check the rest against the number of joints.

    Raises:
        ValueError: A list of another length, or a joint that does not exist.
    """
    coco = count == len(COCO_NAMES)
    for key, per_joint in (("names", config.names), ("sigmas", config.sigmas)):
        if per_joint is not None and len(per_joint) != count:
            raise ValueError(
                f"joints.{key}: expected {count} values (model.num_joints), got {len(per_joint)}"
            )
    if config.sigmas is not None and not all(1e-4 <= sigma <= 100 for sigma in config.sigmas):
        raise ValueError(f"joints.sigmas: expected 0.0001 to 100, got {list(config.sigmas)}")
    _check_indices(config, count)
    numbered = COCO_NAMES if coco else tuple(f"joint_{i}" for i in range(count))
    uniform = COCO_SIGMAS if coco else (UNIFORM_SIGMA,) * count
    return JointSet(
        names=config.names or numbered,
        sigmas=config.sigmas or uniform,
        flip_pairs=_or_coco(config.flip_pairs, COCO_FLIP_PAIRS, coco),
        upper_body=_or_coco(config.upper_body, COCO_UPPER_BODY, coco),
        skeleton=_or_coco(config.skeleton, COCO_SKELETON, coco) or (),
        torso=_or_coco(config.torso, COCO_TORSO, coco),
    )


def _or_coco(given: T | None, coco_value: T, coco: bool) -> T | None:
    if given is not None:
        return given
    return coco_value if coco else None


def _check_indices(config: JointsConfig, count: int) -> None:
    named = {
        "flip_pairs": [joint for pair in config.flip_pairs or () for joint in pair],
        "upper_body": list(config.upper_body or ()),
        "skeleton": [joint for pair in config.skeleton or () for joint in pair],
        "torso": list(config.torso or ()),
    }
    for key, joints in named.items():
        for joint in joints:
            if not 0 <= joint < count:
                raise ValueError(f"joints.{key}: expected joints 0 to {count - 1}, got {joint}")
