"""Folders that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from core.errors import FileError


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a fresh folder to fill, which takes the place of `folder` when the block ends well.

    The replaced folder is renamed first and removed last, so that a process killed in between
    leaves it where `settle` finds it. For one process at a time.

    Raises:
        FileError: Something cannot be written; what was there stays.
    """
    partial, old = _sibling(folder, "partial"), _sibling(folder, "old")
    try:
        settle(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        _flush_to_disk(partial)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise FileError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def settle(folder: Path) -> None:
    """Bring back the folder whose replacement was interrupted between two renames."""
    folder = Path(os.path.abspath(folder))
    if folder.name and (old := _sibling(folder, "old")).exists():
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(folder)


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give a fresh folder to fill, which becomes `folder` when the block ends well.

    Of several processes that make the same folder at once, the first one's stays.

    Raises:
        FileError: Something cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield draft
            draft.chmod(0o755)
            if not (folder.exists() and any(folder.iterdir())):
                draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        if not (folder.is_dir() and any(folder.iterdir())):
            raise FileError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _sibling(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}.{suffix}")


def _flush_to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
