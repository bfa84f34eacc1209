"""Names of the classes, from a labels file or from the class folders."""

from __future__ import annotations

import re
from pathlib import Path

from core.errors import DataError
from core.settings.reading import read_lines
from core.training.image_files import list_class_folders
from tasks.cls.config import DataConfig
from tasks.cls.layouts import Layout, find_layout, flat_classes

# index and name, with what stands between them in files of editors and spreadsheets
_NUMBERED = re.compile(r"(-?\d+)(?:\s*[,;:=\t]\s*|\s+)(\S.*)")
_REVERSED = re.compile(r".*\S\s*[,;:=\t]\s*(\d+)")
_LAST = re.compile(r"(.*\S)\s+(\d+)")
# the same with marks that count, as in "0. cat", "[0] cat", "0|cat", "0.0 cat"
_COUNTED = re.compile(r"[\[(<#+]*(?:0x)?(\d+)(?:\.0+)?(?:\s*[.)\]>|]|\s)\s*\S.*")
# names as in lists of other languages, or with what stood between an index and a name
_MARKED = re.compile(
    r"[-*\u2022]\s+.*|[\[{].*|.*[\]}],?|(['\"]).*\1,?|.*[,;]"
    r"|[-=>|:;,.)\]\u2013\u2014\u2192]+\s.*"
)
_QUOTED = re.compile(r"\"[^\"]*\"\s*[,;:\t].*|\d+\s*[,;:\t]\s*\".*\"")
MOST_DIGITS = 9
_WANTED = "expected 'index name' or 'name'"
Lines = list[tuple[int, str]]  # number in the file, text


def class_names(data: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes: from the labels file, else the class folders, else none.

    Raises:
        DataError: The labels file is malformed, or contradicts `data.class_names`.
    """
    found, known = _names_in(data), data.class_names
    if found and known and found != known:
        place = next((i for i, (a, b) in enumerate(zip(found, known)) if a != b), None)
        if place is None:
            raise DataError(
                f"{data.root}: {len(found)} classes, expected {len(known)} (data.class_names)"
            )
        raise DataError(
            f"{data.root}: class {place} is {found[place]!r}, expected {known[place]!r} "
            "(data.class_names)"
        )
    return known or found


def read_labels(path: Path) -> list[str]:
    """Read a labels file: `index name` per line in any order, or `name` per line in class order.

    Between index and name may stand blanks, a tab, a comma, a semicolon, a colon or `=`.

    Raises:
        DataError: An index is missing or given twice, or a line is written otherwise than the
            others; with the line.
    """
    lines = read_lines(path, DataError)
    _check_quotes(path, lines)
    found = [(number, _NUMBERED.fullmatch(line)) for number, line in lines]
    if not lines or not all(match for _, match in found):
        _check_plain(path, lines)
        _check_marks(path, lines, [line for _, line in lines])
        return [line for _, line in lines]
    names: dict[int, str] = {}
    for number, match in found:
        index = _index(match)
        if index in names or not 0 <= index < len(lines):
            given = match[1][:20] if match else ""
            raise DataError(
                f"{path}:{number}: class index {given} is repeated or leaves a gap; "
                f"{len(lines)} classes have the indices 0..{len(lines) - 1}"
            )
        names[index] = match[2] if match else ""
    _check_marks(path, lines, list(names.values()))
    return [names[index] for index in range(len(names))]


def folder_classes(layout: Layout) -> list[str]:
    """Return the names of the class folders for training.

    Raises:
        DataError: They cannot be read.
    """
    return flat_classes(layout.train) if layout.kind == "flat" else list_class_folders(layout.train)


def _names_in(data: DataConfig) -> tuple[str, ...]:
    path = Path(data.root) / data.labels
    if path.is_file():
        return tuple(read_labels(path))
    layout = find_layout(data)
    if layout.kind in ("folders", "flat") and layout.train.is_dir():
        return tuple(folder_classes(layout))
    return ()


def _index(match: re.Match[str] | None) -> int:
    """Return the index in a line; -1 where there is none, or one that no class has."""
    return int(match[1]) if match and len(match[1]) <= MOST_DIGITS else -1


def _counts(numbers: list[str]) -> bool:
    """Tell whether numbers are 0 to the last one, in any order."""
    short = all(0 < len(number) <= MOST_DIGITS for number in numbers)
    return short and sorted(map(int, numbers)) == [*range(len(numbers))]


def _check_marks(path: Path, lines: Lines, names: list[str]) -> None:
    """Refuse names that all have marks around them, which are hardly meant as a part."""
    if names and all(_MARKED.fullmatch(name) for name in names):
        number, line = lines[0]
        wanted = f"{_WANTED}, without brackets, quotes and marks of lists"
        raise DataError(f"{path}:{number}: {wanted}, got {line[:80]!r}")


def _check_quotes(path: Path, lines: Lines) -> None:
    for number, line in lines:
        if _QUOTED.fullmatch(line):
            raise DataError(f"{path}:{number}: {_WANTED} without quotes, got {line[:80]!r}")


def _check_plain(path: Path, lines: Lines) -> None:
    """Refuse lines that look like names, but are meant as an index and a name."""
    if not lines:
        return
    texts, (number, first) = [line for _, line in lines], lines[0]
    counted = sorted(_index(_COUNTED.fullmatch(line)) for line in texts)
    if len(lines) > 1 and counted in ([*range(len(lines))], [*range(1, len(lines) + 1)]):
        raise DataError(f"{path}:{number}: {_WANTED}, got {first[:80]!r}")
    last = [_LAST.fullmatch(line) for line in texts]
    stems = {match[1] for match in last if match}  # "class 0", "class 1" are names
    is_last = len(stems) == len(lines) > 1 and _counts([match[2] for match in last if match])
    if is_last or _counts([m[1] if m else "" for m in map(_REVERSED.fullmatch, texts)]):
        raise DataError(f"{path}:{number}: {_WANTED}, got the index last: {first[:80]!r}")
    comment = next((each for each in lines if each[1].startswith("# ")), None)
    if comment is not None and not all(line.startswith("#") for line in texts):
        raise DataError(f"{path}:{comment[0]}: {_WANTED}, got a comment: {comment[1][:80]!r}")
    # indices that count the lines, but for a heading or some line that was forgotten
    matches = [_NUMBERED.fullmatch(line) for _, line in lines]
    offsets = {_index(match) - place for place, match in enumerate(matches) if match}
    several = sum(match is not None for match in matches) >= min(2, len(lines) - 1)
    if several and len(offsets) == 1 and offsets <= {-1, 0, 1}:
        number, line = next(lines[i] for i, match in enumerate(matches) if not match)
        raise DataError(
            f"{path}:{number}: expected 'index name' as in the other lines, got {line[:80]!r}"
        )
