"""Images and masks as tools leave them, without a word in the config."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.errors import DataError
from core.settings.config import read
from tasks.seg import own_data
from tasks.seg.config import DataConfig
from tasks.seg.data import SegDataset, read_pairs
from tasks.seg.label_maps import find_label_map, read_colors
from tasks.seg.labels import read_mask
from tasks.seg.layouts import find_layout
from tests.tasks.seg_folders import (
    COLORS,
    MAP,
    SIZE,
    colored,
    config_of,
    found_in,
    numbers,
    pairs,
    picture,
    save_mask,
)


@pytest.mark.parametrize(
    ("folders", "counts"),
    [
        ([("images", "masks")], (4, 1)),
        ([("img", "labels")], (4, 1)),
        ([("JPEGImages", "SegmentationClassPNG")], (4, 1)),
        ([("default", "defaultannot")], (4, 1)),
        ([("images/train", "masks/train"), ("images/val", "masks/val")], (5, 5)),
        ([("train/images", "train/masks"), ("valid/images", "valid/masks")], (5, 5)),
        ([("train", "trainannot"), ("val", "valannot")], (5, 5)),
        ([("train", "train_labels"), ("test", "test_labels")], (5, 5)),
        ([("Images", "Masks")], (4, 1)),
        ([("Train/Images", "Train/GT"), ("Test/Images", "Test/GT")], (5, 5)),
        ([("images/Train", "masks/Train"), ("images/Val", "masks/Val")], (5, 5)),
        ([("Train", "Train_labels"), ("Test", "Test_labels")], (5, 5)),
    ],
)
def test_folders_of_matching_names(
    tmp_path: Path, folders: list[tuple[str, str]], counts: tuple[int, int]
) -> None:
    for images, masks in folders:
        pairs(tmp_path, images, masks)
    config = config_of(tmp_path)
    train, val = (read_pairs(config.data, split) for split in ("train", "val"))
    assert (len(train), len(val)) == counts
    assert not {image for image, _ in train} & {image for image, _ in val}
    assert all(image.stem == mask.stem for image, mask in train + val)
    assert config.model.num_classes == 3
    sample = SegDataset(config, "train").sample(0, np.random.default_rng(0))
    assert sample["image"].shape == (3, 32, 64)  # multiples of 32


@pytest.mark.parametrize("end", ["_mask", "-label", "_labelIds", "_gt"])
def test_masks_may_be_named_after_their_images(tmp_path: Path, end: str) -> None:
    pairs(tmp_path, "images", "masks", end=end)
    assert len(read_pairs(DataConfig(str(tmp_path)), "train")) == 4


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (("a.jpg", "a.png"), ("a.png",), r"images/a\.png: has the name of a\.jpg"),
        (("a.jpg", "a.JPG"), ("a.png",), r"images/a\.jpg: has the name of a\.JPG"),
        (("a.jpg",), ("a.png", "a.tif"), r"masks/a\.tif: is a mask for a, and so is a\.png"),
        (
            ("a.jpg",),
            ("a_gt.png", "a_mask.png"),
            r"masks/a_mask\.png: is a mask for a, and so is a_",
        ),
    ],
)
def test_files_that_fit_twice_are_named(
    tmp_path: Path, images: tuple[str, ...], masks: tuple[str, ...], message: str
) -> None:
    for name in (*images, "b.jpg"):
        picture(tmp_path / "images" / name)
    for name in (*masks, "b.png"):
        save_mask(tmp_path / "masks" / name, numbers())
    with pytest.raises(DataError, match=message):
        read_pairs(DataConfig(str(tmp_path)), "train")


def test_a_mask_of_the_very_name_comes_first(tmp_path: Path) -> None:
    pairs(tmp_path, "images", "masks")
    for name in ("1-gt.png", "1_mask.png", "other_gt.png", "other_mask.png"):
        save_mask(tmp_path / "masks" / name, numbers())
    data = DataConfig(str(tmp_path))
    found = [*read_pairs(data, "train"), *read_pairs(data, "val")]
    assert sorted(mask.name for _, mask in found) == [f"{n}.png" for n in range(5)]


@pytest.mark.parametrize("end", ["_mask", "-seg", ""])
@pytest.mark.parametrize("folders", [("",), ("benign", "other"), ("train", "val")])
def test_masks_may_lie_beside_their_images(
    tmp_path: Path, end: str, folders: tuple[str, ...]
) -> None:
    for folder in folders:
        pairs(tmp_path, folder, folder, end=end)
        picture(tmp_path / folder / "lonely.png")
    data = DataConfig(str(tmp_path))
    found = [pair for split in ("train", "val") for pair in read_pairs(data, split)]
    assert len(found) == 5 * len(folders)
    assert {image.suffix for image, _ in found} == {".jpg"}
    assert all(mask == image.with_name(f"{image.stem}{end}.png") for image, mask in found)
    assert config_of(tmp_path).model.num_classes == 3
    told = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert told.layout == "masks beside their images"
    assert "images without mask (" in told.missing[0]


def test_photos_of_equal_names_are_no_masks(tmp_path: Path) -> None:
    for index in range(4):
        picture(tmp_path / "ant" / f"{index}.jpg", index)
        picture(tmp_path / "ant" / f"{index}.png", 9 + index)
    picture(tmp_path / "bee" / "0_mask.png")  # of no image
    assert find_layout(DataConfig(str(tmp_path))).kind == "none"
    for index in range(4):
        save_mask(tmp_path / "ant" / f"{index}_gt.png", numbers())
    assert find_layout(DataConfig(str(tmp_path))).kind == "one"


def test_voc_has_lists_of_its_own(tmp_path: Path) -> None:
    pairs(tmp_path, "JPEGImages", "SegmentationClass", 6)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("4\n1\n")
    (lists / "val.txt").write_text("0\n")
    data = DataConfig(str(tmp_path))
    assert [image.stem for image, _ in read_pairs(data, "train")] == ["4", "1"]
    assert [image.stem for image, _ in read_pairs(data, "val")] == ["0"]
    (lists / "val.txt").write_text("7\n")
    with pytest.raises(DataError, match=r"JPEGImages/7: listed, but there is no such file"):
        read_pairs(data, "val")
    (lists / "val.txt").unlink()
    (lists / "train.txt").rename(lists / "default.txt")  # as CVAT calls it
    stems = [image.stem for split in ("train", "val") for image, _ in read_pairs(data, split)]
    assert sorted(stems) == ["1", "4"]


def test_images_without_masks_are_left_out_and_told(tmp_path: Path) -> None:
    pairs(tmp_path, "images", "masks")
    picture(tmp_path / "images" / "extra.jpg")
    save_mask(tmp_path / "masks" / "other.png", numbers())
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert "left out: 1 images without mask (extra.jpg)" in found.missing
    assert "left out: 1 masks without image (other.png)" in found.missing
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(DataError, match=r"no image with a mask of the same name in .*masks"):
        found_in(tmp_path)


def test_colours_become_classes(tmp_path: Path) -> None:
    for index in range(5):
        picture(tmp_path / "images" / f"{index}.jpg", index)
        save_mask(tmp_path / "masks" / f"{index}.png", colored(numbers(index)))
    with pytest.raises(
        DataError, match=r"in colours \(0,0,0, 0,0,220, 200,0,0\), and no label map"
    ):
        found_in(tmp_path)
    (tmp_path / "labelmap.txt").write_text(f"# label:color_rgb:parts:actions\n{MAP}")
    config = config_of(tmp_path)
    assert config.data.classes == ("ground", "disc", "box")
    assert config.data.colors == tuple(COLORS.values())
    for index in range(5):
        mask = read_mask(str(tmp_path / "masks" / f"{index}.png"), config.data)
        np.testing.assert_array_equal(mask, numbers(index))
    (tmp_path / "labelmap.txt").write_text(MAP.replace("box:0,0,220", "void:0,0,220"))
    config = config_of(tmp_path)
    mask = read_mask(str(tmp_path / "masks" / "0.png"), config.data)
    np.testing.assert_array_equal(mask, np.where(numbers() == 2, 255, numbers()))
    (tmp_path / "labelmap.txt").write_text(MAP.replace("box:0,0,220", "box:0,0,221"))
    with pytest.raises(DataError, match=r"has no line for the colours 0,0,220, which occur"):
        found_in(tmp_path)
    save_mask(tmp_path / "masks" / "0.png", np.full((*SIZE, 3), 7, np.uint8))
    with pytest.raises(DataError, match=r"0\.png: the colour \[7, 7, 7\] of 2560 pixels"):
        read_mask(str(tmp_path / "masks" / "0.png"), config.data)


def test_palettes_hold_numbers_or_colours(tmp_path: Path) -> None:
    """Of labelme's script with the names of the classes, of CVAT with a label map."""
    for index in range(5):
        picture(tmp_path / "JPEGImages" / f"{index}.jpg", index)
        mask = Image.fromarray(numbers(index)).convert("P")
        mask.putpalette([value for color in COLORS.values() for value in color])
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        mask.save(tmp_path / "SegmentationClass" / f"{index}.png")
    (tmp_path / "class_names.txt").write_text("__ignore__\n_background_\ndisc\nbox\n")
    config = config_of(tmp_path)
    assert config.data.classes == ("_background_", "disc", "box")
    assert config.data.colors == ()
    (tmp_path / "labelmap.txt").write_text(MAP)
    other = config_of(tmp_path)
    assert other.data.classes == ("ground", "disc", "box")
    path = str(tmp_path / "SegmentationClass" / "3.png")
    for each in (config, other):
        np.testing.assert_array_equal(read_mask(path, each.data), numbers(3))


