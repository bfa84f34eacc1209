"""Shapes drawn in labelme and CVAT become masks: pixel by pixel, at the limits, from bad files."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataError
from tasks.seg import shapes
from tasks.seg.config import DataConfig
from tasks.seg.labels import read_mask
from tasks.seg.shapes import fill_polygon
from tests.networks.image_bytes import png
from tests.tasks.seg_drawings import (
    DATA,
    HEIGHT,
    SQUARE,
    WIDTH,
    cvat,
    drawn,
    element,
    labelme,
    polygon_of,
)

QUARTERS = st.integers(-24, 72).map(lambda value: value / 4)  # sums of them are exact
POINTS = st.lists(st.tuples(QUARTERS, QUARTERS), min_size=3, max_size=9)


def is_inside(points: list[tuple[float, float]], x: float, y: float) -> bool:
    """Count the edges to the left of a point, one after another."""
    inside = False
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]]):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
            inside = not inside
    return inside


@settings(max_examples=150, deadline=None)
@given(POINTS)
def test_a_pixel_is_inside_if_its_centre_is(points: list[tuple[float, float]]) -> None:
    filled = fill_polygon(np.array(points), WIDTH, HEIGHT)
    for (row, column), inside in np.ndenumerate(filled):
        x, y = column + 0.5, row + 0.5
        near = [
            x0 + (y - y0) * (x1 - x0) / (y1 - y0) - x
            for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]])
            if y0 != y1
        ]
        if min((abs(gap) for gap in near), default=1) > 1e-9:  # not on an edge, but for rounding
            assert inside == is_inside(points, x, y), (x, y)


@settings(max_examples=60, deadline=None)
@given(POINTS)
def test_what_reaches_out_of_the_image_is_cut_off(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[float, float]]
) -> None:
    """The mask of an image is the part of the mask of a larger one."""
    folder = tmp_path_factory.mktemp("shapes")
    around = 30
    moved = [(x + around, y + around) for x, y in points]
    large = labelme(
        folder / "large.json",
        drawn("box", moved),
        imageWidth=WIDTH + 2 * around,
        imageHeight=HEIGHT + 2 * around,
    )
    expected = read_mask(large, DATA)[around:-around, around:-around]
    small = labelme(folder / "small.json", drawn("box", points))
    exported = cvat(folder / "annotations.xml", polygon_of(points, label="box"))
    left, top, right, bottom = shapes.Polygon("box", np.array(points)).box
    for path in (small, exported):
        if right <= 0 or bottom <= 0 or left >= WIDTH or top >= HEIGHT:
            assert not expected.any()
            with pytest.raises(DataError, match=r"\('box'\): lies outside of the image, which is"):
                read_mask(path, DATA)
        else:
            np.testing.assert_array_equal(read_mask(path, DATA), expected)


def test_boxes_cover_whole_pixels_and_neighbours_share_none(tmp_path: Path) -> None:
    path = labelme(
        tmp_path / "a.json",
        drawn("disc", [[2, 1], [7, 4]], "rectangle"),
        drawn("box", [[12, 9], [7, 4]], "rectangle"),  # from corner to corner, either way
    )
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[1:4, 2:7], expected[4:9, 7:12] = 1, 2
    mask = read_mask(path, DATA)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, expected)
    corners = [[2, 1], [7, 1], [7, 4], [2, 4]]
    for kind in ("rectangle", "rotation", "polygon", None):
        other = labelme(tmp_path / "b.json", drawn("disc", corners, kind))
        np.testing.assert_array_equal(read_mask(other, DATA), np.where(expected == 1, 1, 0))
    boxes = [element("box", xtl=2, ytl=1, xbr=7, ybr=4)]
    boxes.append(element("box", "box", xtl=7, ytl=4, xbr=12, ybr=9, rotation=180))
    exported = cvat(tmp_path / "annotations.xml", *boxes)
    np.testing.assert_array_equal(read_mask(exported, DATA), expected)


def test_boxes_are_turned_clockwise(tmp_path: Path) -> None:
    """By 90 degrees a lying box stands; by 30 its right end sinks."""
    lying = {"xtl": 2, "ytl": 4, "xbr": 10, "ybr": 6}
    path = cvat(tmp_path / "annotations.xml", element("box", **lying, rotation=90))
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[1:9, 5:7] = 1
    np.testing.assert_array_equal(read_mask(path, DATA), expected)
    path = cvat(tmp_path / "other.xml", element("box", **lying, rotation=30))
    rows, columns = np.nonzero(read_mask(path, DATA))
    assert np.corrcoef(rows, columns)[0, 1] > 0.5


def test_circles_and_ellipses(tmp_path: Path) -> None:
    size = {"imageWidth": 80, "imageHeight": 60}
    rows, columns = np.mgrid[:60, :80] + 0.5
    path = labelme(tmp_path / "a.json", drawn("disc", [[30, 20], [42, 36]], "circle"), **size)
    expected = np.hypot(columns - 30, rows - 20) < 20  # 12, 16, 20
    assert abs(int(read_mask(path, DATA).sum()) - math.pi * 400) < 20
    assert np.count_nonzero(read_mask(path, DATA) != expected) <= 4
    path = cvat(
        tmp_path / "annotations.xml",
        element("ellipse", cx=40, cy=30, rx=10, ry=25, rotation=90),
        size='width="80" height="60"',
    )
    expected = ((columns - 40) / 25) ** 2 + ((rows - 30) / 10) ** 2 < 1
    assert np.count_nonzero(read_mask(path, DATA) != expected) <= 4


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(1, 5), st.integers(-5, 11), st.integers(-4, 8))
def test_masks_of_pixels_are_kept(
    tmp_path_factory: pytest.TempPathFactory,
    source: st.DataObject,
    width: int,
    height: int,
    left: int,
    top: int,
) -> None:
    """Runs over rows in CVAT, a PNG in labelme; what reaches out of the image is cut off."""
    count = width * height
    flat = source.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    inside = np.array(flat).reshape(height, width)
    runs, value = [0], False
    for pixel in flat:
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    folder = tmp_path_factory.mktemp("masks")
    rle = ", ".join(map(str, runs))
    box = {"left": left, "top": top, "width": width, "height": height}
    exported = cvat(folder / "annotations.xml", element("mask", "box", rle=rle, **box))
    encoded = cv2.imencode(".png", inside.astype(np.uint8) * 255)[1].tobytes()
    corners = [[left, top], [left + width - 1, top + height - 1]]
    text = base64.b64encode(encoded).decode()
    written = labelme(folder / "a.json", drawn("box", corners, "mask", mask=text))
    around = 12
    large = np.zeros((HEIGHT + 2 * around, WIDTH + 2 * around), int)
    place = large[top + around : top + around + height, left + around : left + around + width]
    place[inside] = 2
    expected = large[around:-around, around:-around]
    for path in (exported, written):
        if left + width <= 0 or top + height <= 0 or left >= WIDTH or top >= HEIGHT:
            with pytest.raises(DataError, match="lies outside of the image"):
                read_mask(path, DATA)
        else:
            np.testing.assert_array_equal(read_mask(path, DATA), expected)


def test_later_shapes_lie_on_top_and_cvat_has_an_order(tmp_path: Path) -> None:
    square = [(0, 0), (4, 0), (4, 4), (0, 4)]
    path = labelme(tmp_path / "a.json", drawn("disc", square), drawn("box", square))
    assert read_mask(path, DATA)[0, 0] == 2
    first, second = polygon_of(square, z_order=1), polygon_of(square, label="box", z_order=0)
    path = cvat(tmp_path / "annotations.xml", first, second)
    assert read_mask(path, DATA)[0, 0] == 1
    path = cvat(tmp_path / "other.xml", polygon_of(square), polygon_of(square, label="box"))
    assert read_mask(path, DATA)[0, 0] == 2


def test_what_no_shape_covers_is_background_or_ignored(tmp_path: Path) -> None:
    square = [(0, 0), (4, 0), (4, 4), (0, 4)]
    hole = [(1, 1), (2, 1), (2, 2), (1, 2)]
    path = labelme(tmp_path / "a.json", drawn("box", square), drawn("__ignore__", hole))
    mask = read_mask(path, DATA)
    assert (mask[0, 0], mask[1, 1], mask[8, 8]) == (2, 255, 0)
    mask = read_mask(path, DataConfig("x", classes=("box", "_Background_")))
    assert (mask[0, 0], mask[1, 1], mask[8, 8]) == (0, 255, 1)
    mask = read_mask(path, DataConfig("x", classes=("box", "disc"), ignore_index=300))
    assert (mask[0, 0], mask[1, 1], mask[8, 8]) == (0, 300, 300)
    mask = read_mask(path, DataConfig("x", classes=("box", "__ignore__")))
    assert mask[1, 1] == 1  # the config says that it is a class


def test_shapes_without_area_are_left_out(tmp_path: Path) -> None:
    flat = [drawn("a", [[1, 1]], "point"), drawn("b", [[1, 1], [2, 3]], "line")]
    assert not read_mask(labelme(tmp_path / "a.json", *flat), DATA).any()
    tags = [element("tag", "seen"), element("points", "x", points="1,1"), "<skeleton/>"]
    assert not read_mask(cvat(tmp_path / "annotations.xml", *tags), DATA).any()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (drawn("disk", SQUARE), r"shape 1 \('disk'\): the label is not .* \(did you mean 'disc'"),
        (drawn("x", SQUARE), r"the label is not among data\.classes \(known: background, box"),
        (drawn("box", SQUARE[:2]), r"shape 1 \('box'\): a polygon of 2 points, expected 3 points"),
        (drawn("box", SQUARE[:1], "circle"), r"a circle of 1 points, expected 2 points"),
        (drawn("box", []), r"a polygon of 0 points"),
        (drawn("box", None), r"points: expected pairs of numbers, got 'None'"),
        (drawn("box", [[1, 2, 3]] * 3), r"points: expected pairs of numbers, got '\[1, 2, 3\]'"),
        (drawn("box", [["1", 2]] * 3), r"points: expected numbers up to a million, got '1'"),
        (drawn("box", [[True, 2]] * 3), r"expected numbers up to a million, got 'True'"),
        (drawn("box", [[math.nan, 2]] * 3), r"expected numbers up to a million, got 'nan'"),
        (drawn("box", [[1, -math.inf]] * 3), r"expected numbers up to a million, got '-inf'"),
        (drawn("box", [[1, 10**400]] * 3), r"expected numbers up to a million, got '1000"),
        (drawn("box", [[20, 1], [30, 1], [30, 5]]), r"lies outside .* 12x9: from \(20, 1\) to"),
        (drawn("box", SQUARE, "star"), r"shape_type: expected one of polygon, .* got 'star'"),
        (drawn("box", SQUARE, {"a": 1}), r"shape_type: expected one of"),
        (drawn("box", SQUARE[:2], "mask"), r"mask: expected a PNG file in base64, got 'None'"),
        (drawn("box", SQUARE[:2], "mask", mask="@"), r"expected a PNG file in base64, got '@'"),
        (drawn("box", SQUARE[:2], "mask", mask="AAAA"), r"expected a PNG file in base64"),
        ({"points": SQUARE}, r"shape 1: expected a 'label' and 'points', got"),
        ({"label": 3, "points": SQUARE}, r"shape 1: expected a 'label' and 'points', got"),
        ("text", r"shape 1: expected a 'label' and 'points', got 'text'"),
    ],
)
def test_bad_shapes_of_labelme_are_named(tmp_path: Path, entry: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_mask(labelme(tmp_path / "a.json", entry), DATA)
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: shape 1")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("size", [200_000, 30_000])
def test_pixels_of_a_size_that_nobody_drew_are_refused(tmp_path: Path, size: int) -> None:
    """A PNG of a few bytes that says it has 900 million pixels, an image of as many, runs."""
    text = base64.b64encode(png(size, size)).decode()
    entry = drawn("box", SQUARE[:2], "mask", mask=text)
    with pytest.raises(DataError, match=rf"mask: the image is {size}x{size}; expected"):
        read_mask(labelme(tmp_path / "a.json", entry), DATA)
    path = labelme(tmp_path / "b.json", imageWidth=size, imageHeight=size)
    with pytest.raises(DataError, match=rf"b\.json: the image is {size}x{size}; expected"):
        read_mask(path, DATA)
    box = {"left": 0, "top": 0, "width": size, "height": size}
    path = cvat(tmp_path / "annotations.xml", element("mask", rle=f"0,{size * size}", **box))
    with pytest.raises(DataError, match=rf"the image is {size}x{size}; expected"):
        read_mask(path, DATA)


def test_a_polygon_that_nobody_drew_is_refused(tmp_path: Path) -> None:
    zigzag = np.array([(0.0, 0.0), (1.0, 30_000.0)] * 300)
    path = labelme(tmp_path / "a.json", drawn("box", zigzag.tolist()), imageHeight=30_000)
    with pytest.raises(
        DataError, match=r"a\.json: shape 1 .* of 600 points crosses 18,000,000 rows"
    ):
        read_mask(path, DATA)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"a\.json: not JSON: .* at line 1, column 2"),
        ("[" * 100_000, r"a\.json: not JSON that can be read: nested too deep"),
        ("[]", r"a\.json: expected labelme's JSON, with a list of 'shapes'"),
        ('{"shapes": {}}', r"a\.json: expected labelme's JSON"),
        ('{"shapes": []}', r"imageWidth: expected a whole number from 1 on, got 'None'"),
        ('{"shapes": [], "imageWidth": 0}', r"imageWidth: expected a whole number from 1"),
        ('{"shapes": [], "imageWidth": 9.5}', r"imageWidth: expected a whole number .* '9\.5'"),
        ('{"shapes": [], "imageWidth": 9, "imageHeight": true}', r"imageHeight: .* got 'True'"),
    ],
)
def test_bad_files_of_labelme_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_mask(str(tmp_path / "a.json"), DATA)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.dictionaries(st.sampled_from(["label", "points", "shape_type", "mask"]), inside)
    ),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {"label": st.sampled_from(["disc", "box"]) | JSON, "points": POINTS.map(list) | JSON},
    optional={
        "shape_type": st.sampled_from(["circle", "mask", "rectangle", "line"]) | JSON,
        "mask": JSON,
    },
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ENTRY | JSON, max_size=3), st.just(WIDTH) | JSON)
def test_any_json_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Any], width: Any
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.json"
    try:
        mask = read_mask(labelme(path, *entries, imageWidth=width), DATA)
    except DataError as error:
        told = str(error)
    else:
        assert mask.shape == (HEIGHT, width)
        assert mask.max() <= 2
        return
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
