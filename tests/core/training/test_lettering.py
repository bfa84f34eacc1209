"""Names on pictures: letters of many scripts, and what is written where no font has them."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest

from core.training import lettering
from core.training.charts import draw_confusion
from core.training.contact_sheet import tile

FONTS = Path(matplotlib.get_data_path(), "fonts/ttf")
OTHER = "\ue0d3"  # a letter that one font has and ours lacks


@pytest.fixture(params=[False, True], ids=["no other font", "another font"])
def has_font(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    fonts = (FONTS / "STIXNonUni.ttf",) if request.param else ()
    monkeypatch.setattr(lettering, "_fonts_of_machine", lambda: fonts)
    return bool(request.param)


def test_letters_of_many_scripts_are_drawn(has_font: bool) -> None:
    for name in ("plain", "grüner Kreis", "красный", "κόκκινο", "đỏ"):
        assert lettering.drawable(name, "class 1") == name
        assert lettering.font_file(name) == FONTS / "DejaVuSans.ttf"


def test_a_font_of_the_machine_has_the_others(has_font: bool) -> None:
    assert lettering.drawable(OTHER, "class 1") == (OTHER if has_font else "class 1")
    assert lettering.drawable(f"{OTHER}红", "class 1") == "class 1"  # no font has both
    file = lettering.font_file(OTHER)
    assert file == (FONTS / "STIXNonUni.ttf" if has_font else None)
    drawn, box = (_ink(text) for text in (OTHER, "\uffff"))
    assert np.array_equal(drawn, box) != has_font
    tile(np.zeros((9, 9, 3), np.uint8), f"is {OTHER}" * 99, OTHER)
    assert draw_confusion(np.eye(2), [OTHER, "b"]).startswith(b"\x89PNG")


def test_text_is_where_and_as_large_as_it_should_be() -> None:
    image = np.full((60, 200, 3), 120, np.uint8)
    wide, high = lettering.text_size("disc", 20)
    drawn = lettering.write(image, "disc", (30, 10), 20, rim=2)
    assert (image == 120).all()
    rows, columns = np.nonzero((drawn != 120).any(axis=2))
    assert 28 <= columns.min() <= 33
    assert abs(columns.max() - (30 + wide)) <= 3
    assert 8 <= rows.min() < rows.max() <= 12 + high
    assert drawn.max() == 255
    assert drawn.min() == 0  # the rim


def _ink(text: str) -> np.ndarray:
    return lettering.write(np.zeros((40, 40, 3), np.uint8), text, (5, 5), 20)
