"""Contact sheets: pictures in rows, each with its name below."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from core.errors import DataError
from core.training.contact_sheet import GAP, HEIGHT, NARROWEST, STRIP, page, tile, write_sheet
from core.training.inspection import Labelled


def picture(height: int, width: int, color: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def test_tiles_fit_and_their_words_too() -> None:
    made = tile(picture(30, 20, (77, 77, 77)), "多 $x$ " + "word " * 50, "folder/" * 30 + "a.png")
    assert made.shape == (HEIGHT + STRIP, NARROWEST, 3)
    assert (made[120, 120] == 77).all()
    assert (made[:HEIGHT, :30] == 255).all()  # it is narrower than its words may be
    assert (made[HEIGHT : HEIGHT + 20] < 100).any()  # the title is dark
    assert 100 < made[HEIGHT + 20 :].min() < 150  # the name below it is grey
    wide = tile(picture(10, 500, (0, 0, 0)), "")
    assert wide.shape == (HEIGHT + STRIP, 640, 3)
    assert (wide[HEIGHT:] == 255).all()
    drawn = cv2.imdecode(np.frombuffer(page([made, wide, wide, made]), np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == (2 * (HEIGHT + STRIP + GAP) + GAP, 898, 3)


def test_names_of_files_may_be_anything() -> None:
    small = picture(10, 10, (0, 0, 0))
    for name in ("a\nb", "\udcff\x1b[31m\0", "\u202e", "x" * 10**6):
        assert tile(small, name, name).shape == (HEIGHT + STRIP, NARROWEST, 3)
    np.testing.assert_array_equal(tile(small, "a\nb", "c\udcff"), tile(small, "a b", "c "))


def test_pictures_keep_their_shape_and_colour(tmp_path: Path) -> None:
    file = tmp_path / "look" / "x.png"
    write_sheet(file, [Labelled(f"{i}.png", picture(10, 20, (200, 0, 0))) for i in range(3)])
    drawn = cv2.imread(str(file))
    assert drawn.shape == (2 * (HEIGHT + STRIP + GAP) + GAP, 2 * (480 + GAP) + GAP, 3)
    red = (drawn == (0, 0, 200)).all(axis=2)  # OpenCV reads BGR
    top, left = slice(GAP, GAP + HEIGHT), slice(GAP, GAP + 480)
    assert red[top, left].all()
    assert red.sum() == 3 * HEIGHT * 480
    assert (drawn[GAP + HEIGHT : GAP + HEIGHT + STRIP, left] < 100).any()  # its name
    assert (drawn[HEIGHT + STRIP + GAP :, 480 + 2 * GAP :] == 255).all()  # nothing beside the last
    with pytest.raises(DataError, match=r"x\.png: there are no pictures to draw"):
        write_sheet(tmp_path / "x.png", [])
