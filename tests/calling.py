"""A tool as a user calls it, but in this process: Paddle is loaded once for all of them."""

from __future__ import annotations

import contextlib
import io
import logging
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def call(folder: Path, tool: str, *arguments: object) -> tuple[Any, str]:
    """Run a tool of `tools/` in a folder; return its status and what it printed."""
    output = io.StringIO()
    handlers = logging.getLogger().handlers[:]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [tool, *map(str, arguments)])
        try:
            with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
                runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
        except SystemExit as end:
            return end.code, output.getvalue()
        finally:
            logging.getLogger().handlers[:] = handlers
    raise AssertionError("a tool leaves through sys.exit")
