"""Overlay a label map on its image in colours that never change, with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

OPACITY = 0.5
FIRST = (70, 130, 180)  # colour of a class 0 that is no background; no other class has it
BACKGROUNDS = ("background", "bg", "ground", "other", "others", "void", "unlabeled", "unlabelled")
FONT = cv2.FONT_HERSHEY_SIMPLEX


def palette(names: Sequence[str]) -> np.ndarray:
    """Return an RGB colour for each class [C, 3] uint8.

    The bits of the class number are spread over the high bits of red, green and blue, so that
    neighbours differ most, as in the colour maps of Pascal VOC. There class 0, a background, is
    black; a class 0 that is something, as the road of Cityscapes, has a colour of its own.
    """
    colours = np.zeros((len(names), 3), np.int64)
    for index in range(len(names)):
        for bit in range(8):
            group = (index >> (3 * bit)) & 7
            for channel in range(3):
                colours[index, channel] |= ((group >> channel) & 1) << max(7 - bit, 0)
    if len(names) and not has_background(names):
        colours[0] = FIRST
    return colours.astype(np.uint8)


def has_background(names: Sequence[str]) -> bool:
    """Tell whether class 0 is the background: by its name, or as one of two classes."""
    return len(names) <= 2 or names[0].strip(" _").lower() in BACKGROUNDS


def draw_mask(image: np.ndarray, mask: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Return the RGB image [H, W, 3] tinted by the classes of a mask [H, W], with their names.

    A background, and what is of no class, stays as it is.
    """
    colours = palette(class_names)
    first = 1 if has_background(class_names) else 0
    tinted = (mask >= first) & (mask < len(class_names))
    tint = colours[np.where(tinted, mask, 0)]
    mixed = cv2.addWeighted(image, 1 - OPACITY, tint, OPACITY, 0)
    drawn = np.where(tinted[..., None], mixed, image)
    present = [int(label) for label in np.unique(mask[tinted])]
    return _draw_legend(drawn, [(class_names[label], colours[label]) for label in present])


def _draw_legend(image: np.ndarray, entries: list[tuple[str, np.ndarray]]) -> np.ndarray:
    scale = float(np.clip(min(image.shape[:2]) / 800, 0.3, 1.0))
    line = int(32 * scale)
    box = line // 2
    y = line
    for name, colour in entries:
        if y > image.shape[0]:
            break
        corner = (box // 2, y - box)
        cv2.rectangle(image, corner, (corner[0] + box, y), colour.tolist(), -1)
        cv2.rectangle(image, corner, (corner[0] + box, y), (255, 255, 255), 1)
        place = (corner[0] + box + box // 2, y)
        cv2.putText(image, name, place, FONT, scale, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(image, name, place, FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)
        y += line
    return image
