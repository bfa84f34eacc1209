"""State of an interrupted training beside weights and edits; checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.errors import CheckpointError, ConfigError
from core.settings.config import read


@dataclass(frozen=True)
class TrainingState:
    """The parts of a training's state; all of them are needed.

    Attributes:
        epoch: Epochs finished.
        step: Optimizer steps finished.
        best: The best metric so far; None before the first.
        best_epoch: When it was reached.
        metrics: Metrics of the last epoch, if it was evaluated.
        evaluated: Whether it was.
        order: See `core.training.run.order_settings`.
        optimizer: See `core.training.optimizers.Optimizer`.
        ema: See `core.training.ema.Ema`; None without it.
        amp: See `core.training.precision.Amp`.
        windows: See `core.training.active_strategies.ActiveStrategies`.
    """

    epoch: int
    step: int
    best: float | None
    best_epoch: int
    metrics: dict[str, float]
    evaluated: bool
    order: dict[str, Any]
    optimizer: dict[str, Any]
    ema: dict[str, Any] | None
    amp: dict[str, Any]
    windows: dict[str, Any]


def read_training_state(content: Mapping[str, Any], where: str) -> TrainingState:
    """Check that the content of a file has all parts.

    Raises:
        CheckpointError: One is missing, unknown or of another kind.
    """
    try:
        return read(TrainingState, content, measured=True)
    except ConfigError as error:
        raise CheckpointError(f"{where}: training cannot go on from it: {error}") from error


def check_resumed(saved: Any, now: Any, where: str) -> None:
    """Compare the structure of a saved state with that of a training resumed from it.

    A part that was lost would be left as fresh, and nobody would notice.

    Args:
        saved: As the file has it.
        now: State that would be saved after resuming.
        where: Begins the message.

    Raises:
        CheckpointError: A key, a length or a shape differs.
    """
    found = _difference(saved, now, "")
    if found:
        raise CheckpointError(f"{where}: is not the whole state of this training: {found}")


def _difference(saved: Any, now: Any, path: str) -> str:
    if isinstance(now, Mapping) and isinstance(saved, Mapping):
        for key in now.keys() | saved.keys():
            place = f"{path}.{key}" if path else str(key)
            if key not in saved or key not in now:
                return f"{place} is {'missing' if key not in saved else 'unknown'}"
            found = _difference(saved[key], now[key], place)
            if found:
                return found
    elif isinstance(now, (list, tuple)) and isinstance(saved, (list, tuple)):
        if len(saved) != len(now):
            return f"{path} has {len(saved)} entries, expected {len(now)}"
        for index, pair in enumerate(zip(saved, now)):
            found = _difference(*pair, f"{path}.{index}")
            if found:
                return found
    elif isinstance(now, np.ndarray):
        shape = np.shape(saved) if isinstance(saved, (np.ndarray, np.generic)) else type(saved)
        if shape != now.shape:
            return f"{path} is {shape}, expected an array {now.shape}"
    elif isinstance(now, (Mapping, list, tuple)):
        return f"{path} is a {type(saved).__name__}, expected a {type(now).__name__}"
    return ""
