"""Augmentation and normalisation of an image [H, W, 3] uint8 with its label map [H, W].

Images stay uint8 until `normalize`, and scaling touches only the part that the crop keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from core.training.images import with_channel_axis
from tasks.seg.config import AugmentConfig, Size

LUMA = np.array([[0.299, 0.587, 0.114]], np.float32)


class Window(NamedTuple):
    """A rectangle of the source, and the size it takes in the result."""

    left: int
    top: int
    width: int
    height: int
    to: Size


def augment(
    image: np.ndarray, label: np.ndarray, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Scale, crop and distort; return image, label and whether both are to be mirrored.

    The result is smaller than the crop where the scaled image is; `pad` and `normalize` fill up.
    """
    if config.resize is not None:
        image, label = resize(image, config.resize), resize_label(label, config.resize)
    window = draw_window(image.shape[1], image.shape[0], config, rng)
    image, label = cut(image, window, cv2.INTER_LINEAR), cut(label, window, cv2.INTER_NEAREST_EXACT)
    mirrored = bool(rng.random() < config.flip)
    if config.distort > 0:
        image = distort(image, config, rng)
    return image, label, mirrored


def draw_window(width: int, height: int, config: AugmentConfig, rng: np.random.Generator) -> Window:
    """Choose a scale and a place, and say which part of the source shows up in the crop.

    The part is cut at whole pixels of the source, so the true scale is off by less than one pixel
    in the crop's side.
    """
    scale = draw_scale(config, rng)
    crop = config.crop or (round(width * scale), round(height * scale))
    (left, part_width, to_width), (top, part_height, to_height) = (
        _draw_span(side, scale, wanted, rng) for side, wanted in zip((width, height), crop)
    )
    return Window(left, top, part_width, part_height, (to_width, to_height))


def draw_scale(config: AugmentConfig, rng: np.random.Generator) -> float:
    """Draw from the steps between the smallest and the largest scale, or from all in between."""
    low, high, step = config.scale_min, config.scale_max, config.scale_step
    if low == high:
        return low
    if step == 0:
        return float(rng.uniform(low, high))
    steps = int((high - low) / step + 1e-6) + 1
    return low + step * int(rng.integers(steps))


def _draw_span(
    side: int, scale: float, wanted: int, rng: np.random.Generator
) -> tuple[int, int, int]:
    """Return start and length in the source and the length in the result, along one axis."""
    scaled = max(round(side * scale), 1)
    if scaled <= wanted:
        return 0, side, scaled
    part = min(max(round(wanted / scale), 1), side)
    return int(rng.integers(side - part + 1)), part, wanted


def cut(array: np.ndarray, window: Window, interpolation: int) -> np.ndarray:
    """Take the window out of an image or label map and bring it to its size."""
    left, top, width, height, to = window
    part = array[top : top + height, left : left + width]
    if (width, height) == tuple(to):
        return part
    resized: np.ndarray = cv2.resize(part, to, interpolation=interpolation)
    return with_channel_axis(resized) if array.ndim == 3 else resized


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize an image bilinearly to [width, height]."""
    return cut(image, _whole(image, size), cv2.INTER_LINEAR)


def resize_label(label: np.ndarray, size: Size) -> np.ndarray:
    """Resize a label map to [width, height]; no value appears that was not there."""
    return cut(label, _whole(label, size), cv2.INTER_NEAREST_EXACT)


def _whole(array: np.ndarray, size: Size) -> Window:
    return Window(0, 0, array.shape[1], array.shape[0], size)


def pad(array: np.ndarray, size: Size, value: float, mirrored: bool = False) -> np.ndarray:
    """Fill an array [..., H, W] up to [width, height] at the right and below, then mirror it."""
    width, height = size
    if array.shape[-2:] == (height, width):
        return np.ascontiguousarray(array[..., ::-1]) if mirrored else array
    padded = np.full((*array.shape[:-2], height, width), value, array.dtype)
    part = array[..., ::-1] if mirrored else array
    left = width - array.shape[-1] if mirrored else 0
    padded[..., : array.shape[-2], left : left + array.shape[-1]] = part
    return padded


def normalize(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return (image / 255 - mean) / std of an image [H, W, C] as float32 [C, H, W].

    Each value has one of 256 results, so this is a look-up, and the same to the last bit.
    """
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    result = np.empty((image.shape[2], *image.shape[:2]), np.float32)
    for channel, plane in enumerate(cv2.split(np.ascontiguousarray(image))):
        table = (values - np.float32(mean[channel])) / np.float32(std[channel])
        cv2.LUT(plane, table, dst=result[channel])
    return result


def distort(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, saturation and hue, each with its probability, in any order."""
    for kind in rng.permutation(4):
        apply, strength = rng.random() < config.distort, rng.uniform(-1, 1)
        if not apply:
            continue
        if kind == 0:
            image = change_brightness(image, 1 + strength * config.brightness)
        elif kind == 1:
            image = change_contrast(image, 1 + strength * config.contrast)
        elif kind == 2:
            image = change_saturation(image, 1 + strength * config.saturation)
        else:
            image = change_hue(image, strength * config.hue)
    return image


def change_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply by a factor."""
    return _look_up(image, np.arange(256) * factor)


def change_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Move away from (factor > 1) or towards the mean luminance of the image."""
    mean = float(LUMA[0] @ np.asarray(cv2.mean(image)[:3], np.float32))
    middle = int(mean + 0.5)
    return _look_up(image, middle + (np.arange(256) - middle) * factor)


def change_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Move away from (factor > 1) or towards the luminance of each pixel."""
    grey = LUMA.repeat(3, axis=0) * (1 - factor)
    mixed: np.ndarray = cv2.transform(image, grey + np.eye(3, dtype=np.float32) * factor)
    return mixed


def change_hue(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turn the colour circle."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    turned = (np.arange(256) + round(degrees * 256 / 360)) % 256
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, 0), turned.astype(np.uint8)), hsv, 0)
    rgb: np.ndarray = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return rgb


def _look_up(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    looked_up: np.ndarray = cv2.LUT(image, np.clip(np.rint(values), 0, 255).astype(np.uint8))
    return looked_up
