"""Pictures side by side."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from core.errors import DataError
from core.training.contact_sheet import BAR, COLUMNS, SIDE, sheet, write_sheet
from core.training.inspection import Labelled


def picture(height: int, width: int, color: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def test_pictures_keep_their_shape_and_colour(tmp_path: Path) -> None:
    pictures = [Labelled(f"{i}.png", picture(10, 40, (200, 0, 0))) for i in range(COLUMNS + 1)]
    made = sheet(pictures)
    assert made.shape == (2 * (SIDE + BAR), COLUMNS * SIDE, 3)
    red = (made[:SIDE, :SIDE] == (200, 0, 0)).all(axis=2)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert len(columns) == SIDE - 8
    assert len(rows) == round((SIDE - 8) / 4)
    assert (made[SIDE + BAR :, SIDE:] == 255).all()  # nothing beside the last one
    write_sheet(tmp_path / "look" / "x.png", pictures[:1])
    read = cv2.imread(str(tmp_path / "look" / "x.png"))
    assert tuple(read[SIDE // 2, SIDE // 2]) == (0, 0, 200)  # OpenCV reads BGR
    with pytest.raises(DataError, match=r"x\.png: there are no pictures to draw"):
        write_sheet(tmp_path / "x.png", [])
