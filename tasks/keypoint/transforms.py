"""Cut a person out of an image: one affine map holds box, scale, rotation and mirror.

Pixels keep their bytes until the end, and the image is resampled once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from tasks.keypoint.config import AugmentConfig

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Frame:
    """The part of an image that becomes a network's input."""

    center: tuple[float, float]  # x, y in pixels of the image
    size: tuple[float, float]  # width, height in pixels of the image
    rotation: float = 0.0  # degrees
    mirrored: bool = False


def frame_box(box: np.ndarray, input_size: Size, padding: float) -> Frame:
    """Enlarge a box [x, y, width, height] to the aspect of the input, then by `padding`."""
    x, y, width, height = (float(value) for value in box)
    aspect = input_size[1] / input_size[0]
    full = max(width, height * aspect)
    return Frame((x + width / 2, y + height / 2), (full * padding, full / aspect * padding))


def affine(frame: Frame, input_size: Size, udp: bool) -> np.ndarray:
    """Return the map from points of the image to points of the input, [2, 3] float64.

    With `udp` the frame's edges fall on the centres of the outermost pixels; the classic map
    puts the frame's centre at half the width and height and scales by the width alone.
    """
    height, width = input_size
    if udp:
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        scale = np.array([(width - 1) / frame.size[0], (height - 1) / frame.size[1]])
    else:
        middle = np.array([width / 2, height / 2])
        scale = np.full(2, width / frame.size[0])
    angle = np.deg2rad(frame.rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    linear = scale[:, None] * np.array([[cos, sin], [-sin, cos]])
    offset = middle - linear @ np.asarray(frame.center)
    if frame.mirrored:
        linear[0] = -linear[0]
        offset[0] = width - 1 - offset[0]
    return np.column_stack([linear, offset])


def invert(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of an affine map [2, 3]."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points [..., 2] by `matrix` [2, 3]."""
    mapped: np.ndarray = points @ matrix[:, :2].T + matrix[:, 2]
    return mapped


def crop(image: np.ndarray, matrix: np.ndarray, input_size: Size) -> np.ndarray:
    """Resample an image [H, W, 3] by a matrix [2, 3] to the input; beyond its edges is black."""
    cut: np.ndarray = cv2.warpAffine(image, matrix, input_size[::-1], flags=cv2.INTER_LINEAR)
    return cut


def augment_frame(
    frame: Frame,
    joints: np.ndarray,
    upper_body: tuple[int, ...],
    input_size: Size,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Frame:
    """Draw half body, scale, rotation and mirror.

    Args:
        frame: The whole person.
        joints: [K, 3] x, y, visibility in the image.
        upper_body: Joints of the upper half.
        input_size: Height and width of the input, for its aspect.
        config: Probabilities and ranges.
        rng: The only source of chance.
    """
    labelled = joints[:, 2] > 0
    if labelled.sum() > config.half_body_joints and rng.random() < config.half_body:
        frame = half_body(joints, labelled, upper_body, input_size, rng) or frame
    if config.scale:
        factor = 1 + float(np.clip(rng.normal() * config.scale, -config.scale, config.scale))
        frame = replace(frame, size=(frame.size[0] * factor, frame.size[1] * factor))
    if rng.random() < config.rotate:
        limit = 2 * config.rotation
        angle = float(np.clip(rng.normal() * config.rotation, -limit, limit))
        frame = replace(frame, rotation=angle)
    if rng.random() < config.flip:
        frame = replace(frame, mirrored=True)
    return frame


HALF_BODY_PADDING = 1.5


def half_body(
    joints: np.ndarray,
    labelled: np.ndarray,
    upper_body: tuple[int, ...],
    input_size: Size,
    rng: np.random.Generator,
) -> Frame | None:
    """Frame the upper or the lower body, at random among the labelled joints [K, 2].

    Returns:
        The frame around the mean of the chosen joints, None where fewer than two are labelled.
    """
    is_upper = np.zeros(len(joints), dtype=bool)
    is_upper[list(upper_body)] = True
    upper, lower = joints[labelled & is_upper, :2], joints[labelled & ~is_upper, :2]
    first, second = (upper, lower) if rng.random() < 0.5 else (lower, upper)
    chosen = first if len(first) > 2 else second
    if len(chosen) < 2:
        return None
    extent = chosen.max(axis=0) - chosen.min(axis=0)
    if extent.max() <= 0:
        return None
    corner = chosen.mean(axis=0) - extent / 2
    return frame_box(np.concatenate([corner, extent]), input_size, HALF_BODY_PADDING)


def erase(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> None:
    """Fill a random rectangle of an image [H, W, 3] with noise (Zhong et al., AAAI 2020)."""
    if rng.random() >= config.erase:
        return
    height, width = image.shape[:2]
    area = rng.uniform(*config.erase_area) * height * width
    aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
    rows = min(max(1, round(float(np.sqrt(area * aspect)))), height)
    columns = min(max(1, round(float(np.sqrt(area / aspect)))), width)
    top = rng.integers(height - rows + 1)
    left = rng.integers(width - columns + 1)
    noise = rng.integers(0, 256, (rows, columns, image.shape[2]), dtype=np.uint8)
    image[top : top + rows, left : left + columns] = noise


class Normaliser:
    """Turn RGB bytes [H, W, 3] into a normalised float32 array [3, H, W].

    A byte has 256 values: looking them up takes half the time of computing them.

    Args:
        mean: Mean of the channels for values in [0, 1].
        std: Standard deviation likewise.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        values = np.arange(256, dtype=np.float64) / 255
        self.tables = [((values - m) / s).astype(np.float32) for m, s in zip(mean, std)]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        out = np.empty((len(self.tables), *image.shape[:2]), np.float32)
        for plane, channel, table in zip(out, cv2.split(image), self.tables):
            cv2.LUT(channel, table, dst=plane)
        return out
