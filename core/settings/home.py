"""Names and folders of this code: `core` in a checkout, `trislim.core` in an installed package.

The sources name modules as in a checkout. Building the package puts `trislim.` in front of their
imports (`setup.py`); names in texts, of processes to start or in a file of the user, come here.
"""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = "trislim"
OWN = ("core", "tasks")  # packages whose modules may be named
_FOLDER = Path(__file__).resolve().parents[2]  # folder of `core`, `tasks`, `tools` and `configs`
_PREFIX = __name__.rpartition("core.")[0]  # empty in a checkout
INSTALLED = bool(_PREFIX)
CONFIGS = _FOLDER / "configs"
# folder on Python's path from which the modules are imported
IMPORTED_FROM = _FOLDER.parent if INSTALLED else _FOLDER


def own_module(name: str) -> str:
    """Return the name under which a module of this project is imported here.

    Args:
        name: As in a checkout, `core.prune.strategy`, or with `trislim.` in front. What is no
            module of this project is returned as it is.
    """
    rest = name.removeprefix(f"{PACKAGE}.")
    parts = rest.split(".")
    if parts[0] not in OWN or not all(part.isidentifier() for part in parts):
        return name
    path = _FOLDER.joinpath(*parts)
    there = os.path.isdir(path) or os.path.isfile(f"{path}.py")  # a name too long is no error
    return f"{_PREFIX}{rest}" if there else name


def find_config(path: str | Path) -> Path:
    """Return a config file: the user's own, else the one of this name that comes with TriSlim.

    Args:
        path: File, or `cls/demo.yml` or `configs/cls/demo.yml` in any working directory. What is
            nowhere is returned as it is.
    """
    wanted = Path(path)
    if wanted.is_absolute() or os.path.lexists(wanted):
        return wanted
    shipped = known_configs()
    for name in (wanted, *([Path(*wanted.parts[1:])] if wanted.parts[:1] == ("configs",) else [])):
        if name.as_posix() in shipped:
            return CONFIGS / name
    return wanted


def known_configs() -> list[str]:
    """Return the names of the configs that come with TriSlim, such as `cls/demo.yml`."""
    return sorted(file.relative_to(CONFIGS).as_posix() for file in CONFIGS.rglob("*.yml"))
