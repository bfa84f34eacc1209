"""The toy task, with data that its first use draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
import pytest

from core.settings.config import merge
from core.task import Task, build_task


@pytest.fixture
def task(toy_settings: Callable[..., dict[str, Any]]) -> Task:
    paddle.seed(0)
    settings = toy_settings()
    kept = {key: settings[key] for key in ("data", "synthetic")}
    return build_task("outside.toy", merge(kept, {"model": {"width": 8}}))
