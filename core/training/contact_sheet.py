"""Pictures side by side in one, each with its name below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from core.errors import DataError
from core.settings.files import write_bytes
from core.training.inspection import Labelled

COLUMNS, SIDE, BAR = 4, 260, 20  # pictures in a row; pixels of each, and of the line below
_GROUND, _INK = 255, (40, 40, 40)


def write_sheet(file: Path, pictures: Sequence[Labelled]) -> None:
    """Write a PNG with the pictures in rows.

    Raises:
        DataError: There are none.
        FileError: It cannot be written.
    """
    if not pictures:
        raise DataError(f"{file}: there are no pictures to draw")
    done, content = cv2.imencode(".png", sheet(pictures)[..., ::-1])
    assert done  # an array of bytes with three channels
    write_bytes(file, content.tobytes())


def sheet(pictures: Sequence[Labelled]) -> np.ndarray:
    """Return the pictures in rows as one RGB array [H, W, 3] uint8."""
    columns = min(COLUMNS, len(pictures))
    tiles = [_tile(each) for each in pictures]
    blank = np.full_like(tiles[0], _GROUND)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.vstack(rows)


def _tile(each: Labelled) -> np.ndarray:
    height, width = each.picture.shape[:2]
    scale = (SIDE - 8) / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(each.picture, size, interpolation=how)
    tile = np.full((SIDE + BAR, SIDE, 3), _GROUND, np.uint8)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = small
    name = each.name if len(each.name) < 30 else f"...{each.name[-26:]}"
    name = name.encode("ascii", "replace").decode()
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(tile, name, (6, SIDE + BAR - 7), font, 0.42, _INK, 1, cv2.LINE_AA)
    return tile
