"""From a picture to the network's input; randomness comes from the generator passed in.

Pictures stay [H, W, C] uint8, most of them RGB, until the last step, which scales, orders and
normalises at once.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from core.training.images import MOST_SIDE, with_channel_axis
from tasks.cls import policies
from tasks.cls.config import AugmentConfig, DataConfig

Size = tuple[int, int]  # height, width
_INTERPOLATIONS = {
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}


class Normalize:
    """An image [H, W, C] uint8 to [C, H, W] float32, `(x / 255 - mean) / std`, by table look-up."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        levels = np.arange(256, dtype=np.float64) / 255
        self._tables = [
            np.ascontiguousarray((levels - m) / s, np.float32).reshape(1, 256)
            for m, s in zip(mean, std)
        ]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        result = np.empty((len(self._tables), *image.shape[:2]), np.float32)
        for channel, table in enumerate(self._tables):
            cv2.LUT(cv2.extractChannel(image, channel), table, dst=result[channel])
        return result


class TrainTransform:
    """Random crop, flip, policy, colour jitter, normalisation, erasing."""

    def __init__(self, data: DataConfig, augment: AugmentConfig) -> None:
        self._data = data
        self._augment = augment
        self._interpolation = _INTERPOLATIONS[data.interpolation]
        self._normalize = Normalize(data.mean, data.std)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        augment = self._augment
        image = random_resized_crop(
            image, rng, self._data.input_size, augment.scale, augment.ratio, self._interpolation
        )
        if rng.random() < augment.flip:
            image = with_channel_axis(cv2.flip(image, 1))
        if augment.policy == "autoaugment":
            image = policies.autoaugment(image, rng)
        elif augment.policy == "randaugment":
            image = policies.randaugment(
                image, rng, augment.policy_layers, augment.policy_magnitude
            )
        image = color_jitter(image, rng, augment)
        result = self._normalize(image)
        if augment.erasing and rng.random() < augment.erasing:
            random_erase(result, rng, augment)
        return result


class EvalTransform:
    """Shorter side to a fixed length and centre crop, or the whole stretched; normalisation."""

    def __init__(self, data: DataConfig) -> None:
        self._data = data
        self._interpolation = _INTERPOLATIONS[data.interpolation]
        self._normalize = Normalize(data.mean, data.std)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        short, size = self._data.shorter_side, self._data.input_size
        if short is None:
            return self._normalize(stretch(image, size, self._interpolation))
        image = resize_short(image, short, self._interpolation)
        return self._normalize(center_crop(image, size[0]))


def resize_short(image: np.ndarray, side: int, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resize so that the shorter side is `side`; the shape stays proportional, rounded.

    Of an image that would be too long for OpenCV, only the middle is kept.
    """
    height, width = image.shape[:2]
    scale = side / min(height, width)
    longest = max(int(MOST_SIDE / scale), 1)
    if max(height, width) > longest:
        top, left = max(height - longest, 0) // 2, max(width - longest, 0) // 2
        image = image[top : top + longest, left : left + longest]
        height, width = image.shape[:2]
    size = (round(width * scale), round(height * scale))
    if size == (width, height):
        return image
    return with_channel_axis(cv2.resize(image, size, interpolation=interpolation))


def stretch(image: np.ndarray, size: Size, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resize an image [H, W, C] to (height, width), whatever its own shape."""
    if image.shape[:2] == size:
        return np.ascontiguousarray(image)
    return with_channel_axis(cv2.resize(image, size[::-1], interpolation=interpolation))


def center_crop(image: np.ndarray, side: int) -> np.ndarray:
    """Cut the central square out; a view, not a copy."""
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def random_resized_crop(
    image: np.ndarray,
    rng: np.random.Generator,
    size: Size,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    interpolation: int = cv2.INTER_LINEAR,
) -> np.ndarray:
    """Cut a random window out of an image [H, W, C] and resize it to (height, width).

    Its area is uniform in `scale` times the picture's, its width over height log-uniform in
    `ratio`; of an input that is no square, in `ratio` times the picture's own, as evaluation
    stretches the whole picture to such an input. After ten windows that do not fit, the largest
    central one of a permitted shape is taken (Szegedy et al., Going deeper with convolutions,
    2014).
    """
    if size[0] != size[1]:
        own = image.shape[1] / image.shape[0]
        ratio = ratio[0] * own, ratio[1] * own
    top, left, height, width = _draw_window(image, rng, scale, ratio)
    return stretch(image[top : top + height, left : left + width], size, interpolation)


def _draw_window(
    image: np.ndarray,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            top, left = (
                rng.integers(height - h, endpoint=True),
                rng.integers(width - w, endpoint=True),
            )
            return int(top), int(left), h, w
    shape = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, max(round(height * shape), 1))
    h = min(height, max(round(width / shape), 1))
    return (height - h) // 2, (width - w) // 2, h, w


def color_jitter(image: np.ndarray, rng: np.random.Generator, augment: AugmentConfig) -> np.ndarray:
    """Change brightness, contrast, saturation and hue by random amounts, in random order."""
    amounts = {
        policies.adjust_brightness: augment.brightness,
        policies.adjust_contrast: augment.contrast,
        policies.adjust_saturation: augment.saturation,
    }
    steps: list[tuple[policies.Change, float]] = [
        (change, 1 + rng.uniform(-x, x)) for change, x in amounts.items() if x
    ]
    if augment.hue:
        steps.append((policies.shift_hue, rng.uniform(-augment.hue, augment.hue)))
    for index in rng.permutation(len(steps)):
        change, amount = steps[index]
        image = change(image, amount)
    return image


def random_erase(image: np.ndarray, rng: np.random.Generator, augment: AugmentConfig) -> None:
    """Overwrite a random box of a normalised [C, H, W] picture, in place (Zhong et al., 2017)."""
    height, width = image.shape[1:]
    low, high = (math.log(value) for value in augment.erasing_ratio)
    for _ in range(10):
        area = height * width * rng.uniform(*augment.erasing_area)
        shape = math.exp(rng.uniform(low, high))
        h, w = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < h < height and 0 < w < width:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            noise = augment.erasing_fill == "noise"
            # zero is the mean colour, and unit normal noise has the spread of real pictures
            fill = rng.standard_normal((len(image), h, w), np.float32) if noise else 0.0
            image[:, top : top + h, left : left + w] = fill
            return
