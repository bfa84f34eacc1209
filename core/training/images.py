"""Read image files, and stack samples into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from core.errors import ConfigError, DataError
from core.settings.reading import read_bytes
from core.task import Arrays, Sample, Task
from core.training.image_files import JPEG, PNG, declared_size, is_whole

Size = tuple[int, int]  # width, height
CHANNELS = 3
_FLAGS = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR, 4: cv2.IMREAD_UNCHANGED}
MOST_SIDE = 32766  # pixels; OpenCV moves and turns no larger images
MOST_PIXELS = 1 << 28
# how files begin whose pixels have no fractions: JPEG, PNG, BMP, WebP
WHOLE_NUMBERS = (JPEG, PNG, b"BM", b"RIFF")
# arguments for the number of input channels in networks of PaddleClas and PaddleSeg
CHANNEL_OPTIONS = ("input_image_channel", "in_channels", "in_chans", "in_channel", "input_channels")


def stack(samples: list[Sample]) -> Arrays:
    """Stack samples of equal shapes into a batch, key by key."""
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def read_image(path: str, channels: int = CHANNELS) -> np.ndarray:
    """Read an image file as [H, W, C] uint8, the way up that viewers show it (EXIF).

    Args:
        path: Path of the file.
        channels: 3: RGB, whatever the file has; 1: its grey; 4: the file must have four, RGB and
            alpha or another one.

    Raises:
        DataError: The file is missing, truncated, too large or no image, or has not four channels.
    """
    return _decode(_read(path), path, _FLAGS[channels])


def read_annotated_image(
    path: str, size: Size | None, told_by: str, channels: int = CHANNELS
) -> np.ndarray:
    """Read an image as [H, W, C] uint8, the way up that its annotation refers to.

    That is as it is stored; or turned as EXIF says, if the annotated size fits only so.

    Args:
        path: Path of the image.
        size: Annotated width and height, where they are known.
        told_by: Source of the size, for the message.
        channels: As in `read_image`.

    Raises:
        DataError: As `read_image`, or the image has another size.
    """
    content = _read(path)
    stored = _decode(content, path, _FLAGS[channels] | cv2.IMREAD_IGNORE_ORIENTATION)
    if size is None or _size_of(stored) == size:
        return stored
    turned = _decode(content, path, _FLAGS[channels])
    if _size_of(turned) == size:
        return turned
    width, height = _size_of(stored)
    raise DataError(f"{path}: the image is {width}x{height}, {told_by} {size[0]}x{size[1]}")


def restore_image(planes: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return the RGB image [H, W, 3] uint8 of a network's normalised input [1, 3 or 4, H, W]."""
    shape = (len(planes), 1, 1)
    values = planes * np.reshape(std, shape) + np.reshape(mean, shape)
    image: np.ndarray = np.clip(values * 255, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(as_rgb(image))


def image_channels(task: Task) -> int:
    """Return how many channels a task's images have; tasks without the setting take three."""
    return int(getattr(task.config.data, "channels", CHANNELS))


def with_channel_axis(image: np.ndarray) -> np.ndarray:
    """Return an image [H, W, C]; OpenCV drops the axis [H, W] of a single channel."""
    return image if image.ndim == 3 else image[:, :, None]


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Return an image [H, W, 1], [H, W, 3] or [H, W, 4] as RGB [H, W, 3], to draw on."""
    if image.shape[2] == CHANNELS:
        return image
    if image.shape[2] == 1:
        return np.repeat(image, CHANNELS, axis=2)
    return np.ascontiguousarray(image[..., :CHANNELS])


def check_channels(options: Mapping[str, Any], path: str) -> None:
    """Refuse arguments of a network for images of one channel, or four: `data.channels` says it.

    Raises:
        ConfigError: Names the argument.
    """
    for name in CHANNEL_OPTIONS:
        if options.get(name, CHANNELS) != CHANNELS:
            raise ConfigError(
                f"{path}.{name}: data.channels says how many channels images have, and the "
                f"network takes them; leave this out, got {options[name]!r}"
            )


def check_size(path: str, width: int, height: int) -> None:
    """Refuse an image that is larger than can be worked with.

    Raises:
        DataError: Names its size.
    """
    if max(width, height) > MOST_SIDE or width * height > MOST_PIXELS:
        raise DataError(
            f"{path}: the image is {width}x{height}; expected sides up to {MOST_SIDE} pixels and "
            f"up to {MOST_PIXELS:,} pixels in all"
        )


def _read(path: str) -> bytes:
    content = read_bytes(path, DataError)
    if not is_whole(content):
        what = "JPEG file is" if content.startswith(JPEG) else "PNG file is damaged or"
        raise DataError(f"{path}: the {what} truncated")
    width, height = declared_size(content) or (0, 0)
    check_size(path, width, height)
    return content


def _decode(content: bytes, path: str, flags: int) -> np.ndarray:
    if not content.startswith(WHOLE_NUMBERS) and flags >= 0:
        stored = _decoded(content, path, cv2.IMREAD_UNCHANGED)
        if stored.dtype not in (np.uint8, np.uint16):  # OpenCV makes anything of them
            raise DataError(
                f"{path}: its pixels are {stored.dtype}, expected whole numbers of 8 or 16 bits"
            )
    image = _decoded(content, path, flags)
    check_size(path, *_size_of(image))
    if flags < 0:  # unchanged
        return _with_four(image, path)
    if image.ndim == 2:
        return with_channel_axis(image)
    rgb: np.ndarray = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb


def _decoded(content: bytes, path: str, flags: int) -> np.ndarray:
    """Return what OpenCV makes of a file.

    Raises:
        DataError: Nothing.
    """
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except (cv2.error, MemoryError) as error:  # a kind or a size that OpenCV does not take
        reason = getattr(error, "err", "") or "out of memory"
        raise DataError(f"{path}: not an image that OpenCV can decode: {reason}") from error
    if image is None:
        raise DataError(f"{path}: not an image that OpenCV can decode")
    decoded: np.ndarray = image
    return decoded


def _with_four(image: np.ndarray, path: str) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
        has = 1 if image.ndim == 2 else image.shape[2]
        raise DataError(
            f"{path}: the image has {has} channels of {image.dtype}, expected 4 of uint8 "
            "(data.channels)"
        )
    rgba: np.ndarray = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    return rgba


def _size_of(image: np.ndarray) -> Size:
    return image.shape[1], image.shape[0]
