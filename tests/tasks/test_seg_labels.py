"""Label maps of all kinds of files, and sets of them that teach nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import DataError
from tasks.seg.config import DataConfig
from tasks.seg.labels import check_classes, check_values, read_label
from tests.networks.image_bytes import png

DATA = DataConfig("x")  # ignore_index 255
NAMES = ("ground", "disc", "box")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["uint8", "uint16", "int16", "int32", "uint32", "float32", "float64"]),
    st.lists(st.sampled_from([0, 1, 2, 255]), min_size=4, max_size=4)
    | st.lists(st.integers(-(2**31), 2**33) | st.integers(-3, 300), min_size=4, max_size=4),
)
def test_values_are_kept_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, values: list[int]
) -> None:
    path = tmp_path_factory.mktemp("label") / "x.tif"
    array = np.array(values, np.int64).astype(kind).reshape(2, 2)
    try:
        Image.fromarray(array).save(path)
    except (TypeError, KeyError, OSError):  # no such files
        return
    stored = np.asarray(Image.open(path)).astype(np.float64)
    legal = bool((((stored >= 0) & (stored < 3)) | (stored == 255)).all())
    if legal and array.dtype.kind != "f":
        label = read_label(str(path))
        check_values(label, path, 3, 255)
        np.testing.assert_array_equal(label, stored)
    else:
        with pytest.raises(DataError) as caught:
            check_values(read_label(str(path)), path, 3, 255)
        assert str(caught.value).startswith(f"{path}: ")


def test_negative_values_are_refused() -> None:
    label = np.array([[0, -1]], np.int32)
    with pytest.raises(DataError, match=r"label value -1: expected 0\.\.2"):
        check_values(label, Path("x.tif"), 3, 255)


def test_bytes_behind_the_end_do_not_matter(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for mode in ("L", "P"):
        path = tmp_path / f"{mode}.png"
        image = Image.fromarray(values, mode=mode)
        if mode == "P":
            image.putpalette(list(range(256)) * 3)
        image.save(path)
        path.write_bytes(path.read_bytes() + b"\0" * 500)
        np.testing.assert_array_equal(read_label(str(path)), values)


def test_a_label_map_declared_huge_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(200_000, 200_000))
    with pytest.raises(DataError, match=r"x\.png: the image is 200000x200000"):
        read_label(str(tmp_path / "x.png"))


def write_maps(folder: Path, *maps: list[int]) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(len(maps))]
    for path, values in zip(paths, maps):
        cv2.imwrite(str(path), np.array([values], np.uint8))
    return paths


def test_one_class_beside_ignored_pixels_is_refused(tmp_path: Path) -> None:
    paths = write_maps(tmp_path, *[[0, 0, 255]] * 120)
    with pytest.raises(DataError, match=r"all 120 label maps is of class 'ground' or ignored"):
        check_classes(paths, NAMES[:2], DATA)
    paths = write_maps(tmp_path, [255, 255, 255])
    with pytest.raises(DataError, match=r"every pixel of all 1 label maps is ignored"):
        check_classes(paths, NAMES, DATA)


def test_a_rare_class_is_found_wherever_it_is(tmp_path: Path) -> None:
    paths = write_maps(tmp_path, *[[0, 0, 255]] * 119, [0, 1, 255])
    check_classes(paths, NAMES[:2], DATA)


def test_missing_classes_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    check_classes(write_maps(tmp_path, [0, 1, 2], [255, 0, 0]), NAMES, DATA)
    check_classes(write_maps(tmp_path, [0, 1, 1], [0, 0, 0]), NAMES, DATA)  # little is ignored
    assert not caplog.records
    check_classes(write_maps(tmp_path, [0, 1, 1], [255, 0, 0]), NAMES, DATA)
    texts = [record.getMessage() for record in caplog.records]
    assert "none has the classes box, and 17 % of the pixels are ignored" in texts[0]
    with pytest.raises(DataError, match=r"every pixel of all 1 label maps is of class 'disc': th"):
        check_classes(write_maps(tmp_path, [1, 1, 1]), NAMES, DATA)


def test_broken_maps_wait_for_their_turn(tmp_path: Path) -> None:
    paths = write_maps(tmp_path, [0, 1, 2])
    (tmp_path / "broken.png").write_bytes(b"x")
    check_classes([tmp_path / "broken.png", *paths], NAMES, DATA)


def test_no_flipped_bit_of_a_palette_file_changes_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, (40, 30)).astype(np.uint8)
    image = Image.fromarray(label, "P")
    image.putpalette(rng.integers(0, 256, 768).tolist())
    path = tmp_path / "label.png"
    image.save(path)
    content = path.read_bytes()
    for place in rng.permutation(len(content))[:150]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            found = read_label(str(path))
        except DataError:
            continue
        np.testing.assert_array_equal(found, label)


def test_files_of_several_pages_are_no_label_maps(tmp_path: Path) -> None:
    page = Image.fromarray(np.ones((4, 4), np.uint8))
    page.save(tmp_path / "one.tif")
    np.testing.assert_array_equal(read_label(str(tmp_path / "one.tif")), 1)
    page.save(tmp_path / "two.tif", save_all=True, append_images=[page])
    with pytest.raises(DataError, match=r"two\.tif: holds 2 pages, and a label map is one$"):
        read_label(str(tmp_path / "two.tif"))
