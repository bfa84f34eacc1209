"""Contact sheets: pictures in rows on one page, each with lines of text below it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from core.errors import DataError
from core.settings.files import write_bytes
from core.settings.streams import one_line
from core.training import lettering
from core.training.inspection import Labelled

HEIGHT, WIDEST, NARROWEST = 240, 640, 240  # pixels of a tile
STRIP, GAP = 40, 6  # pixels below it, for two lines of text, and around it
PAGE = 1300  # pixels, at most
LETTERS = 13  # pixels
LONGEST = 200  # characters that are measured


def write_sheet(file: Path, pictures: Sequence[Labelled]) -> None:
    """Write a PNG with the pictures in rows, each with its name below.

    Raises:
        DataError: There are none.
        FileError: It cannot be written.
    """
    if not pictures:
        raise DataError(f"{file}: there are no pictures to draw")
    write_bytes(file, page([tile(each.picture, each.name) for each in pictures]))


def tile(picture: np.ndarray, title: str, name: str = "") -> np.ndarray:
    """Scale an RGB picture [H, W, 3] uint8 to the height of a row, with a title and a name below.

    Text that is too long loses the end of the title, and the beginning of the name.
    """
    height, width = picture.shape[:2]
    scale = min(HEIGHT / height, WIDEST / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(picture, size, interpolation=how)
    wide = max(size[0], NARROWEST)
    canvas = np.full((HEIGHT + STRIP, wide, 3), 255, np.uint8)
    left, top = (wide - size[0]) // 2, (HEIGHT - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = small
    made = Image.fromarray(canvas)
    title, name = one_line(title[:LONGEST]), one_line(name[-LONGEST:])
    pen = ImageDraw.Draw(made)
    fonts = [lettering.font(f"{text}…", LETTERS) for text in (title, name)]
    while pen.textlength(title, fonts[0]) > wide:
        title = f"{title[:-2]}…"
    while pen.textlength(name, fonts[1]) > wide:
        name = f"…{name[2:]}"  # its end tells more
    pen.text((0, HEIGHT + 3), title, (0, 0, 0), fonts[0])
    pen.text((0, HEIGHT + 21), name, (110, 110, 110), fonts[1])
    return np.asarray(made)


def page(tiles: Sequence[np.ndarray]) -> bytes:
    """Return a PNG with pictures [H, W, 3] of one height in rows."""
    rows: list[list[np.ndarray]] = [[]]
    for each in tiles:
        if rows[-1] and sum(t.shape[1] + GAP for t in [*rows[-1], each]) > PAGE:
            rows.append([])
        rows[-1].append(each)
    width = max(sum(each.shape[1] + GAP for each in row) for row in rows) + GAP
    high = HEIGHT + STRIP + GAP
    canvas = np.full((len(rows) * high + GAP, width, 3), 255, np.uint8)
    for number, row in enumerate(rows):
        left = GAP
        for each in row:
            top = number * high + GAP
            canvas[top : top + each.shape[0], left : left + each.shape[1]] = each
            left += each.shape[1] + GAP
    content = io.BytesIO()
    Image.fromarray(canvas).save(content, "png")
    return content.getvalue()
