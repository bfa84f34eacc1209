"""Where JPEG and PNG files end, and which files in a folder are images."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataError
from core.training.image_files import (
    declared_size,
    is_whole,
    list_class_folders,
    list_image_files,
)
from tests.networks.image_bytes import encoded, png

JPEGS = [
    encoded(".jpg"),
    encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    encoded(".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*JPEGS, encoded(".png")]), st.binary(max_size=60), st.data())
def test_what_follows_an_image_does_not_matter(
    content: bytes, trailer: bytes, data: st.DataObject
) -> None:
    assert is_whole(content + trailer)
    assert is_whole(content + trailer + b"\xff\xda" + trailer)  # of a phone's video
    # cut off anywhere, even with a thumbnail's marks inside, an image is not whole
    cut = data.draw(st.integers(30, len(content) - 2))
    assert not is_whole(content[:cut])
    assert declared_size(content) == (40, 24)


def test_a_thumbnail_is_not_the_end() -> None:
    thumbnail = b"\xff\xd8\xff\xda\0\2ab\xff\xd9"
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    content = JPEGS[0][:2] + segment + JPEGS[0][2:]
    assert is_whole(content)
    assert declared_size(content) == (40, 24)
    assert not is_whole(content[:-20])


@given(st.binary(max_size=200), st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b""]))
def test_any_bytes_can_be_asked(content: bytes, start: bytes) -> None:
    is_whole(start + content)
    declared_size(start + content)


def test_other_kinds_count_as_whole() -> None:
    assert is_whole(encoded(".bmp")[:100])
    assert declared_size(encoded(".bmp")) is None
    assert declared_size(png(200_000, 3)) == (200_000, 3)


def test_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    names = ["b/1.png", "b/deeper/2.JPG", "a.jpeg"]
    clutter = [".ipynb_checkpoints/1.png", "b/.ipynb_checkpoints/1.png", "__MACOSX/._1.png"]
    clutter += ["b/._1.png", "@eaDir/1.jpg", ".hidden.png", "notes.txt"]
    for name in (*names, *clutter):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = [file.relative_to(tmp_path).as_posix() for file in list_image_files(tmp_path)]
    assert found == sorted(names)
    assert list_class_folders(tmp_path) == ["b"]


def test_folders_that_cannot_be_listed() -> None:
    for name in ("none", "a\0b", "\ud800"):
        with pytest.raises(DataError, match="cannot be"):
            list_class_folders(Path(name))
        with pytest.raises(DataError, match="cannot be"):
            list_image_files(Path(name))


def test_names_of_classes_are_text(tmp_path: Path) -> None:
    for name in ("Bär", "猫", "a\nb"):
        (tmp_path / name).mkdir()
    assert list_class_folders(tmp_path) == sorted(["Bär", "猫", "a\nb"])
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(DataError, match=r": '\\udcff' is no name in UTF-8; rename the folder$"):
        list_class_folders(tmp_path)


def test_pictures_of_kinds_that_are_not_read_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jpg", "b.HEIC", "c.gif", "d.gif", ".e.gif", "f.mp4", "notes.txt"):
        (tmp_path / name).touch()
    assert list_image_files(tmp_path) == [tmp_path / "a.jpg"]
    told = "3 pictures are left out, as .gif, .heic files are not read; convert them"
    assert f"{tmp_path}: {told}" in caplog.messages
    assert f"{tmp_path}: videos left out: 1; tools/predict.py takes one at a time" in (
        caplog.messages
    )
