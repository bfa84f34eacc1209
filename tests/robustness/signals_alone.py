"""Signals in the middle of a training and of an export, see `tests.alone`."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

from core.export import files
from core.export.package import export
from core.settings.signals import Terminated, raising
from core.task import build_task
from core.training import checkpoint
from core.training.engine import Engine
from core.training.hooks import Checkpoints, Hook, Interruptible
from core.training.recipe import read_recipe
from core.training.run import read_run


@pytest.mark.parametrize("when", ["step", "evaluation", "epoch"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_saves_at_the_end_of_what_it_is_at(
    toy_settings: Any, tmp_path: Path, when: str, number: signal.Signals
) -> None:
    steps = []

    class Kill(Hook):
        def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
            steps.append(engine.step)
            if when == "step" and engine.step == 6:
                signal.raise_signal(number)
                signal.raise_signal(signal.SIGTERM)  # a launcher repeats itself

        def after_batch(self, outputs: Any, batch: Any) -> None:
            if when == "evaluation" and steps[-1] == 8:
                signal.raise_signal(number)

        def after_epoch(self, engine: Engine) -> None:
            if when == "epoch" and engine.epoch == 1:
                signal.raise_signal(number)

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    settings = toy_settings()
    run = read_run(settings)
    (tmp_path / "out").mkdir()
    hooks = [Kill(), Checkpoints(), Interruptible()]
    engine = Engine(run, read_recipe({}, run.train.epochs, False), tmp_path / "out", hooks)
    kind = KeyboardInterrupt if number == signal.SIGINT else Terminated
    with pytest.raises(KeyboardInterrupt) as caught:
        engine.train()
    assert type(caught.value) is kind
    last = {"step": 6, "evaluation": 8, "epoch": 4}[when]  # of 4 in an epoch
    assert steps[-1] == last
    about, _, state, _ = checkpoint.load_training(tmp_path / "out" / "latest")
    assert (about.epoch, state["epoch"], state["step"]) == (1, 1, last)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The toy task; temporary files go into a folder of the test."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "absent")}})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_export_that_is_terminated_leaves_nothing(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*_: object) -> None:
        assert any("partial" in name for name in names(tmp_path))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(files, "convert_to_onnx", terminated)

    def run() -> None:
        with raising():
            export(toy, toy.build_model(), tmp_path / "out", ("paddle", "onnx"))

    with pytest.raises(Terminated):
        run()
    assert names(tmp_path) == ["tmp"]
    assert names(tmp_path / "tmp") == []
