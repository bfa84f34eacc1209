"""A teacher of the toy task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.settings.config import merge
from core.training.engine import Engine
from core.training.hooks import Checkpoints
from core.training.recipe import read_recipe
from core.training.run import read_run
from tests.networks.students import WIDE


@pytest.fixture
def teacher(toy_settings: Any, tmp_path: Path) -> str:
    """A wider network, trained for two epochs; its checkpoint folder."""
    settings = merge(toy_settings(epochs=2), WIDE)
    run = read_run(settings)
    Engine(run, read_recipe({}, 2, False), tmp_path / "teacher", [Checkpoints()]).train()
    return str(tmp_path / "teacher" / "latest")
