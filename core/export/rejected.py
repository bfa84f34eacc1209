"""Keep files that a check refuses beside their place, with the reason."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from core.errors import ExportError, RejectedError
from core.settings.files import replacing

REASON = "rejected.txt"  # in the folder of rejected files
_SUFFIX = ".rejected"


def rejected_folder(folder: Path) -> Path:
    """Return where the files go that were made for a folder, but are refused."""
    if folder.is_symlink() or folder.name in ("", ".."):
        folder = Path(os.path.realpath(folder))
    return folder.parent / f"{folder.name}{_SUFFIX}"


def check_rejected_folder(folder: Path) -> None:
    """Refuse a folder beside which rejected files could not be kept.

    Raises:
        ExportError: The files that lie there are no rejected ones.
    """
    place = rejected_folder(folder)
    if os.path.lexists(place) and not (place / REASON).is_file():
        raise ExportError(
            f"{place}: is where files go that a check refuses, but holds others (no {REASON}); "
            "move it away"
        )


@contextlib.contextmanager
def replacing_unless_rejected(folder: Path, check: Callable[[], None]) -> Iterator[Path]:
    """Give a fresh folder to fill, as `core.settings.files.replacing` does; keep what is refused.

    If the block ends with a `RejectedError`, `folder` stays as it was, and the files go to
    `rejected_folder`, in the place of those that were rejected before.

    Args:
        folder: To be replaced.
        check: Refuses a folder that must not be; called when no other process can fill it any
            more, as one may have done since it was checked first.

    Raises:
        RejectedError: The error of the block; the message says where the files are.
        FileError: Something cannot be written.
        ExportError: Rejected files could not be kept.
    """
    check_rejected_folder(folder)
    with replacing(folder) as draft:
        check()
        try:
            yield draft
        except RejectedError as error:
            place = keep_rejected(draft, folder, str(error))
            raise RejectedError(f"{error}; the files are in {place}, not in {folder}") from error


def keep_rejected(draft: Path, folder: Path, reason: str) -> Path:
    """Move the files of a draft to the folder of rejected ones; return that.

    Args:
        draft: Folder with the files.
        folder: Folder that they were made for.
        reason: Why they are refused; written beside them.

    Raises:
        FileError: They cannot be kept.
    """
    place = rejected_folder(folder)
    with replacing(place) as kept:
        for each in sorted(draft.iterdir()):
            each.rename(kept / each.name)
        (kept / REASON).write_text(f"{reason}\n", encoding="utf-8")
    return place
