"""Images and masks as tools leave them, without a word in the config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from core.errors import DataError
from core.settings.config import merge, read
from core.training.image_files import list_image_files
from tasks.seg import own_data
from tasks.seg.config import Config, DataConfig
from tasks.seg.data import SegDataset, read_pairs
from tasks.seg.label_maps import find_label_map, read_colors
from tasks.seg.labels import read_mask
from tasks.seg.layouts import find_layout

SIZE = (40, 64)  # height, width
COLORS = {"ground": (0, 0, 0), "disc": (200, 0, 0), "box": (0, 0, 220)}
MAP = "".join(f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in COLORS.items())


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    cv2.imwrite(str(path), image)


def numbers(seed: int = 0, classes: int = 3) -> np.ndarray:
    mask = np.random.default_rng(seed).integers(0, classes, SIZE).astype(np.uint8)
    mask[0, :classes] = range(classes)
    return mask


def save_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), mask if mask.ndim == 2 else mask[..., ::-1])


def colored(mask: np.ndarray) -> np.ndarray:
    return np.array(list(COLORS.values()), np.uint8)[mask]


def pairs(root: Path, images: str, masks: str, count: int = 5, end: str = "") -> None:
    for index in range(count):
        picture(root / images / f"{index}.jpg", index)
        save_mask(root / masks / f"{index}{end}.png", numbers(index))


def found_in(root: Path, **data: Any) -> dict[str, Any]:
    return own_data.from_data({"data": {"root": str(root), **data}})


def config_of(root: Path, **data: Any) -> Config:
    given = {"data": {"root": str(root), "num_workers": 0, **data}}
    found = {k: v for k, v in own_data.from_data(given).items() if k != "train"}
    return read(Config, merge(found, given))


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


def save_shapes(path: Path, *labels: str, kind: str = "polygon") -> None:
    """Write labelme's file: a square of 8 pixels for each label, side by side."""
    corners = [(0, 0), (8, 0), (8, 8), (0, 8)]
    drawn = [
        {"label": label, "shape_type": kind, "points": [(x + 8 * n, y) for x, y in corners]}
        for n, label in enumerate(labels)
    ]
    content = {"shapes": drawn, "imageWidth": SIZE[1], "imageHeight": SIZE[0], "imageData": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def save_export(path: Path, labels: Sequence[str], *names: str, subset: str = "") -> None:
    """Write CVAT's export: a square of 8 pixels of the last label on each image."""
    listed = "".join(f"<label><name>{label}</name></label>" for label in labels)
    box = f'<box label="{labels[-1]}" xtl="0" ytl="0" xbr="8" ybr="8"/>'
    size = f'width="{SIZE[1]}" height="{SIZE[0]}" subset="{subset}"'
    images = "".join(f'<image name="{name}" {size}>{box}</image>' for name in names)
    meta = f"<meta><task><labels>{listed}</labels></task></meta>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotations>{meta}{images}</annotations>")


@pytest.mark.parametrize(
    ("folders", "counts"),
    [
        ([(".", ".")], (4, 1)),
        ([("street", "street")], (4, 1)),
        ([("images", "labels")], (4, 1)),
        ([("imgs", "json")], (4, 1)),
        ([("train", "train"), ("val", "val")], (5, 5)),
        ([("train/images", "train/annotations"), ("test/images", "test/annotations")], (5, 5)),
        ([("images/train", "labels/train"), ("images/val", "labels/val")], (5, 5)),
    ],
)
def test_labelme_beside_images_and_in_folders_of_their_own(
    tmp_path: Path, folders: list[tuple[str, str]], counts: tuple[int, int]
) -> None:
    for number, (images, labels) in enumerate(folders):
        for index in range(5):
            picture(tmp_path / images / f"{index}.v1.JPG", index)
            label = "rare" if number or index == 3 else "cat"  # in one file, or in one split
            save_shapes(tmp_path / labels / f"{index}.v1.json", "dog", label)
    config = config_of(tmp_path)
    train, val = (read_pairs(config.data, split) for split in ("train", "val"))
    assert (len(train), len(val)) == counts
    assert all(image.stem == label.stem for image, label in train + val)
    assert config.data.classes == ("background", "cat", "dog", "rare")
    mask = read_mask(str(train[0][1]), config.data)
    assert (mask[7, 7], mask[7, 8], mask[8, 8]) == (2, 1 if train[0][1].stem[0] != "3" else 3, 0)
    sample = SegDataset(config, "train").sample(0, np.random.default_rng(0))
    assert sample["image"].shape == (3, 32, 64)
    assert [each.picture.shape for each in own_data.labelled(config, 2)] == [(*SIZE, 3)] * 2


