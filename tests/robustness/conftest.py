"""What the tests of damage and bad intent share: one line for the user, children that may die."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from core.settings.config import merge
from core.training.engine import Engine
from core.training.hooks import Checkpoints
from core.training.recipe import read_recipe
from core.training.run import read_run

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "tests" / "plugins"


@pytest.fixture
def child() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a process of its own, with the project on its path and no more."""

    def run(*arguments: object, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), path]))}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run


@contextlib.contextmanager
def one_line() -> Iterator[list[str]]:
    """Expect an error for the user, of one line; put it into the list."""
    said: list[str] = []
    with pytest.raises(UserError) as caught:
        yield said
    said.append(str(caught.value))
    assert "\n" not in said[0]


def train(settings: dict[str, Any], save_dir: Path, *strategies: Any, resume: bool = False) -> None:
    """Train the toy task under a recipe."""
    run = read_run(settings)
    recipe = read_recipe({"strategies": list(strategies)}, run.train.epochs, False)
    save_dir.mkdir(exist_ok=True)
    Engine(run, recipe, save_dir, [Checkpoints()]).train(resume=resume)


@pytest.fixture(scope="module")
def squeezed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, list[Any]]:
    """A run that was pruned and then quantized: its settings, its folder and its strategies."""
    folder = tmp_path_factory.mktemp("squeezed")
    settings = {
        "task": {"name": "outside.toy"},
        "model": {"width": 16},
        "data": {"root": str(folder / "data")},
        "synthetic": {"train_images": 16, "val_images": 6},
        "train": {"epochs": 3, "batch_size": 4, "learning_rate": 0.05},
        "device": "cpu",
    }
    strategies = [
        {"kind": "prune", "start_epoch": 1, "target_ratio": 0.5},
        {"kind": "qat", "start_epoch": 2, "calibration_samples": 8},
    ]
    train(settings, folder / "run", *strategies)
    return merge(settings, {}), folder / "run", strategies
