"""Tools as a user calls them, in this process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.calling import call


@pytest.fixture
def call_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Any, str]]:
    """Run a tool in a folder of its own; return its status and what it printed."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(call, tmp_path)
