"""State of an interrupted training beside weights and edits; checked before use."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.errors import CheckpointError, ConfigError
from core.settings.config import read
from core.settings.yaml_loader import shown

log = logging.getLogger(__name__)

MEANING = ("data.class_names", "data.classes", "data.colors", "data.category")
UNUSED = ("model.pretrained", "model.reinit")
ON_PURPOSE = ("epochs", "eval_every", "eval_batch_size", "early_stop")  # settings of training
PLACES = ("data.root", "data.num_workers", "data.on_error")


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
        losses: See `core.training.running_means.RunningMeans`; of an epoch that is not finished.
        rate: The last learning rate in it.
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
    losses: dict[str, Any] = field(default_factory=dict)
    rate: float = 0.0


def read_training_state(content: Mapping[str, Any], where: str) -> TrainingState:
    """Check that the content of a file has all parts.

    Raises:
        CheckpointError: One is missing, unknown or of another kind.
    """
    try:
        return read(TrainingState, content, measured=True)
    except ConfigError as error:
        raise CheckpointError(f"{where}: training cannot go on from it: {error}") from error


def check_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare the task's settings that a run began with, with those that it goes on with.

    Names of what the outputs mean must be the same. Of others that differ, a warning tells; some
    are changed in good faith, as augmentation for the last epochs. Where data lie may change.

    Args:
        before: As a checkpoint records them; an older one may lack some.
        now: As `core.settings.config.to_mapping` returns them.

    Raises:
        ConfigError: Classes or joints have other names, or are in another order.
    """
    old, new = (dict(_flat(json.loads(json.dumps(each)))) for each in (before, now))
    changed = {key: (old[key], new[key]) for key in old.keys() & new.keys() if old[key] != new[key]}
    for key in sorted(changed):
        was, is_now = changed[key]
        if key in MEANING or key.startswith("joints."):
            raise ConfigError(f"{key}: the run to resume has {shown(was)}, got {shown(is_now)}")
        if key in UNUSED:
            log.warning("%s: has no effect on a run that is resumed", key)
        elif key not in PLACES:
            text = "%s: the run began with %s, and goes on with %s"
            log.warning(text, key, shown(was), shown(is_now))


def tell_of_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warn of settings of the training that a run goes on with, other than it began with.

    Args:
        before: Section `train` of the config that the run began with, or went on with last.
        now: That of this one.
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    for key in sorted(old.keys() | new.keys()):
        pair = [shown(each[key]) if key in each else "its default" for each in (old, new)]
        if pair[0] != pair[1] and key not in ON_PURPOSE:
            log.warning("train.%s: the run began with %s, and goes on with %s", key, *pair)


def _flat(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


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
