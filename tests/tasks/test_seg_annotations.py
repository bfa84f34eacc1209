"""Shapes of labelme and CVAT as data of one's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from core.errors import DataError
from core.settings.config import read
from core.training.image_files import list_image_files
from tasks.seg import own_data
from tasks.seg.config import DataConfig
from tasks.seg.data import SegDataset, read_pairs
from tasks.seg.labels import read_mask
from tasks.seg.layouts import find_layout
from tests.tasks.seg_folders import (
    SIZE,
    config_of,
    found_in,
    picture,
)


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
    # small ones are enlarged, so that the names of classes can be read
    enlarged = [each.picture.shape for each in own_data.labelled(config, 2)]
    assert enlarged == [(5 * SIZE[0], 5 * SIZE[1], 3)] * 2


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
