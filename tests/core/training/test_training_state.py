"""What settings of a task may change while a run is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from core.errors import ConfigError
from core.training.engine import Engine
from core.training.hooks import Checkpoints, SaveFolder
from core.training.recipe import Recipe
from core.training.run import read_run
from core.training.training_state import check_settings, tell_of_changes


@pytest.mark.parametrize(
    ("section", "key", "was", "now"),
    [
        ("data", "class_names", ["a", "b"], ["b", "a"]),
        ("data", "classes", ["road", "sky"], ["sky", "road"]),
        ("joints", "names", ["hip"], ["knee"]),
        ("data", "category", 1, 2),
    ],
)
def test_what_outputs_mean_stays(section: str, key: str, was: Any, now: Any) -> None:
    check_settings({section: {key: was}}, {section: {key: was}})
    with pytest.raises(ConfigError) as caught:
        check_settings({section: {key: was}}, {section: {key: now}})
    assert str(caught.value) == f"{section}.{key}: the run to resume has {was!r}, got {now!r}"


def test_the_rest_is_told(caplog: pytest.LogCaptureFixture) -> None:
    before = {"data": {"root": "a", "mean": [0.5], "old": 1}, "model": {"pretrained": None}}
    now = {"data": {"root": "b", "mean": (0.4,), "new": 2}, "model": {"pretrained": "w"}}
    check_settings(before, now)
    assert [each.getMessage() for each in caplog.records] == [
        "data.mean: the run began with [0.5], and goes on with [0.4]",
        "model.pretrained: has no effect on a run that is resumed",
    ]


def test_changes_of_the_training_are_told(
    toy_settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def train(resume: bool, **settings: Any) -> None:
        plain = toy_settings(**settings)
        hooks = [SaveFolder(plain), Checkpoints()]
        (tmp_path / "out").mkdir(exist_ok=True)
        Engine(read_run(plain), Recipe(()), tmp_path / "out", hooks).train(resume)

    train(False, epochs=1)
    train(True, epochs=2)
    assert "the run began with" not in caplog.text
    train(True, epochs=3, learning_rate=0.01, optimizer={"kind": "momentum", "momentum": 0.5})
    assert "train.learning_rate: the run began with 0.05, and goes on with 0.01" in caplog.text
    assert "train.optimizer.momentum: the run began with its default, and goes on" in caplog.text
    (tmp_path / "out" / "config.yml").write_text("{")
    train(True, epochs=4)
    assert "config.yml: not YAML" in caplog.text
    assert "what has changed since is not told" in caplog.text
    caplog.clear()
    tell_of_changes({"epochs": 3, "batch_size": 4}, {"epochs": 9, "batch_size": 4})
    assert caplog.text == ""


def test_classes_that_were_renamed(tmp_path: Path) -> None:
    """Their folders are in another order then, and the trained answers would get other names."""
    for name in ("a", "b", "c"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 255, (48, 48, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "own" / name / f"{number}.jpg"), pixels)
    settings = {
        "task": {"name": "cls"},
        "model": {"name": "MobileNetV3_small_x0_35"},
        "data": {"root": str(tmp_path / "own"), "image_size": 32},
        "train": {"epochs": 1, "batch_size": 8},
    }
    out, recipe = tmp_path / "out", Recipe()
    out.mkdir()
    Engine(read_run(settings), recipe, out, [Checkpoints()]).train()
    (tmp_path / "own" / "c").rename(tmp_path / "own" / "0c")
    settings["train"] = {"epochs": 2, "batch_size": 8}
    with pytest.raises(
        ConfigError,
        match=r"^data\.class_names: .* has \['a', 'b', 'c'\], got \['0c', 'a', 'b'\]$",
    ):
        Engine(read_run(settings), recipe, out, []).train(resume=True)
