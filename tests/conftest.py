"""Shared fixtures: the plugins' folder is importable, a toy run is one call away."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "plugins"))


@pytest.fixture
def toy_settings(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Settings of a toy run; keyword arguments go into `train`."""

    def make(**train: Any) -> dict[str, Any]:
        return {
            "task": {"name": "outside.toy"},
            "train": {
                "epochs": 4,
                "batch_size": 4,
                "learning_rate": 0.05,
                "optimizer": {"kind": "momentum"},
                **train,
            },
            "seed": 3,
            "data": {"root": str(tmp_path / "data")},
            "synthetic": {"train_images": 16, "val_images": 6},
        }

    return make
