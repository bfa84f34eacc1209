"""AutoAugment and RandAugment on RGB [H, W, 3] uint8 pictures.

Cubuk et al., AutoAugment: Learning Augmentation Policies from Data, 2018 (the ImageNet policy);
Cubuk et al., RandAugment, 2019. Strengths are on the scale 0..10 of the papers; what moves pixels
fills the gap with grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

import cv2
import numpy as np

from core.training.images import as_rgb, with_channel_axis

_GREY = (128, 128, 128)
_MAX_LEVEL = 10
_LEVELS = np.arange(256)

Change = Callable[[np.ndarray, float], np.ndarray]


def autoaugment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply one of the 25 published pairs of operations."""
    for name, probability, level in AUTOAUGMENT[rng.integers(len(AUTOAUGMENT))]:
        if rng.random() < probability:
            image = apply(image, rng, name, level)
    return image


def randaugment(
    image: np.ndarray, rng: np.random.Generator, layers: int, magnitude: float
) -> np.ndarray:
    """Apply `layers` operations, each drawn evenly, at one strength."""
    for index in rng.integers(len(RANDAUGMENT), size=layers):
        image = apply(image, rng, RANDAUGMENT[index], magnitude)
    return image


def apply(image: np.ndarray, rng: np.random.Generator, name: str, level: float) -> np.ndarray:
    """Apply an operation of the papers at a strength 0..10, in a random direction."""
    sign = 1 if rng.random() < 0.5 else -1
    return _OPERATIONS[name](image, level / _MAX_LEVEL, sign)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale all values; 0 is black, 1 changes nothing."""
    return _map_levels(image, _LEVELS * factor)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Move values away from the picture's mean grey; 0 is that grey, 1 changes nothing."""
    of_rgb = cv2.cvtColor(as_rgb(image), cv2.COLOR_RGB2GRAY)
    grey = round(cv2.mean(of_rgb)[0])
    return _map_levels(image, grey + (_LEVELS - grey) * factor)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Move every pixel away from its grey; 0 is a grey picture, 1 changes nothing."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _blend(grey, image, factor)


def adjust_sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Move values away from a smoothed picture; 0 is smooth, 1 changes nothing."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, kernel)[1:-1, 1:-1]
    return _blend(smooth, image, factor)


def shift_hue(image: np.ndarray, turns: float) -> np.ndarray:
    """Turn the colour circle; 0 and 1 change nothing but by rounding."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hue = (_LEVELS + round(turns * 256)) % 256
    hsv[..., 0] = cv2.LUT(np.ascontiguousarray(hsv[..., 0]), hue.astype(np.uint8))
    shifted: np.ndarray = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return shifted


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep the highest bits of every value."""
    return _map_levels(image, _LEVELS & ~(2 ** (8 - bits) - 1))


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Invert the values from `threshold` on."""
    return _map_levels(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def invert(image: np.ndarray) -> np.ndarray:
    """Return the negative."""
    inverted: np.ndarray = cv2.bitwise_not(image)
    return inverted


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretch each channel to 0..255."""
    tables = []
    for channel in range(3):
        low, high, *_ = cv2.minMaxLoc(cv2.extractChannel(image, channel))
        tables.append((_LEVELS - low) * 255 / (high - low) if high > low else _LEVELS)
    return _map_channels(image, tables)


def equalize(image: np.ndarray) -> np.ndarray:
    """Flatten the histogram of each channel."""
    tables = []
    for channel in range(3):
        counts = np.bincount(cv2.extractChannel(image, channel).ravel(), minlength=256)
        last = counts[np.flatnonzero(counts)[-1]]
        step = int(counts.sum() - last) // 255
        below = np.concatenate([[0], np.cumsum(counts)[:-1]])
        tables.append((step // 2 + below) // step if step else _LEVELS)
    return _map_channels(image, tables)


def shear(image: np.ndarray, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Shift every row by `x` times its height, every column by `y` times its place."""
    return _warp(image, [[1, x, 0], [y, 1, 0]])


def translate(image: np.ndarray, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Shift the picture to the right and down, in pixels."""
    return _warp(image, [[1, 0, x], [0, 1, y]])


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turn the picture counter-clockwise about its centre."""
    height, width = image.shape[:2]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    cx, cy = (width - 1) / 2, (height - 1) / 2
    return _warp(
        image, [[cos, sin, cx - cos * cx - sin * cy], [-sin, cos, cy + sin * cx - cos * cy]]
    )


def _warp(image: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    """Apply an affine map from old to new pixel places."""
    height, width = image.shape[:2]
    warped: np.ndarray = cv2.warpAffine(
        image, np.array(matrix, np.float64), (width, height), borderValue=_GREY
    )
    return warped


def _map_levels(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return with_channel_axis(cv2.LUT(image, _as_levels(table)))


def _map_channels(image: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    mapped: np.ndarray = cv2.LUT(image, _as_levels(np.stack(tables, axis=-1))[None])
    return mapped


def _as_levels(table: np.ndarray) -> np.ndarray:
    levels: np.ndarray = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    return levels


def _blend(neutral: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
    blended: np.ndarray = cv2.addWeighted(image, factor, neutral, 1 - factor, 0)
    return blended


# Each takes the picture, a strength 0..1 and a direction; the largest amounts are the papers'.
_OPERATIONS: MappingProxyType[str, Callable[[np.ndarray, float, int], np.ndarray]] = (
    MappingProxyType(
        {
            "identity": lambda image, strength, sign: image,
            "shear_x": lambda image, strength, sign: shear(image, x=sign * 0.3 * strength),
            "shear_y": lambda image, strength, sign: shear(image, y=sign * 0.3 * strength),
            "translate_x": lambda image, strength, sign: translate(
                image, x=sign * 150 / 331 * image.shape[1] * strength
            ),
            "translate_y": lambda image, strength, sign: translate(
                image, y=sign * 150 / 331 * image.shape[0] * strength
            ),
            "rotate": lambda image, strength, sign: rotate(image, sign * 30 * strength),
            "color": lambda image, strength, sign: adjust_saturation(
                image, 1 + sign * 0.9 * strength
            ),
            "contrast": lambda image, strength, sign: adjust_contrast(
                image, 1 + sign * 0.9 * strength
            ),
            "brightness": lambda image, strength, sign: adjust_brightness(
                image, 1 + sign * 0.9 * strength
            ),
            "sharpness": lambda image, strength, sign: adjust_sharpness(
                image, 1 + sign * 0.9 * strength
            ),
            "posterize": lambda image, strength, sign: posterize(image, 8 - round(4 * strength)),
            "solarize": lambda image, strength, sign: solarize(image, 256 * (1 - strength)),
            "autocontrast": lambda image, strength, sign: autocontrast(image),
            "equalize": lambda image, strength, sign: equalize(image),
            "invert": lambda image, strength, sign: invert(image),
        }
    )
)

RANDAUGMENT = (
    "identity",
    "autocontrast",
    "equalize",
    "rotate",
    "solarize",
    "color",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)

# (operation, probability, strength), two per policy: table 9 of the paper
AUTOAUGMENT = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)
