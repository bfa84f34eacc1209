"""Read files of others: regular ones only, never without a limit, text as all editors write it."""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.settings.yaml_loader import shown

MOST_BYTES = 1 << 31  # largest file that is read whole
_CHUNK = 1 << 20
_LINE_END = re.compile("\r\n|\r|\n")
_INVISIBLE = "\ufeff\u200b"  # marks of files that were put together, spaces without a width
_MARKS = {  # in front of a text; the longer ones first, as two of them begin alike
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def read_bytes(path: str | Path, failure: type[UserError], most: int = MOST_BYTES) -> bytes:
    """Read a file whole.

    A pipe would be waited for and a device has no end, so both are refused before they are read.

    Args:
        path: Path of the file.
        failure: Class of the error to raise.
        most: Bytes that it may have.

    Raises:
        UserError: There is no such file, it is no regular one, or it is too large.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            about = os.fstat(handle)
            if stat.S_ISDIR(about.st_mode):
                raise failure(f"{path}: cannot be read: Is a directory")
            if not stat.S_ISREG(about.st_mode):
                raise failure(f"{path}: cannot be read: a pipe, socket or device, not a file")
            with open(handle, "rb", closefd=False) as file:
                # memory is reserved for as much as is asked for
                content = file.read(min(about.st_size, most) + 1)
                while len(content) <= most and (more := file.read(_CHUNK)):  # it has grown
                    content += more
        finally:
            os.close(handle)
    except OSError as error:
        raise failure(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # NUL, or half of a surrogate pair
        raise failure(f"{str(path)[:200]!r}: cannot be the name of a file") from error
    if len(content) > most:
        raise failure(f"{path}: has more than {most:,} bytes")
    return content


def read_text(path: str | Path, failure: type[UserError], most: int = MOST_BYTES) -> str:
    """Read a text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, as spreadsheets save it.

    Raises:
        UserError: As `read_bytes`; or it is no text.
    """
    content = read_bytes(path, failure, most)
    mark = next((each for each in _MARKS if content.startswith(each)), b"")
    try:
        text = str(memoryview(content)[len(mark) :], _MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise failure(f"{path}: not a UTF-8 text file (line {line}); save it as UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise failure(f"{path}: not a UTF-8 text file (a NUL in line {line}); save it as UTF-8")
    return text


def read_lines(path: str | Path, failure: type[UserError]) -> list[tuple[int, str]]:
    """Read number and text of the lines that are not blank, without blanks around it.

    Lines end as on any system.

    Raises:
        UserError: As `read_text`.
    """
    lines = enumerate(_LINE_END.split(read_text(path, failure)), start=1)
    stripped = [(number, trimmed(line)) for number, line in lines]
    return [(number, line) for number, line in stripped if line]


def trimmed(line: str) -> str:
    """Return a line without blanks, and characters that nobody sees, around it."""
    while (shorter := line.strip().strip(_INVISIBLE)) != line:
        line = shorter
    return line


def read_json(
    path: str | Path,
    failure: type[UserError],
    leave_out: Collection[str] = (),
) -> Any:
    """Read a JSON file.

    Args:
        path: Path of the file.
        failure: Class of the error to raise.
        leave_out: Keys, at any depth, whose values are not kept.

    Raises:
        UserError: As `read_text`; or it is not JSON, nested too deep, or has a key twice in an
            object.
    """

    def gathered(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        held = dict(pairs)
        if len(held) != len(pairs):
            key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise failure(f"{path}: an object has the key {shown(key)} twice")
        for key in leave_out:
            held.pop(key, None)
        return held

    try:
        return json.loads(read_text(path, failure), object_pairs_hook=gathered)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise failure(f"{path}: not JSON: {error.msg} at {place}") from error
    except RecursionError as error:
        raise failure(f"{path}: not JSON that can be read: nested too deep") from error
    except ValueError as error:
        raise failure(f"{path}: not JSON that can be read: a number of too many digits") from error
