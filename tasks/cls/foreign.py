"""Classifiers that other projects exported."""

from __future__ import annotations

from typing import Any

import numpy as np

from core.errors import ConfigError
from core.runtimes.foreign import is_distribution
from tasks.cls.config import Config


def settings_for(config: Config, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the settings that prepare pictures of a shape [C, H, W]; -1 is free."""
    channels, height, width = shape
    data: dict[str, Any] = {}
    if channels > 0 and channels != config.data.channels:
        data["channels"] = channels
    if min(height, width) > 0:
        data["image_size"] = height if height == width else [height, width]
        data["resize_short"] = None
    return {"data": data}


def name_of(config: Config, output: np.ndarray) -> str:
    """Return what an output [N, C] is, or [N] of a model that ends in the argmax.

    Raises:
        ConfigError: It has another number of classes, or is neither.
    """
    if output.shape == (1,) and (output.dtype.kind in "iu" or not output % 1):
        return "label"
    if output.ndim != 2 or output.shape[1] != config.model.num_classes:
        raise ConfigError(
            f"model.num_classes: the model answers {list(output.shape)} to one picture, expected "
            f"[1, {config.model.num_classes}]"
        )
    return "probabilities" if is_distribution(output) else "logits"
