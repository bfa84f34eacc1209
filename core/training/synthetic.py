"""Data sets that a task draws itself, for its demo and its tests."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import DataError, FileError
from core.settings.digests import digest_of
from core.settings.files import present, replacing, sibling, tidy
from core.settings.locks import Held, Lock, claim, use, user_of

MARK = "synthetic.json"  # says with which settings a folder was drawn, and what was drawn
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Mark:
    """Mark of a drawn folder; `files` is None if an earlier version drew it."""

    settings: Any
    files: dict[str, str] | None  # digest by path


def ensure_drawn(root: Path, settings: Mapping[str, Any], draw: Callable[[Path], None]) -> Held:
    """Draw a data set into `root`, unless it is there; one drawn with other settings is replaced.

    Nothing but what was drawn is ever replaced, and only while no process uses it.

    Args:
        root: Folder of the data set.
        settings: Everything the pictures depend on, as plain JSON.
        draw: Fills an empty folder.

    Returns:
        The use of the data: as long as this object lives, nobody replaces them.

    Raises:
        DataError: The folder holds something that was not drawn, or that another process uses.
        FileError: It cannot be written.
    """
    wanted = json.loads(json.dumps(settings))
    root = present(root)
    tidy(root.parent)
    try:
        used = _use_if(root, wanted)
        if used is not None:
            return used
        root.parent.mkdir(parents=True, exist_ok=True)
        with Lock(sibling(root, "drawing"), root, wait=True):
            used = _use_if(root, wanted)  # another process has drawn them meanwhile
            if used is None:
                alone = _claim(root)
                _draw(root, wanted, draw)
                alone.end()
                used = _use_if(root, wanted)
    except OSError as error:
        raise FileError(f"{root}: cannot be written: {error.strerror or error}") from error
    if used is None:
        raise DataError(f"data.root: {root} was changed by another process while it was drawn")
    return used


def _use_if(root: Path, wanted: Any) -> Held | None:
    """Return the use of a folder, if it was drawn with these settings."""
    if _mark_of(root) is None:
        return None
    used = use(root / MARK)
    mark = _mark_of(root)
    if used is not None and (mark is None or mark.settings != wanted):
        used.end()
        return None
    return used


def _draw(root: Path, wanted: Any, draw: Callable[[Path], None]) -> None:
    log.info("drawing a data set into %s", root)
    with replacing(root) as draft:
        draw(draft)
        files = {name: digest_of(draft / name) for name in _in(draft)}
        content = {"settings": wanted, "files": files}
        (draft / MARK).write_text(json.dumps(content), encoding="utf-8")


def _claim(root: Path) -> Held:
    """Have a folder alone, to replace it; refuse where it was not drawn, or is in use."""
    mark = _mark_of(root)
    if mark is None:
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            raise DataError(
                f"data.root: {root} holds files that were not drawn; for data of your own set "
                "synthetic: null, else name another folder"
            )
        return Held(None)
    why = f"data.root: {root} was drawn with other settings of synthetic"
    alone = claim(root / MARK)
    if alone is None:
        user = user_of(root / MARK)
        raise DataError(f"{why}, and {user} uses it; wait, or name another folder")
    if mark.files is None:
        raise DataError(f"{why}, by an earlier version; remove it, or name another folder")
    for name in _in(root):
        known = mark.files.get(name)
        if known is None or known != digest_of(root / name):
            what = "was not drawn" if known is None else "was changed since"
            raise DataError(
                f"{why}, and {root / name} {what}; move it away, or name another folder"
            )
    return alone


def _in(root: Path) -> list[str]:
    """List all files below a folder but the mark; links are listed, not followed."""
    found = []
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        found += [Path(folder, name).relative_to(root).as_posix() for name in (*files, *links)]
    return sorted(name for name in found if name != MARK)


def _mark_of(root: Path) -> _Mark | None:
    try:
        content = json.loads((root / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if isinstance(content, dict) and content.keys() == {"settings", "files"}:
        files = content["files"] if isinstance(content["files"], dict) else None
        return _Mark(content["settings"], files)
    return _Mark(content, None)
