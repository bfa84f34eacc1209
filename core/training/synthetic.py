"""Data sets that a task draws itself, for its demo and its tests."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.settings.files import appearing

MARK = "synthetic.json"  # says with which settings a folder was drawn
log = logging.getLogger(__name__)


def ensure_drawn(root: Path, settings: Mapping[str, Any], draw: Callable[[Path], None]) -> None:
    """Draw a data set into `root`, unless it is there; one drawn with other settings is replaced.

    Args:
        root: Folder of the data set.
        settings: Everything the pictures depend on, as plain JSON.
        draw: Fills an empty folder.

    Raises:
        DataError: The folder holds something that was not drawn.
        FileError: It cannot be written.
    """
    wanted = json.loads(json.dumps(settings))
    found = _settings_of(root)
    if found == wanted:
        return
    if found is not None:
        shutil.rmtree(root, ignore_errors=True)
    elif root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise DataError(
            f"data.root: {root} holds files that were not drawn; for data of your own set "
            "synthetic: null, else name another folder"
        )
    log.info("drawing a data set into %s", root)
    with appearing(root) as draft:
        draw(draft)
        (draft / MARK).write_text(json.dumps(wanted), encoding="utf-8")


def _settings_of(root: Path) -> Any:
    try:
        return json.loads((root / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
