"""Class folders of all kinds without a word in the config."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from core.errors import DataError
from core.settings.config import read
from tasks.cls import own_data
from tasks.cls.config import Config
from tasks.cls.data import build_dataset


def draw(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((8, 12, 3), 9 * index, np.uint8))


def config_of(root: Path, **data: object) -> Config:
    given = {"data": {"root": str(root), **data}}
    found = own_data.from_data(given)
    sections = {"model": {"name": "MobileNetV1_x0_25", **found["model"]}, "data": given["data"]}
    return read(Config, sections)


def splits(config: Config) -> list[set[str]]:
    return [set(build_dataset(config, split).items.paths) for split in ("train", "val")]


def test_flat_folders_are_split_by_class(tmp_path: Path) -> None:
    for name, count in (("ant", 10), ("bee", 5)):
        draw(tmp_path / name, count)
    draw(tmp_path / "notes", 0)  # no pictures: no class
    config = config_of(tmp_path)
    assert config.model.num_classes == 2
    train, val = splits(config)
    assert len(train) == 12
    assert len(val) == 3
    assert not train & val
    assert train | val == {str(path) for path in tmp_path.rglob("*.png")}
    assert splits(config_of(tmp_path, split_seed=5)) != [train, val]
    assert len(splits(config_of(tmp_path, val_share=0.4))[1]) == 6


@pytest.mark.parametrize(
    ("training", "name"),
    [*(("train", name) for name in ("val", "valid", "test")), ("Training", "Testing")],
)
def test_validation_folders_have_several_names(tmp_path: Path, training: str, name: str) -> None:
    for split, count in ((training, 3), (name, 2)):
        for cls in ("ant", "bee"):
            draw(tmp_path / split / cls, count)
    train, val = splits(config_of(tmp_path))
    assert (len(train), len(val)) == (6, 4)
    assert all(f"/{name}/" in path for path in val)


def test_train_alone_is_split(tmp_path: Path) -> None:
    for cls in ("ant", "bee"):
        draw(tmp_path / "train" / cls, 5)
    train, val = splits(config_of(tmp_path))
    assert (len(train), len(val)) == (8, 2)


def test_list_files_say_how_many_classes(tmp_path: Path) -> None:
    draw(tmp_path / "p", 3)
    (tmp_path / "train_list.txt").write_text("p/0.png 0\np/1.png 4\n")
    (tmp_path / "val_list.txt").write_text("p/2.png 1\n")
    assert config_of(tmp_path).model.num_classes == 5
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\nf\n")
    assert config_of(tmp_path).model.num_classes == 6


def test_data_to_measure_on_need_no_training_split(tmp_path: Path) -> None:
    draw(tmp_path / "p", 2)
    (tmp_path / "val_list.txt").write_text("p/0.png 0\np/1.png 3\n")
    config = config_of(tmp_path)
    assert config.model.num_classes == 4
    assert len(build_dataset(config, "val")) == 2
    told = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert (told.layout, told.sure) == ("list files", 2)  # and no other task speaks of them
    assert "train_list.txt: cannot be read: No such file" in told.missing[0]


def test_one_class_teaches_nothing(tmp_path: Path) -> None:
    draw(tmp_path / "train" / "ant", 3)
    with pytest.raises(DataError, match=r"has one class only \('ant'\); expected 2 or more"):
        own_data.from_data({"data": {"root": str(tmp_path)}})
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert "one class only" in found.missing[0]


def test_inspection_counts_and_names_what_is_broken(tmp_path: Path) -> None:
    draw(tmp_path / "ant", 5)
    draw(tmp_path / "bee", 5)
    for path in (tmp_path / "bee").iterdir():
        path.write_bytes(b"no picture")
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert found.layout == "one folder for each class, no train/ and val/"
    assert found.found[0] == "2 classes (pictures for training): ant (4), bee (4)"
    assert "8 pictures for training, 2 for validation, drawn: 20 %" in found.found[1]
    assert found.found[2] == "all pictures are 12x8"
    assert len(found.missing) == 4
    assert "bee" in found.missing[0]


def test_folders_below_a_class_are_told(tmp_path: Path) -> None:
    for name in ("animal/cat", "animal/dog", "plant/oak", "plant/fir", "stone"):
        draw(tmp_path / name, 5)
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert found.found[-1] == (
        "folders below that of a class are of the same class: animal/cat, animal/dog are 'animal' "
        "(likewise in plant)"
    )
    assert "3 classes" in found.found[0]


def test_a_table_is_no_list(tmp_path: Path) -> None:
    draw(tmp_path / "images", 2)
    (tmp_path / "labels.csv").write_text("file,label\nimages/0.png,ant\n")
    (told,) = own_data.inspect({"data": {"root": str(tmp_path)}}).missing
    assert "lines 'path label'" in told
    assert "; labels.csv is not read: write its rows as such lines" in told


def test_an_unpacked_folder_too_many_is_named(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        draw(tmp_path / "photos" / name, 2)
    found = own_data.inspect({"data": {"root": str(tmp_path)}})
    assert not found.sure
    assert f"{tmp_path / 'photos'} has: make that data.root" in found.missing[0]


def test_lists_of_a_drawn_split_read_the_same(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        draw(tmp_path / "data" / name, 6)
    config = config_of(tmp_path / "data")
    lists = own_data.write_lists(config, tmp_path / "lists")
    again = config_of(tmp_path / "data", **lists)
    assert splits(again) == splits(config)
    for split in ("train", "val"):
        one, other = (build_dataset(each, split).items for each in (config, again))
        assert dict(zip(one.paths, one.labels)) == dict(zip(other.paths, other.labels))
    assert own_data.write_lists(again, tmp_path / "lists") == {}
    assert not list((tmp_path / "data").rglob("*.txt"))


def test_samples_are_named_after_their_classes(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        draw(tmp_path / name, 6)
    drawn = own_data.labelled(config_of(tmp_path), 4)
    assert len(drawn) == 4
    assert {each.name.partition(":")[0] for each in drawn} == {"ant", "bee"}
    assert drawn[0].picture.shape == (8, 12, 3)