def test_black_and_white_are_background_and_foreground(tmp_path: Path) -> None:
    for index, channels in enumerate((1, 3, 1, 3)):
        picture(tmp_path / "images" / f"{index}.jpg")
        mask = numbers(index, 2) * 255
        save_mask(tmp_path / "masks" / f"{index}.png", np.repeat(mask[..., None], channels, 2))
    config = config_of(tmp_path)
    assert config.data.classes == ("background", "foreground")
    for index in range(4):
        mask = read_mask(str(tmp_path / "masks" / f"{index}.png"), config.data)
        np.testing.assert_array_equal(mask, numbers(index, 2))


def test_numbers_in_three_channels_are_numbers(tmp_path: Path) -> None:
    for index in range(3):
        picture(tmp_path / "images" / f"{index}.jpg")
        mask = numbers(index)
        mask[-1, -1] = 255
        save_mask(tmp_path / "masks" / f"{index}.png", np.repeat(mask[..., None], 3, 2))
    config = config_of(tmp_path)
    assert config.model.num_classes == 3
    mask = read_mask(str(tmp_path / "masks" / "1.png"), config.data)
    assert mask[-1, -1] == 255
    np.testing.assert_array_equal(mask[:-1], numbers(1)[:-1])


def test_masks_as_jpeg_are_refused(tmp_path: Path) -> None:
    for index in range(2):
        picture(tmp_path / "images" / f"{index}.jpg", index)
        picture(tmp_path / "masks" / f"{index}.jpg", index)
    with pytest.raises(DataError, match=r"\d+ colours, as pictures and masks saved as JPEG have"):
        found_in(tmp_path)


@pytest.mark.parametrize(("end", "sharp"), [(".jpg", False), (".png", False), (".jpg", True)])
def test_black_and_white_may_have_soft_edges(tmp_path: Path, end: str, sharp: bool) -> None:
    for index in range(3):
        picture(tmp_path / "images" / f"{index}.jpg", index)
        mask = np.zeros((320, 512), np.uint8)
        cv2.circle(mask, (250, 150), 100 + index, 255, -1)
        small = cv2.resize(mask, SIZE[::-1], interpolation=cv2.INTER_AREA)
        small = np.where(small >= 128, 255, 0).astype(np.uint8) if sharp else small
        save_mask(tmp_path / "masks" / f"{index}{end}", small)
    config = config_of(tmp_path)
    assert config.data.nearest_color
    assert config.class_names == ("background", "foreground")
    last = str(tmp_path / "masks" / f"2{end}")
    kept = cv2.imread(last, cv2.IMREAD_GRAYSCALE) >= 128
    np.testing.assert_array_equal(read_mask(last, config.data), kept)
    assert np.mean(kept != (small >= 128)) < 0.01
    (told,) = own_data.inspect({"data": {"root": str(tmp_path)}}).found[-1:]
    assert told.endswith("masks are black and white with soft edges: below 128 is background")


def test_numbers_as_jpeg_are_refused(tmp_path: Path) -> None:
    for index in range(2):
        picture(tmp_path / "images" / f"{index}.jpg", index)
        save_mask(tmp_path / "masks" / f"{index}.jpg", numbers(index, 40))
    with pytest.raises(DataError, match=r"\.jpg: JPEG files do not keep the numbers of masks"):
        found_in(tmp_path)


def test_colours_as_jpeg_are_read_as_the_nearest_if_so_wanted(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[:16, :32], mask[16:, 32:] = 1, 2  # blocks of JPEG, so all edges stay
    for index in range(2):
        picture(tmp_path / "images" / f"{index}.jpg", index)
        save_mask(tmp_path / "masks" / f"{index}.jpg", colored(mask))
    (tmp_path / "labelmap.txt").write_text(MAP)
    with pytest.raises(DataError, match=r"data\.nearest_color: true takes the nearest"):
        found_in(tmp_path)
    config = config_of(tmp_path, nearest_color=True)
    label = read_mask(str(tmp_path / "masks" / "1.jpg"), config.data)
    np.testing.assert_array_equal(label, mask)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:1,2,3::\nthe sky:4,5,6::\n"),
        ("label_colors.txt", "1 2 3 road\n4 5 6 the sky\n"),
        ("class_dict.csv", "name,r,g,b\nroad,1,2,3\nthe sky, 4, 5, 6\n"),
        ("label_colors.txt", "1 2 3\troad\n4 5 6\t\tthe sky\n7 8 9\t\tVoid\n"),
    ],
)
def test_label_maps_of_several_tools(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = find_label_map(tmp_path)
    assert found is not None
    assert found.names == ("road", "the sky")
    assert found.colors == ((1, 2, 3), (4, 5, 6))
    assert found.ignored == (((7, 8, 9),) if "Void" in text else ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:1,2,3\nb:1,2\n", r"labelmap\.txt:2: expected 'name:red,green,blue'.*got 'b:1,2'"),
        ("a:1,2,3\nb:1,2,3\n", r":2: the colour \[1, 2, 3\] is given twice"),
        ("a:1,2,300\nb:1,2,3\n", r":1: expected colours up to 255"),
        ("a:1,2,3\n", r"expected 2 classes or more, got 1"),
    ],
)
def test_broken_label_maps_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labelmap.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_colors(tmp_path / "labelmap.txt")


def test_data_to_measure_on_need_no_training_split(tmp_path: Path) -> None:
    pairs(tmp_path, "p", "m", 2)
    (tmp_path / "val.txt").write_text("p/0.jpg m/0.png\np/1.jpg m/1.png\n")
    config = config_of(tmp_path)
    assert config.model.num_classes == 3
    assert len(read_pairs(config.data, "val")) == 2


def test_what_the_config_says_stays(tmp_path: Path) -> None:
    pairs(tmp_path, "images", "masks")
    given = {"data": {"root": str(tmp_path), "size": [96, 32]}, "model": {"num_classes": 4}}
    found = own_data.from_data(given | {"augment": {"crop": [32, 32]}})
    assert "model" not in found
    assert "augment" not in found
    assert found["data"]["size"] == [96, 32]


def test_lists_of_a_drawn_split_read_the_same(tmp_path: Path) -> None:
    pairs(tmp_path / "data", "my images", "masks")
    (tmp_path / "data" / "my images").rename(tmp_path / "data" / "images")
    picture(tmp_path / "data" / "images" / "with blank.jpg")
    save_mask(tmp_path / "data" / "masks" / "with blank.png", numbers())
    data = DataConfig(str(tmp_path / "data"))
    lists = own_data.write_lists(config_of(tmp_path / "data"), tmp_path / "lists")
    again = read(DataConfig, {"root": data.root, **lists})
    for split in ("train", "val"):
        assert read_pairs(again, split) == read_pairs(data, split)


def test_what_lies_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "shots").mkdir()
    picture(tmp_path / "shots" / "1.jpg")
    (tmp_path / "shots" / "1.json").write_text("{}")
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert not found.sure
    assert "holds folders shots and no files" in found.missing[0]
    assert "the JSON files there are not labelme's" in found.missing[0]


def test_samples_are_tinted(tmp_path: Path) -> None:
    pairs(tmp_path, "images", "masks")
    drawn = own_data.labelled(config_of(tmp_path), 2)
    large = (5 * SIZE[0], 5 * SIZE[1], 3)  # so that the names are read
    assert [each.picture.shape for each in drawn] == [large] * 2
