"""Draw a skeleton over an image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from tasks.keypoint.joints import Pairs


def draw_skeleton(
    image: np.ndarray,
    points: Sequence[Sequence[float]],
    skeleton: Pairs,
    min_score: float,
    side: float,
) -> np.ndarray:
    """Return a copy of the RGB image with coloured limbs and white joints.

    Args:
        image: [H, W, 3] uint8.
        points: x, y, score of each joint; those scored below `min_score` are left out.
        skeleton: Limbs as pairs of joints.
        min_score: See `points`.
        side: Size of the person in pixels: small persons get thin lines.
    """
    canvas = image.copy()
    thickness = max(1 if side < 60 else 2, round(side / 100))
    places = [(round(x), round(y)) for x, y, _ in points]
    seen = [score >= min_score for _, _, score in points]
    for number, (start, end) in enumerate(skeleton):
        if seen[start] and seen[end]:
            color = limb_color(number, len(skeleton))
            cv2.line(canvas, places[start], places[end], color, thickness, cv2.LINE_AA)
    for place, visible in zip(places, seen):
        if visible:
            cv2.circle(canvas, place, thickness, (255, 255, 255), -1, cv2.LINE_AA)
            if thickness > 1:
                cv2.circle(canvas, place, thickness, (40, 40, 40), 1, cv2.LINE_AA)
    return canvas


def draw_box(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Return a copy of an RGB image [H, W, 3] with the box x, y, width, height of a person."""
    canvas = image.copy()
    x, y, width, height = box
    corners = (round(x), round(y)), (round(x + width) - 1, round(y + height) - 1)
    cv2.rectangle(canvas, *corners, (255, 255, 255), 1)
    return canvas


def limb_color(number: int, count: int) -> tuple[int, int, int]:
    """Return the RGB colour of a limb; neighbours in the list get similar hues."""
    red, green, blue = colorsys.hsv_to_rgb(number / max(count, 1), 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
