"""Keypoint networks that other projects exported."""

from __future__ import annotations

from typing import Any

import numpy as np

from core.errors import ConfigError
from tasks.keypoint.config import Config


def settings_for(config: Config, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the settings that cut persons out for a shape [C, H, W]; -1 is free."""
    _, height, width = shape
    return {"data": {"input_size": [height, width]}} if min(height, width) > 0 else {}


def name_of(config: Config, output: np.ndarray) -> str:
    """Return what an output is: heatmaps [N, K, h, w], or points [N, K, 3].

    Raises:
        ConfigError: It has another number of joints.
    """
    joints = config.model.num_joints
    if output.ndim not in (3, 4) or output.shape[1] != joints:
        raise ConfigError(
            f"model.num_joints: the model answers {list(output.shape)} to one person, expected "
            f"[1, {joints}, h, w]"
        )
    return "heatmaps" if output.ndim == 4 else "points"
