"""Runs of the toy task under strategies, interrupted where a test wants, and what they leave."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from core.training.engine import Engine
from core.training.hooks import Checkpoints, Hook
from core.training.recipe import read_recipe
from core.training.run import read_run


class StopAfter(Hook):
    """Stops a run after some epochs, as an interruption between two of them would."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def after_epoch(self, engine: Engine) -> None:
        engine.stop = engine.epoch >= self.epochs


class InterruptAfter(Hook):
    """Ctrl-C behind a step, counted from the first of the run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
        if engine.step == self.step:
            raise KeyboardInterrupt


class InterruptEvaluation(Hook):
    """Ctrl-C while an epoch is evaluated, counted from 0."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def before_training(self, engine: Engine) -> None:
        self._engine = engine

    def after_batch(self, outputs: Any, batch: Any) -> None:
        if self._engine.epoch == self.epoch:
            raise KeyboardInterrupt


# where a run of three epochs or more, with four steps in each, may be interrupted
STOPS = (
    *(StopAfter(1), StopAfter(2)),
    *(InterruptAfter(3), InterruptAfter(5), InterruptAfter(8), InterruptEvaluation(1)),
)
STOP_NAMES = [f"{type(stop).__name__}-{next(iter(vars(stop).values()))}" for stop in STOPS]


def train(
    settings: dict[str, Any],
    save_dir: Path,
    *strategies: Any,
    hooks: Any = (),
    resume: bool = False,
    overwrite: bool = False,
) -> Engine:
    """Train under strategies, with checkpoints, and return the engine."""
    described = read_run(settings)
    recipe = read_recipe({"strategies": list(strategies)}, described.train.epochs, False)
    save_dir.mkdir(exist_ok=True)
    engine = Engine(described, recipe, save_dir, [Checkpoints(), *hooks])
    with contextlib.suppress(KeyboardInterrupt):  # of those above
        engine.train(resume=resume, overwrite=overwrite)
    return engine


def plain(value: Any) -> Any:
    """Return a nested value with lists for arrays, which can be compared with ==."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value
