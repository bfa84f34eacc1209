"""Early stops, and trainings that are interrupted where they cannot be saved."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any

import pytest

from core.errors import FileError, TrainingError
from core.training import checkpoint
from core.training.engine import Engine
from core.training.hooks import EarlyStop, Hook
from tests.toy_runs import train


def test_what_is_not_finite_is_not_saved_where_a_run_is_interrupted(
    toy_settings: Any, tmp_path: Path
) -> None:
    class Spoil(Hook):
        def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
            if engine.step == 6:
                engine.model.conv.weight.set_value(engine.model.conv.weight * math.nan)
                raise KeyboardInterrupt

    with pytest.raises(TrainingError, match=r"conv\.weight.*: not finite after step 6"):
        train(toy_settings(), tmp_path / "out", hooks=[Spoil()])
    assert train(toy_settings(), tmp_path / "out", resume=True).step == 16


def test_a_disk_without_room_where_a_run_is_interrupted(
    toy_settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Hook):
        def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
            if engine.step == 6:
                monkeypatch.setattr(checkpoint, "save_arrays", full)
                raise KeyboardInterrupt

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(FileError, match=r"out/latest: cannot be written: No space left on device"):
        train(toy_settings(), tmp_path / "out", hooks=[Full()])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["best_model", "latest"]
    monkeypatch.undo()
    assert train(toy_settings(), tmp_path / "out", resume=True).step == 16


def test_early_stop_waits_for_evaluations(toy_settings: Any, tmp_path: Path) -> None:
    settings = toy_settings(epochs=9, eval_every=4, learning_rate=1e-9)
    engine = train(settings, tmp_path / "out", hooks=[EarlyStop(1)])
    assert engine.epoch in (4, 8, 9)
    assert engine.metrics
    assert (tmp_path / "out" / "best_model").exists()


def test_early_stop(toy_settings: Any, tmp_path: Path) -> None:
    class NeverBetter(Hook):
        def after_epoch(self, engine: Engine) -> None:
            engine.best_epoch = 1

    hooks = [NeverBetter(), EarlyStop(2)]
    assert train(toy_settings(epochs=9), tmp_path / "out", hooks=hooks).epoch == 3