def test_what_is_drawn_is_counted_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    for index in range(4):
        picture(tmp_path / f"{index}.jpg", index)
        save_shapes(tmp_path / f"{index}.json", "dog", "cat", "dog")
    save_shapes(tmp_path / "3.json", "nose", kind="line")
    picture(tmp_path / "new.jpg")
    save_shapes(tmp_path / "gone.json", "dog")
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert found.layout == "labelme's JSON files beside their images"
    assert "3 classes: background, cat, dog; shapes: dog (6), cat (3)" in found.found
    assert "left out: 1 images without mask (new.jpg)" in found.missing
    assert "left out: 1 masks without image (gone.json)" in found.missing
    assert "left out: shapes without area (1 line)" in found.missing
    (tmp_path / "3.json").write_text("{")
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert f"cannot be read: {tmp_path / '3.json'}: not JSON" in "".join(found.missing)


def test_labels_that_are_no_classes_are_named_before_training(tmp_path: Path) -> None:
    for index in range(4):
        picture(tmp_path / f"{index}.jpg", index)
        save_shapes(tmp_path / f"{index}.json", "dog", "dgo" if index == 2 else "cat")
    assert config_of(tmp_path).data.classes == ("background", "cat", "dgo", "dog")
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncat\ndog\n")
    wanted = r"2\.json: the label 'dgo' \(1 shapes in all\) is not among .* \(did you mean 'dog'"
    with pytest.raises(DataError, match=wanted):
        found_in(tmp_path)
    with pytest.raises(DataError, match=wanted):
        found_in(tmp_path, classes=["dog", "cat"])
    save_shapes(tmp_path / "2.json", "dog", "__ignore__")
    assert config_of(tmp_path).data.classes == ("_background_", "cat", "dog")
    config = config_of(tmp_path, classes=["dog", "cat"])
    assert config.model.num_classes == 2
    assert read_mask(str(tmp_path / "0.json"), config.data)[-1, -1] == 255


def test_nothing_drawn_or_one_class_is_told(tmp_path: Path) -> None:
    for index in range(2):
        picture(tmp_path / f"{index}.jpg", index)
        save_shapes(tmp_path / f"{index}.json")
    with pytest.raises(DataError, match=r"no shape with an area was drawn"):
        found_in(tmp_path)
    save_shapes(tmp_path / "0.json", "background")
    with pytest.raises(DataError, match=r"one class only: background"):
        found_in(tmp_path)


