"""Check the bytes of JPEG and PNG files before a decoder sees them; tell which files are images."""

from __future__ import annotations

import logging
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from core.errors import DataError
from core.settings.told_once import ONCE

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
UNREAD = (".gif", ".heic", ".heif", ".avif", ".jfif", ".jp2", ".jxl", ".dng", ".svg")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"  # how files of both begin
_CLUTTER = (
    *("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
    "__pycache__",
)
# in coded data, 0xff is followed by 0, or by the number of a restart
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_BARE, _END = (0x01, 0xD8), 0xD9  # markers without a segment
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
log = logging.getLogger(__name__)


def is_whole(content: bytes) -> bool:
    """Tell whether a JPEG or PNG file has its end, and a PNG file its checksums right.

    What follows the end does not matter: phones append videos to JPEG files, in which any marker
    may occur by chance, so the segments are followed from the first to the end of the image. Files
    of other kinds count as whole.
    """
    if content.startswith(JPEG):
        return any(code == _END for code, _ in _jpeg_segments(content))
    if content.startswith(PNG):
        return _is_whole_png(content)
    return True


def declared_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height that a JPEG or PNG file says it has; None where it says nothing."""
    if content.startswith(PNG) and content[12:16] == b"IHDR" and len(content) >= 24:
        width, height = struct.unpack(">II", content[16:24])
        return width, height
    if content.startswith(JPEG):
        for code, body in _jpeg_segments(content):
            if code in _FRAMES and len(content) >= body + 7:
                height, width = struct.unpack(">HH", content[body + 3 : body + 7])
                return width, height
    return None


def list_image_files(folder: Path) -> list[Path]:
    """List the images below a folder by their suffixes, sorted.

    What systems and programs leave in folders is no image: hidden files and folders
    (`.ipynb_checkpoints`, `._a.jpg`), `__MACOSX` and the like.

    Raises:
        DataError: A folder cannot be read.
    """
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error

    try:
        for place, folders, files in os.walk(folder, onerror=refuse):
            tell_of_clutter(Path(place), (*folders, *files))
            folders[:] = [name for name in folders if not is_clutter(name)]
            tell_of_unread(Path(place), files)
            images = [name for name in files if Path(name).suffix.lower() in SUFFIXES]
            found += [Path(place, name) for name in images if not is_clutter(name)]
    except ValueError as error:
        raise DataError(f"{str(folder)[:200]!r}: cannot be the name of a folder") from error
    return sorted(found)


def list_class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, but for hidden ones and the like.

    Raises:
        DataError: It cannot be read, or a name is no text.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{str(folder)[:200]!r}: cannot be the name of a folder") from error
    names = [name for name in names if not is_clutter(name)]
    for name in names:  # they are written into checkpoints, as names of classes
        if not name.isascii() and name.encode("utf-8", "replace").decode() != name:
            raise DataError(f"{folder}: {name!r} is no name in UTF-8; rename the folder")
    return names


def is_clutter(name: str) -> bool:
    """Tell whether a file or folder of this name is hidden, or made by a system for itself."""
    return name.startswith(".") or name in _CLUTTER


def tell_of_unread(folder: Path, names: Iterable[str]) -> None:
    """Say in the log how many files of a folder are videos, or pictures of a kind not read."""
    kinds = Counter(Path(name).suffix.lower() for name in names if not is_clutter(name))
    unread = {kind: kinds[kind] for kind in UNREAD if kinds[kind]}
    if unread:
        log.warning(
            "%s: %d pictures are left out, as %s files are not read; convert them",
            *(folder, sum(unread.values()), ", ".join(unread)),
            extra=ONCE,
        )
    videos = sum(kinds[kind] for kind in VIDEO_SUFFIXES)
    if videos:
        text = "%s: videos left out: %d; tools/predict.py takes one at a time"
        log.warning(text, folder, videos, extra=ONCE)


def tell_of_clutter(folder: Path, names: Iterable[str]) -> None:
    """Say in the log which of the files and folders in a folder are left out."""
    clutter = sorted(name for name in names if is_clutter(name))
    if clutter:
        some = ", ".join(repr(name) for name in clutter[:3])
        rest = f" and {len(clutter) - 3} more" if len(clutter) > 3 else ""
        log.info("%s: left out as hidden: %s%s", folder, some, rest, extra=ONCE)


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield the code of each marker and where its segment begins, up to the end of the image."""
    place = len(JPEG)
    while found := _MARKER.search(content, place):
        code, place = content[found.end() - 1], found.end()
        yield code, place
        if code == _END:
            return
        if code not in _BARE:
            place += int.from_bytes(content[place : place + 2], "big")


def _is_whole_png(content: bytes) -> bool:
    """Tell whether all chunks that pixels depend on are there, with the checksums that they have.

    Pillow, which reads palettes, takes pixels with a wrong one as they are.
    """
    place, data = len(PNG), memoryview(content)
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kind = content[place + 4 : place + 8]
        if end > len(content):
            return False
        wanted = int.from_bytes(data[end - 4 : end], "big")
        if kind[:1].isupper() and zlib.crc32(data[place + 4 : end - 4]) != wanted:
            return False
        if kind == b"IEND":
            return True
        place = end
    return False
