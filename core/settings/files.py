"""Files and folders that are there whole or not at all, whatever happens while they are written."""

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

    The replaced folder is renamed first and removed last; `present` finds it if the process was
    killed in between. For one writing process at a time.

    Raises:
        FileError: Something cannot be written; what was there stays.
    """
    partial, old = _sibling(folder, "partial"), _sibling(folder, "old")
    try:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        _flush_to_disk(partial)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise FileError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def present(folder: Path) -> Path:
    """Return where the content of a folder is: there, or aside if its replacement was cut off."""
    folder = Path(os.path.abspath(folder))
    old = _sibling(folder, "old")
    return old if folder.name and old.is_dir() and not folder.exists() else folder


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


def write_text(path: Path, text: str) -> None:
    """Write a small file, with its folder; it is there whole or not at all.

    Raises:
        FileError: It cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, with its folder; it is there whole or not at all.

    Raises:
        FileError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(content)
            os.chmod(draft, 0o644)
            os.replace(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error


def _sibling(folder: Path, suffix: str) -> Path:
    # a name of our own: nobody else keeps anything there
    return folder.parent / f".{folder.name}.trislim-{suffix}"


def _flush_to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
