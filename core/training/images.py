"""Read image files, and stack samples into batches."""

from __future__ import annotations

import cv2
import numpy as np

from core.errors import DataError
from core.task import Arrays, Sample


def stack(samples: list[Sample]) -> Arrays:
    """Stack samples of equal shapes into a batch, key by key."""
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def read_image(path: str) -> np.ndarray:
    """Read an image file as RGB [H, W, 3] uint8.

    Raises:
        DataError: The file is missing, truncated or no image.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    # the mark of the end has to follow the last scan; what comes behind it does not matter
    if content[:2] == b"\xff\xd8" and content.rfind(b"\xff\xd9") <= content.rfind(b"\xff\xda"):
        raise DataError(f"{path}: the JPEG file is truncated")
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None:
        raise DataError(f"{path}: not an image that OpenCV can decode")
    rgb: np.ndarray = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb
