"""Images of phones and strangers: trailers, rotation, sizes, and what is none."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.errors import ConfigError, DataError
from core.training.images import check_channels, read_annotated_image, read_image
from tests.networks.image_bytes import PICTURE, encoded, png

TURNED = 6  # EXIF: a quarter turn
ORIENTATION = 0x112


def write_turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(PICTURE).save(path, exif=exif, quality=95)


def test_a_motion_photo_is_read_like_the_plain_one(tmp_path: Path) -> None:
    content = encoded(".jpg")
    (tmp_path / "plain.jpg").write_bytes(content)
    (tmp_path / "video.jpg").write_bytes(content + b"ftyp" + bytes(range(256)) + b"\xff\xda..")
    (tmp_path / "cut.jpg").write_bytes(content[:-40])
    plain, video = (read_image(str(tmp_path / f"{n}.jpg")) for n in ("plain", "video"))
    np.testing.assert_array_equal(plain, video)
    with pytest.raises(DataError, match=r"cut\.jpg: the JPEG file is truncated"):
        read_image(str(tmp_path / "cut.jpg"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_say_which_way_up_an_image_is(tmp_path: Path, orientation: int) -> None:
    path = str(tmp_path / "a.jpg")
    write_turned(Path(path), orientation)
    seen, shape = read_image(path), PICTURE.shape
    assert seen.shape == (shape if orientation < 5 else (shape[1], shape[0], 3))
    stored = read_annotated_image(path, (40, 24), "its annotation says")
    assert stored.shape == shape
    np.testing.assert_array_equal(stored, read_annotated_image(path, None, ""))
    if orientation >= 5:
        turned = read_annotated_image(path, (24, 40), "its annotation says")
        np.testing.assert_array_equal(turned, seen)
        np.testing.assert_array_equal(np.sort(turned, axis=None), np.sort(stored, axis=None))
    with pytest.raises(DataError, match=r"a\.jpg: the image is 40x24, its annotation says 64x48$"):
        read_annotated_image(path, (64, 48), "its annotation says")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(200_000, 3), r"x\.png: the image is 200000x3; expected sides up to 32766"),
        (png(30_000, 30_000), r"x\.png: the image is 30000x30000; .* 268,435,456 pixels in all"),
        (encoded(".png")[:-30], r"x\.png: the PNG file is damaged or truncated"),
        (encoded(".bmp")[:-30], r"x\.png: not an image that OpenCV can decode"),
        (b"", r"x\.png: not an image"),
        (b"\x89PNG", r"x\.png: not an image"),
        (b"\xff\xd8", r"x\.png: the JPEG file is truncated"),
        (b"II*\0" + b"\xff" * 40, r"x\.png: not an image"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_image(str(path))


@pytest.mark.parametrize("channels", [1, 3])
def test_fractions_are_no_brightness(tmp_path: Path, channels: int) -> None:
    path = str(tmp_path / "x.tif")
    for kind, scale in (("uint8", 1), ("uint16", 257)):
        cv2.imwrite(path, PICTURE.astype(kind) * np.dtype(kind).type(scale))
        np.testing.assert_allclose(read_image(path, channels).mean(), PICTURE.mean(), atol=1)
    for kind in ("float32", "int32"):
        Image.fromarray(PICTURE[..., 0].astype(kind)).save(path)
        with pytest.raises(DataError, match=rf"x\.tif: its pixels are {kind}, expected whole"):
            read_image(path, channels)


def test_a_long_image_is_refused_after_decoding_too(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.bmp"), np.zeros((1, 40_000, 3), np.uint8))
    with pytest.raises(DataError, match=r"x\.bmp: the image is 40000x1"):
        read_image(str(tmp_path / "x.bmp"))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png: cannot be read: a pipe"):
        read_image(str(tmp_path / "x.png"))


def test_networks_take_three_channels() -> None:
    check_channels({"in_channels": 3, "dropout_prob": 1}, "model.options")
    with pytest.raises(
        ConfigError, match=r"^model\.options\.input_image_channel: data\.channels says"
    ):
        check_channels({"input_image_channel": 1}, "model.options")
