"""Overlay a label map on its image in colours that never change, with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

OPACITY = 0.5
FONT = cv2.FONT_HERSHEY_SIMPLEX


def palette(count: int) -> np.ndarray:
    """Return an RGB colour for each class [count, 3] uint8.

    The bits of the class number are spread over the high bits of red, green and blue, so that
    neighbours differ most, as in the colour maps of Pascal VOC. Class 0 is dark grey.
    """
    colours = np.zeros((count, 3), np.int64)
    for index in range(count):
        for bit in range(8):
            group = (index >> (3 * bit)) & 7
            for channel in range(3):
                colours[index, channel] |= ((group >> channel) & 1) << max(7 - bit, 0)
    if count:
        colours[0] = 40
    return colours.astype(np.uint8)


def draw_mask(image: np.ndarray, mask: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Return the RGB image [H, W, 3] tinted by the classes of a mask [H, W], with their names."""
    colours = palette(len(class_names))
    tint = colours[np.clip(mask, 0, len(class_names) - 1)]
    drawn = cv2.addWeighted(image, 1 - OPACITY, tint, OPACITY, 0)
    present = [int(label) for label in np.unique(mask) if 0 <= label < len(class_names)]
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
