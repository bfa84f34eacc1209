"""Overlay a label map on its image in colours that never change, with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from core.training import lettering
from tasks.seg.config import Color

OPACITY = 0.5
FIRST = (70, 130, 180)  # colour of a class 0 that is no background; no other class has it
BACKGROUNDS = ("background", "bg", "ground", "other", "others", "void", "unlabeled", "unlabelled")


def palette(names: Sequence[str], own: Sequence[Color] = ()) -> np.ndarray:
    """Return an RGB colour for each class [C, 3] uint8: its own, or one of a fixed list.

    In the list, the bits of the class number are spread over the high bits of red, green and blue,
    so that neighbours differ most, as in the colour maps of Pascal VOC. There class 0, a
    background, is black; a class 0 that is something, as the road of Cityscapes, has a colour.

    Args:
        names: Names of the classes.
        own: Their colours in the masks. Grey ones tell classes apart badly on pictures.
    """
    colours = np.zeros((len(names), 3), np.int64)
    for index in range(len(names)):
        for bit in range(8):
            group = (index >> (3 * bit)) & 7
            for channel in range(3):
                colours[index, channel] |= ((group >> channel) & 1) << max(7 - bit, 0)
    background = has_background(names)
    if len(names) and not background:
        colours[0] = FIRST
    if len(own) == len(names) and all(len(set(each)) > 1 for each in own[int(background) :]):
        colours[int(background) :] = own[int(background) :]
    return colours.astype(np.uint8)


def has_background(names: Sequence[str]) -> bool:
    """Tell whether class 0 is the background: by its name, or as one of two classes."""
    return len(names) <= 2 or names[0].strip(" _").lower() in BACKGROUNDS


def draw_mask(
    image: np.ndarray, mask: np.ndarray, class_names: Sequence[str], own: Sequence[Color] = ()
) -> np.ndarray:
    """Return the RGB image [H, W, 3] tinted by the classes of a mask [H, W], with their names.

    A background, and what is of no class, stays as it is. `own` is as for `palette`.
    """
    colours = palette(class_names, own)
    first = 1 if has_background(class_names) else 0
    tinted = (mask >= first) & (mask < len(class_names))
    tint = colours[np.where(tinted, mask, 0)]
    mixed = cv2.addWeighted(image, 1 - OPACITY, tint, OPACITY, 0)
    drawn = np.where(tinted[..., None], mixed, image)
    present = [int(label) for label in np.unique(mask[tinted])]
    names = [lettering.drawable(class_names[label], f"class {label}") for label in present]
    return _draw_legend(drawn, list(zip(names, colours[present])))


def _draw_legend(image: np.ndarray, entries: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    size = float(np.clip(min(image.shape[:2]) / 18, 11, 32))
    line, box = round(1.3 * size), round(0.7 * size)
    for number, (name, colour) in enumerate(entries):
        top = number * line + line // 3
        if top + box > image.shape[0]:
            break
        corners = (box // 2, top), (box // 2 + box, top + box)
        cv2.rectangle(image, *corners, colour.tolist(), -1)
        cv2.rectangle(image, *corners, (255, 255, 255), 1)
        middle = top + box / 2 - lettering.text_size(name, size)[1] / 2
        image = lettering.write(image, name, (2 * box, middle), size, rim=max(1, round(size / 12)))
    return image
