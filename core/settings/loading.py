"""Imported before anything else: Ctrl-C while a tool is still loading ends it without a word.

Until a tool's own frame is in force (`core.cli.run`), Python would answer with a traceback of its
imports. A library that somebody's own program imports leaves the program's signals alone.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def is_tool(command: str) -> bool:
    """Return whether a process with this `sys.argv[0]` is a tool, or the command `trislim`."""
    path = Path(command)
    return path.name.startswith("trislim ") or path.resolve().parent == TOOLS


# None or SIG_IGN: the shell has asked for something else, as for jobs in the background
if is_tool(sys.argv[0]) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
