"""Exports of CVAT: bad shapes, hostile files, changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import DataError
from tasks.seg.labels import read_mask
from tests.tasks.seg_drawings import DATA, SQUARE, cvat, element, polygon_of


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (element("polygon", points="1,2;3,4"), r"shape 1 \('disc'\): points: expected 3 or more"),
        (element("polygon", points="1,2;3,4;5"), r"points: expected 3 or more 'x,y;x,y', got"),
        (element("polygon", points="1,2;3,4;5,x"), r"expected numbers up to a million, got 'x'"),
        (element("polygon", points="1,2;3,4;5,nan"), r"up to a million, got 'nan'"),
        (element("polygon"), r"points: expected 3 or more 'x,y;x,y', got ''"),
        (element("box", xtl=1, ytl=2, xbr="inf", ybr=3), r"xbr: expected numbers .* got 'inf'"),
        (element("box", xtl=1, ytl=2, xbr=3), r"ybr: expected numbers up to a million, got ''"),
        (element("ellipse", cx=1, cy=2, rx="1e9", ry=3), r"rx: .* got '1000000000\.0'"),
        (element("star", x=1), r"expected one of polygon, box, ellipse, mask, .* got 'star'"),
        ("<polygon points='1,1;2,2;3,1'/>", r"shape 1 \(None\): expected one of .* with a label"),
        (element("mask", rle="1,2", left=0, top=0, width=2, height=2), r"rle: runs of 3 pixels"),
        (element("mask", rle="", left=0, top=0, width=2, height=2), r"rle: expected a whole"),
        (element("mask", rle="5,-1", left=0, top=0, width=2, height=2), r"rle: .* got '-1'"),
        (element("mask", rle="4", left=0.5, top=0, width=2, height=2), r"left: .* got '0\.5'"),
        (polygon_of(SQUARE, z_order="top"), r"z_order: expected numbers .* got 'top'"),
        (polygon_of(SQUARE, label="bax"), r"label is not among data\.classes \(did you mean 'box"),
    ],
)
def test_bad_shapes_of_cvat_are_named(tmp_path: Path, shape: str, message: str) -> None:
    path = cvat(tmp_path / "annotations.xml", shape)
    with pytest.raises(DataError, match=message) as caught:
        read_mask(path, DATA)
    assert str(caught.value).startswith(f"{tmp_path / 'annotations.xml' / 'a.png'}: shape 1")
    assert "\n" not in str(caught.value)


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotations>&b;</annotations>'
READER = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotations>&a;</annotations>'


@pytest.mark.parametrize("code", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"has a document type definition"),
        (READER, r"has a document type definition"),
        ("<annotations><image name='a.png'>", r"not XML that can be read: no element found: line"),
        ("<annotations>&a;</annotations>", r"not XML that can be read: undefined entity"),
        ("", r"not XML that can be read"),
        ("<annotations/>", r"expected an export 'CVAT for images 1\.1'"),
        ("<annotation><image name='a.png'/></annotation>", r"expected an export 'CVAT for images"),
        ("<annotations><track id='0'/></annotations>", r"an export of CVAT for video; expected"),
        ("<annotations><image name='b.png'/></annotations>", r"has no image of this name"),
        ("<annotations><image name='a.png'/></annotations>", r"width: expected a whole number"),
        (f"{'<a>' * 300_000}", r"not XML that can be read"),
    ],
)
def test_bad_and_hostile_exports_are_named(
    tmp_path: Path, text: str, message: str, code: str
) -> None:
    (tmp_path / "annotations.xml").write_text(text, encoding=code)
    with pytest.raises(DataError, match=message) as caught:
        read_mask(str(tmp_path / "annotations.xml" / "a.png"), DATA)
    assert str(caught.value).startswith(f"{tmp_path / 'annotations.xml'}")


def test_elements_nested_deep_are_read(tmp_path: Path) -> None:
    """Neither a crash nor a traceback: nobody asks for what lies in them."""
    deep = "<a>" * 300_000 + "</a>" * 300_000
    path = cvat(tmp_path / "annotations.xml", element("tag"), f"<tag>{deep}</tag>")
    assert not read_mask(path, DATA).any()


def test_an_export_that_changes_is_read_again(tmp_path: Path) -> None:
    path = cvat(tmp_path / "annotations.xml", polygon_of(SQUARE))
    assert read_mask(path, DATA).max() == 1
    cvat(tmp_path / "annotations.xml", polygon_of(SQUARE, label="box", z_order=1))
    assert read_mask(path, DATA).max() == 2
