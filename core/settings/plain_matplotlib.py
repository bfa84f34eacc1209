"""matplotlib as it comes, whatever variables and files of the user say of it.

Importing this module imports matplotlib; it stands before the imports of its parts. The kernel of a
notebook names a backend that the environment of a tool may lack, and matplotlib takes settings from
a file in the current folder: neither decides how our pictures look, or whether a tool ends.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

_BACKEND, _FILE = "MPLBACKEND", "MATPLOTLIBRC"
_NONE: Mapping[str, Any] = MappingProxyType({})


@contextlib.contextmanager
def plain_settings(changes: Mapping[str, Any] = _NONE) -> Iterator[None]:
    """Draw with matplotlib's defaults but for some changes; the settings of before come back."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(changes)
        yield


def _load() -> None:
    """Import matplotlib: as the user has it, or with its own file if that cannot be read."""
    try:
        importlib.import_module("matplotlib")
    except Exception:  # whatever its reader makes of the user's settings
        found = importlib.util.find_spec("matplotlib")
        if found is None or found.origin is None:
            raise
        for name in [each for each in sys.modules if each.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]  # parts that a package which was not loaded would not know
        kept = {name: os.environ.pop(name) for name in (_BACKEND, _FILE) if name in os.environ}
        here = os.getcwd()
        os.chdir(Path(found.origin).with_name("mpl-data"))  # its own file is the first it finds
        try:
            importlib.import_module("matplotlib")
        finally:
            os.chdir(here)
            os.environ.update(kept)


_load()
