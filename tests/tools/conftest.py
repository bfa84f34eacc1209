"""Tools as a user calls them, in this process."""

from __future__ import annotations

import contextlib
import io
import logging
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def call_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Any, str]]:
    """Run a tool in a folder of its own; return its status and what it printed."""

    def run(tool: str, *arguments: object) -> tuple[Any, str]:
        output = io.StringIO()
        handlers = logging.getLogger().handlers[:]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        try:
            with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
                runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
        except SystemExit as end:
            return end.code, output.getvalue()
        finally:
            logging.getLogger().handlers[:] = handlers
        raise AssertionError("a tool leaves through sys.exit")

    return run