@pytest.mark.parametrize(
    ("folder", "names", "subset"),
    [
        ("images", ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"], ""),
        (".", ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"], ""),
        ("images/a/b", [f"a/b/{n}.jpg" for n in range(5)], ""),
        ("images/street", [f"{n}.jpg" for n in range(5)], "street"),
        ("pictures", [f"{n}.jpg" for n in range(5)], "street"),
        ("images", [f"cloud/{n}.jpg" for n in range(5)], ""),
    ],
)
def test_images_of_cvat_are_found_by_their_names(
    tmp_path: Path, folder: str, names: list[str], subset: str
) -> None:
    for index in range(5):
        picture(tmp_path / folder / f"{index}.jpg", index)
    file = tmp_path / "annotations.xml"
    save_export(file, ["sky", "dog"], *names, subset=subset)
    config = config_of(tmp_path)
    assert config.data.classes == ("background", "sky", "dog")
    both = [read_pairs(config.data, split) for split in ("train", "val")]
    assert list(map(len, both)) == [4, 1]
    assert {label for _, label in both[0] + both[1]} == {file / subset / name for name in names}
    image, label = both[0][0]
    assert image.name == label.name
    mask = read_mask(str(label), config.data)
    assert (mask[7, 7], mask[8, 8]) == (2, 0)
    lists = own_data.write_lists(config, tmp_path / "lists")
    again = read(DataConfig, {"root": str(tmp_path), **lists})
    assert [read_pairs(again, split) for split in ("train", "val")] == both
    given = {"data": {"root": str(tmp_path), **lists}, "model": {"num_classes": 3}}
    assert own_data.from_data(given)["data"]["classes"] == ["background", "sky", "dog"]


def test_subsets_of_a_project_are_its_splits(tmp_path: Path) -> None:
    """Tasks of a project may have images of the same names; two in one subset are refused."""
    file = tmp_path / "annotations.xml"
    texts = []
    for subset, label in (("Train", "sky"), ("Validation", "dog")):
        picture(tmp_path / "images" / subset / "0.jpg")
        save_export(file, ["sky", label], "0.jpg", subset=subset)
        texts.append(file.read_text())
    file.write_text("".join(texts).replace("</annotations><annotations>", ""))
    config = config_of(tmp_path)
    for split, subset, label in (("train", "Train", 1), ("val", "Validation", 2)):
        pairs = read_pairs(config.data, split)
        assert pairs == [(tmp_path / "images" / subset / "0.jpg", file / subset / "0.jpg")]
        assert read_mask(str(pairs[0][1]), config.data)[0, 0] == label
    file.write_text(file.read_text().replace("Validation", "Train"))
    with pytest.raises(DataError, match=r"annotations\.xml: has two images with the name 'Train/0"):
        found_in(tmp_path)


def test_exports_for_each_split(tmp_path: Path) -> None:
    for split, labels in (("train", ["sky", "dog"]), ("val", ["sky", "dog", "cat"])):
        picture(tmp_path / split / "images" / "0.jpg")
        save_export(tmp_path / split / "annotations.xml", labels, "0.jpg")
    config = config_of(tmp_path)
    assert config.data.classes == ("background", "sky", "dog", "cat")
    assert read_pairs(config.data, "val")[0][0] == tmp_path / "val" / "images" / "0.jpg"


def test_images_of_cvat_that_are_missing_or_not_drawn_on_are_told(tmp_path: Path) -> None:
    for name in ("a/0.jpg", "b/0.jpg", "1.jpg", "2.jpg", "3.jpg"):
        picture(tmp_path / "images" / name)
    save_export(tmp_path / "annotations.xml", ["dog"], "1.jpg", "2.jpg", "9.jpg", "c/0.jpg")
    text = (tmp_path / "annotations.xml").read_text()
    empty = f'<image name="3.jpg" width="{SIZE[1]}" height="{SIZE[0]}"></image></annotations>'
    (tmp_path / "annotations.xml").write_text(text.replace("</annotations>", empty))
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert "an export of CVAT for images (annotations.xml; images in images)" in found.layout
    assert "left out: 3 images without mask (3.jpg, 0.jpg, 0.jpg)" in found.missing
    assert "left out: 2 masks without image (9.jpg, 0.jpg)" in found.missing
    for path in list_image_files(tmp_path):
        path.unlink()
    with pytest.raises(DataError, match=r"no image with a mask of the same name in .*s\.xml"):
        found_in(tmp_path)


def test_json_of_others_is_no_segmentation(tmp_path: Path) -> None:
    """A COCO file, and a file with what a camera says for each image of a class."""
    for index in range(3):
        picture(tmp_path / "dogs" / f"{index}.jpg")
        (tmp_path / "dogs" / f"{index}.json").write_text('{"shutter": 0.01}')
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances.json").write_text('{"images": [], "shapes": []}')
    assert find_layout(DataConfig(str(tmp_path))).kind == "none"


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
    assert [each.picture.shape for each in drawn] == [(*SIZE, 3)] * 2
