"""Label maps beside masks: names and colours of the classes, as labelme, CVAT and others write."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from core.errors import DataError
from core.settings.reading import read_lines
from tasks.seg.config import Color

WITH_COLORS = ("labelmap.txt", "label_colors.txt", "class_dict.csv", "label_map.txt")
NAMES_ONLY = ("class_names.txt", "classes.txt", "labels.txt")
LABELME_IGNORED = "__ignore__"  # its first line, of a number below the classes
IGNORED = (LABELME_IGNORED, "_ignore_", "ignore", "ignored", "void", "unlabelled", "unlabeled")
_RGB = r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})"
_NAME_FIRST = re.compile(rf"(\S.*?)\s*[:,;\t ]\s*{_RGB}\s*(?:[:;,].*)?")
_NAME_LAST = re.compile(rf"{_RGB}[\s,;:]+(\S.*)")


@dataclass(frozen=True)
class LabelMap:
    """Classes in label order.

    Attributes:
        file: File that says so.
        names: Names of the classes.
        colors: Colour of each class; empty where the file has none.
        ignored: Colours of what counts nowhere.
    """

    file: Path
    names: tuple[str, ...]
    colors: tuple[Color, ...] = ()
    ignored: tuple[Color, ...] = ()


@dataclass(frozen=True)
class Classes:
    """Number, names and colours of the classes, their source, and the ignored values."""

    count: int
    told_by: str
    names: tuple[str, ...] = ()
    colors: tuple[Color, ...] = ()
    ignored: tuple[Color, ...] = ()
    left_out: tuple[str, ...] = ()  # lines for people
    nearest: bool = False  # other colours count as the nearest of these


def find_label_map(root: Path) -> LabelMap | None:
    """Read the label map in a folder; None if there is none.

    Raises:
        DataError: It is malformed.
    """
    for name in WITH_COLORS:
        if (root / name).is_file():
            return read_colors(root / name)
    for name in NAMES_ONLY:
        if (root / name).is_file():
            names = [line for _, line in read_lines(root / name, DataError)]
            if names and names[0] == LABELME_IGNORED:
                names.pop(0)
            while names and names[-1].lower() in IGNORED:  # any before others has a number in masks
                names.pop()
            return LabelMap(root / name, tuple(names))
    return None


def read_colors(path: Path) -> LabelMap:
    """Read names with colours: `name:r,g,b:...` (CVAT), `r g b name` (CamVid), `name,r,g,b` (CSV).

    Raises:
        DataError: A line is none of these, or a colour is given twice.
    """
    names: list[str] = []
    colors: list[Color] = []
    ignored: list[Color] = []
    for number, line in read_lines(path, DataError):
        if line.startswith("#") or _is_heading(line):
            continue
        name, color = _parse(path, number, line)
        if color in (*colors, *ignored):
            raise DataError(f"{path}:{number}: the colour {list(color)} is given twice")
        if name.lower() in IGNORED:
            ignored.append(color)
            continue
        names.append(name)
        colors.append(color)
    if len(names) < 2:
        raise DataError(f"{path}: expected 2 classes or more, got {len(names)}")
    return LabelMap(path, tuple(names), tuple(colors), tuple(ignored))


def _is_heading(line: str) -> bool:
    try:
        fields = next(csv.reader([line]), [])
    except csv.Error:  # a field of vast length
        return False
    return len(fields) >= 4 and not any(field.strip().isdecimal() for field in fields[1:4])


def _parse(path: Path, number: int, line: str) -> tuple[str, Color]:
    first, last = _NAME_FIRST.fullmatch(line), _NAME_LAST.fullmatch(line)
    if last is not None:
        name, found = last[4], last.groups()[:3]
    elif first is not None:
        name, found = first[1], first.groups()[1:4]
    else:
        wanted = "expected 'name:red,green,blue' or 'red green blue name'"
        raise DataError(f"{path}:{number}: {wanted}, got {line[:80]!r}")
    red, green, blue = (int(value) for value in found)
    if max(red, green, blue) > 255:
        raise DataError(f"{path}:{number}: expected colours up to 255, got {line[:80]!r}")
    return name.strip(), (red, green, blue)
