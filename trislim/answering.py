"""What a model says of pictures: what checkpoints and exported models have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataError
from core.runtimes.image_model import ImageModel
from core.task import Box, Task
from core.training.images import as_rgb, check_size, image_channels, read_image, with_channel_axis

Picture = str | Path | np.ndarray
Prediction = dict[str, Any]
Sides = Sequence[float]  # of a box in pixels: x, y, width, height


class Answering(ABC):
    """What a model says of pictures, whether it is a checkpoint or exported.

    A picture is a file, or values [H, W, C] uint8 with the channels that the model takes: RGB for
    most, of a model for grey pictures also [H, W].
    """

    task: Task

    def predict(self, image: Picture, boxes: Sequence[Sides] | None = None) -> Prediction:
        """Return what the model says of a picture.

        Args:
            image: The picture.
            boxes: Persons in it, for a keypoint model: the prediction then has `boxes`, a list with
                the values of each. None takes the whole picture for the box of one person.

        Raises:
            ConfigError: There are boxes, but the task answers for whole pictures only.
            DataError: It cannot be read, or has other channels than the model takes, or a box is
                none or lies outside of it.
        """
        return self._for_images().predict(self._pixels(image), _read_boxes(boxes))

    def draw(self, image: Picture, boxes: Sequence[Sides] | None = None) -> np.ndarray:
        """Return a picture with what the model says of it, RGB [H, W, 3] uint8.

        Args:
            image: The picture.
            boxes: As of `predict`.

        Raises:
            ConfigError: As `predict`.
            DataError: As `predict`.
        """
        pixels, model = self._pixels(image), self._for_images()
        return model.draw(as_rgb(pixels), model.predict(pixels, _read_boxes(boxes)))

    @abstractmethod
    def _for_images(self) -> ImageModel:
        """Return the model as the tools use it."""

    def _pixels(self, image: Picture) -> np.ndarray:
        channels = image_channels(self.task)
        if isinstance(image, (str, Path)):
            return read_image(str(image), channels)
        if not isinstance(image, np.ndarray):
            kind = type(image).__name__
            raise DataError(f"image: expected a path or an array [height, width, C], got {kind}")
        pixels = with_channel_axis(image) if image.ndim in (2, 3) else image
        if pixels.shape[2:] != (channels,) or pixels.dtype != np.uint8 or not pixels.size:
            shape = f"{list(image.shape)} {image.dtype}"
            raise DataError(f"image: expected [height, width, {channels}] uint8, got {shape}")
        check_size("image", pixels.shape[1], pixels.shape[0])
        return pixels


def _read_boxes(boxes: Sequence[Sides] | None) -> list[Box] | None:
    if boxes is None:
        return None
    if not isinstance(boxes, Iterable):
        raise DataError(f"boxes: expected a list of boxes, got {type(boxes).__name__}")
    found = []
    for number, sides in enumerate(boxes):
        try:
            values = np.asarray(sides)
        except ValueError:  # lists of several lengths in it
            values = np.empty(0)
        if values.shape != (4,) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise DataError(f"boxes[{number}]: expected x, y, width, height, got {sides!r}")
        found.append(Box(*map(float, values)))
    return found
