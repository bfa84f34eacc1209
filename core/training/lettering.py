"""Write names on pictures, in any script that a font of the machine has.

Matplotlib brings a font with most letters, but none of Chinese, Japanese and Korean.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
SMALLEST = 1.0  # size of a font in pixels
# in the names of files of fonts that have letters which matplotlib's lacks
_WIDE = ("cjk", "sourcehan", "wqy", "hei", "song", "simsun", "ming", "ukai", "gothic", "nanum")
_WIDE_TOO = ("fallback", "malgun", "pingfang", "unicode", "unifont", "notosans", "freesans")


def font_file(text: str) -> Path | None:
    """Return a font that has all letters of a text, matplotlib's if it does; None without one."""
    if text.isascii():
        return _matplotlib_font()
    wanted = {ord(letter) for letter in text if not letter.isspace()}
    files = (_matplotlib_font(), *_fonts_of_machine())
    return next((file for file in files if wanted <= _letters(file)), None)


def drawable(name: str, otherwise: str) -> str:
    """Return a name, or another text where no font has all letters of it."""
    return name if font_file(name) is not None else otherwise


def font(text: str, size: float) -> ImageFont.FreeTypeFont:
    """Return a font for a text; it draws boxes for letters that no font has."""
    return ImageFont.truetype(str(font_file(text) or _matplotlib_font()), size)


def text_size(text: str, size: float) -> tuple[float, float]:
    """Return the width of a text and the height of its line, in pixels."""
    found = font(text, size)
    return found.getlength(text), float(sum(found.getmetrics()))


def write(
    image: np.ndarray,
    text: str,
    place: tuple[float, float],
    size: float,
    color: Color = (255, 255, 255),
    rim: int = 0,
) -> np.ndarray:
    """Return an RGB image [H, W, 3] uint8 with a line of text on it.

    Args:
        image: It is not changed.
        text: What to write.
        place: Left end and top of the line, in pixels.
        size: Of the font, in pixels; less than one writes nothing.
        color: RGB.
        rim: Width of a black line around the letters, in pixels.
    """
    if size < SMALLEST:
        return image.copy()
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    pen.text(place, text, color, font(text, size), stroke_width=rim, stroke_fill=(0, 0, 0))
    return np.array(drawn)


# matplotlib's fonts take half a second to load, so they are where a name needs them
@functools.cache
def _matplotlib_font() -> Path:
    import core.settings.plain_matplotlib  # isort: skip  # noqa: F401
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


@functools.cache
def _letters(file: Path) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(str(file)).get_charmap())


@functools.cache
def _fonts_of_machine() -> tuple[Path, ...]:
    from matplotlib.font_manager import findSystemFonts  # also those that are new on the machine

    files = [Path(file) for file in findSystemFonts()]
    fitting = [file for file in files if any(w in file.name.lower() for w in (*_WIDE, *_WIDE_TOO))]
    return tuple(sorted(fitting, key=lambda file: ("bold" in file.name.lower(), file.name)))
