"""A validation split, drawn where data have none: the same for the same names and seed."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.errors import DataError
from core.settings.files import write_text


def drawn_split(
    names: Sequence[str], share: float, seed: int, groups: Sequence[int] | None = None
) -> np.ndarray:
    """Tell which items are for validation, [N] bool.

    Of each group the share is drawn, rounded, but at least one item, and never all. The order of
    the names does not matter, nor where their folder lies: they are ranked by a hash.

    Args:
        names: Names of the items, relative to the root of the data, with `/`.
        share: Share of each group that goes to validation.
        seed: Another seed draws other items.
        groups: Class of each item; None: all are one group.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups if groups is not None else [0] * len(names)):
        members[int(group)].append(index)
    chosen = np.zeros(len(names), bool)
    for inside in members.values():
        ranked = sorted(inside, key=lambda index: (_rank(names[index], seed), names[index]))
        count = min(max(round(share * len(inside)), 1), len(inside) - 1)
        chosen[ranked[:count]] = True
    return chosen


def relative_names(paths: Sequence[str], root: str | Path) -> list[str]:
    """Return paths below a folder as names with `/`, on any system."""
    return [Path(os.path.relpath(path, root)).as_posix() for path in paths]


def write_list(file: Path, lines: Sequence[str]) -> str:
    """Write a list file; return its absolute path, as a setting that `data.root` does not move.

    Raises:
        DataError: A name has a line break in it.
        FileError: It cannot be written.
    """
    for line in lines:
        if "\n" in line or "\r" in line:
            raise DataError(f"{line!r}: a name with a line break, which no list can hold")
    write_text(file, "".join(f"{line}\n" for line in lines))
    return str(file.absolute())


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()
