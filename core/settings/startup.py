"""Imported first by every tool, and by the processes they start: versions, and a quiet Paddle.

It does something when it is imported: it ends the process in one line if a library is missing or of
a wrong version (Paddle beside a wrong numpy fails with unreadable errors), it asks for kernels that
the processor is fast with (`core.settings.math_kernels`), and it hushes two warnings of Paddle: at
its import, for those who compile extensions of it, and in every training, that batch norms keep
statistics.
"""

from __future__ import annotations

import core.settings.loading  # isort: skip  # noqa: F401 - from here on Ctrl-C ends a tool

import atexit
import contextlib
import importlib
import logging
import os
import sys
import warnings

from core.errors import ConfigError
from core.settings.files import scratch
from core.settings.math_kernels import ask_for_avx2
from core.settings.signals import ENDING, held_back, renew
from core.settings.versions import check_versions

try:
    check_versions()
except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
ask_for_avx2()
for _hushed in ("No ccache found", "When training, we now always track global mean and variance"):
    warnings.filterwarnings("ignore", message=_hushed, category=UserWarning)


def load_paddle() -> None:
    """Import Paddle, and undo what its import does to the process.

    It answers signals that end a process with a page of C++ frames: SIGTERM too, with which `kill`
    ends a training, and the launcher of several processes after Ctrl-C. Such a signal waits until
    this is undone. And it silences all loggers below a warning.
    """
    _have_home()
    logger = logging.getLogger()
    level = logger.level
    with held_back(*ENDING):
        importlib.import_module("paddle").disable_signal_handler()
        renew()
    logger.setLevel(level)


def _have_home() -> None:
    """Have a home folder that can be written, one for this process alone if there is no other.

    Paddle and PaddleSeg make folders in it when they are imported, and fail if they cannot: in
    containers whose files are read-only, or whose user is not the one that the image was made for.
    """
    home = os.path.expanduser("~")
    try:
        os.makedirs(os.path.join(home, ".cache"), exist_ok=True)
    except OSError:
        writable = False
    else:
        writable = os.access(home, os.W_OK | os.X_OK)
    if not writable:
        stack = contextlib.ExitStack()
        os.environ["HOME"] = str(stack.enter_context(scratch()))
        atexit.register(stack.close)
        logging.getLogger(__name__).warning(
            "HOME: %s cannot be written; downloads are kept for this run only", home
        )
