"""List files, class folders, generated pictures; and what the user is told when they are broken."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from core.errors import ConfigError, DataError, FileError
from core.settings.config import read
from core.training.images import read_image
from core.training.loader import Loader
from tasks.cls import synthetic
from tasks.cls.class_names import class_names, read_labels
from tasks.cls.config import AugmentConfig, Config, SyntheticConfig
from tasks.cls.data import build_dataset, read_list
from tasks.cls.task import Task


def write_picture(path: Path, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((24, 30, 3), value, np.uint8))


def make_config(root: Path, **sections) -> Config:
    settings = {
        "model": {"name": "MobileNetV3_small_x0_35", "num_classes": 3},
        "data": {"root": str(root), "image_size": 16, "resize_short": 16, "num_workers": 0},
    }
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section}
    return read(Config, settings)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    for split, count in (("train", 6), ("val", 3)):
        lines = []
        for number in range(count):
            name = f"pictures of {split}/{number}.png"
            write_picture(tmp_path / name, 20 * number)
            lines.append(f"{name} {number % 3}")
        (tmp_path / f"{split}_list.txt").write_text("\n\n".join(lines) + "\n")
    (tmp_path / "labels.txt").write_text("2 two words\n0 zero\n1 one\n")
    return tmp_path


def test_list_files(listed):
    config = make_config(listed)
    train, val = build_dataset(config, "train"), build_dataset(config, "val")
    assert (len(train), len(val)) == (6, 3)
    np.testing.assert_array_equal(train.items.labels, [0, 1, 2, 0, 1, 2])
    sample = val.sample(1, np.random.default_rng(0))
    assert sample["image"].shape == (3, 16, 16)
    assert sample["label"] == 1
    expected = (np.array(20 / 255) - config.data.mean) / config.data.std
    np.testing.assert_allclose(sample["image"][:, 3, 3], expected, rtol=1e-5)
    assert class_names(config.data) == ("zero", "one", "two words")


def test_folders(tmp_path):
    for index, name in enumerate(("ant", "bee", "cat")):
        write_picture(tmp_path / "train" / name / "1.png", index)
        write_picture(tmp_path / "train" / name / "deeper" / "2.JPG", index)
        write_picture(tmp_path / "val" / name / "3.png", index)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no picture")
    config = make_config(tmp_path)
    train, val = build_dataset(config, "train"), build_dataset(config, "val")
    np.testing.assert_array_equal(train.items.labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(val.items.labels, [0, 1, 2])
    assert class_names(config.data) == ("ant", "bee", "cat")
    write_picture(tmp_path / "val" / "dog" / "1.png")
    with pytest.raises(DataError, match=r"val/dog: no class of this name in train/"):
        build_dataset(config, "val")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png 3", r"list\.txt:2: label 3 is outside 0\.\.2 \(model\.num_classes is 3\)"),
        ("a.png -1", r"list\.txt:2: label -1 is outside"),
        ("a.png", r"list\.txt:2: expected 'path label', got 'a\.png'"),
        ("a.png one", r"list\.txt:2: expected 'path label'"),
        ("7", r"list\.txt:2: expected 'path label'"),
    ],
)
def test_broken_lines_are_named(tmp_path, line, message):
    (tmp_path / "list.txt").write_text(f"a.png 0\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_list(tmp_path / "list.txt", tmp_path, 3)


def test_tabs_and_spaces_in_names(tmp_path):
    (tmp_path / "list.txt").write_text("a b.png 0\nc.png\t2\nd e.png   1\n")
    items = read_list(tmp_path / "list.txt", tmp_path, 3)
    assert [Path(path).name for path in items.paths] == ["a b.png", "c.png", "d e.png"]
    assert items.labels.tolist() == [0, 2, 1]


def test_missing_and_empty_data(tmp_path, listed):
    (listed / "val_list.txt").write_text("\n")
    with pytest.raises(DataError, match=r"val_list\.txt: the list is empty"):
        build_dataset(make_config(listed), "val")
    (listed / "val_list.txt").unlink()
    with pytest.raises(DataError, match=r"val_list\.txt: cannot be read: No such file"):
        build_dataset(make_config(listed), "val")
    nowhere = make_config(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"nowhere/train_list\.txt: cannot be read"):
        build_dataset(nowhere, "train")
    (tmp_path / "empty" / "train" / "ant").mkdir(parents=True)
    config = make_config(tmp_path / "empty")
    with pytest.raises(DataError, match=r"the data has 1 classes, model\.num_classes is 3"):
        build_dataset(config, "train")
    for name in ("bee", "cat"):
        (tmp_path / "empty" / "train" / name).mkdir()
    with pytest.raises(DataError, match=r"train: no pictures in class folders"):
        build_dataset(config, "train")
    (tmp_path / "empty" / "val").mkdir()
    with pytest.raises(DataError, match=r"empty/val: no pictures in class folders"):
        build_dataset(config, "val")


def test_broken_pictures_stop_or_are_left_out(listed):
    (listed / "pictures of val" / "1.png").write_bytes(b"no picture")
    dataset = build_dataset(make_config(listed), "val")
    with pytest.raises(DataError, match=r"pictures of val/1\.png: "):
        list(Loader(dataset, batch_size=2, train=False).epoch())
    loader = Loader(dataset, batch_size=2, train=False, on_error="skip")
    batches = list(loader.epoch())
    assert [len(batch["label"]) for batch in batches] == [1, 1]
    assert len(loader.skipped) == 1


def test_labels_files(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("ant\nbee\n7 up\n")
    assert read_labels(path) == ["ant", "bee", "7 up"]
    path.write_text("0 ant\n1 bee\n1 cat\n")
    with pytest.raises(DataError, match=r"labels\.txt:3: class index 1 is repeated or leaves"):
        read_labels(path)
    path.write_text("0 ant\n2 bee\n")
    with pytest.raises(DataError, match=r"labels\.txt:2: class index 2"):
        read_labels(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"labels\.txt: not a UTF-8"):
        read_labels(path)


def test_class_count_must_agree(listed):
    with pytest.raises(DataError, match=r"the data has 3 classes, model\.num_classes is 7"):
        build_dataset(make_config(listed, model={"num_classes": 7}), "train")


def test_a_task_remembers_the_names_of_its_classes(listed):
    task = Task(make_config(listed))
    assert task.config.data.class_names == ()
    task.build_dataset("train")
    assert task.config.data.class_names == ("zero", "one", "two words")
    task.build_dataset("val")
    (listed / "labels.txt").write_text("zero\ntwo\none\n")
    with pytest.raises(DataError, match=r"class 1 is 'two', expected 'one' \(data\.class_names\)"):
        task.build_dataset("val")
    (listed / "labels.txt").write_text("zero\none\n")
    with pytest.raises(DataError, match=r": 2 classes, expected 3 \(data\.class_names\)"):
        task.build_dataset("val")


def test_batches_are_mixed_only_when_asked(listed):
    plain = build_dataset(make_config(listed), "train")
    (batch,) = Loader(plain, batch_size=6, train=True).epoch()
    assert batch["label"].dtype.name in ("INT64", "int64")
    for mix in ({"mixup": 0.5}, {"cutmix": 0.5}, {"mixup": 0.5, "cutmix": 0.5}):
        dataset = build_dataset(make_config(listed, augment=mix), "train")
        (batch,) = Loader(dataset, batch_size=6, train=True).epoch()
        assert batch["label"].shape == [6, 3]
        np.testing.assert_allclose(batch["label"].numpy().sum(axis=1), 1, atol=1e-6)
    never = {"mixup": 0.5, "mix_probability": 0.0}
    dataset = build_dataset(make_config(listed, augment=never), "train")
    (batch,) = Loader(dataset, batch_size=6, train=True).epoch()
    assert set(np.unique(batch["label"].numpy())) == {0.0, 1.0}
    val = build_dataset(make_config(listed, augment={"mixup": 0.5}), "val")
    (batch,) = Loader(val, batch_size=6, train=False).epoch()
    assert batch["label"].shape == [3]


def test_generated_data_is_the_same_every_time(tmp_path):
    sizes = SyntheticConfig(train_images=9, val_images=5)
    for name in ("one", "two"):
        synthetic.draw_data(str(tmp_path / name), 4, sizes)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 9 + 5 + 3 + 1  # pictures, lists and names, how they were drawn
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    config = make_config(tmp_path / "one", model={"num_classes": 4})
    assert len(build_dataset(config, "val")) == 5
    assert class_names(config.data) == ("red disc", "red cross", "green disc", "green cross")


def test_generated_data_does_not_touch_what_is_there(tmp_path, listed):
    section = {"train_images": 4, "val_images": 4}
    task = Task(make_config(listed, synthetic=section))
    before = sorted(listed.rglob("*"))
    with pytest.raises(DataError, match=r"^data\.root: .* holds files that were not drawn"):
        task.build_dataset("train")
    assert sorted(listed.rglob("*")) == before
    with pytest.raises(DataError, match=r"synthetic: there are 20 kinds of shapes"):
        synthetic.draw_data(str(tmp_path / "new"), 21, SyntheticConfig())


def test_generated_data_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match=r"file/new: cannot be written"):
        synthetic.draw_data(str(tmp_path / "file" / "new"), 4, SyntheticConfig())


def test_shapes_differ_though_their_colour_is_the_same():
    assert len(set(synthetic.list_classes())) == 20
    pictures = {}
    for shape in ("disc", "ring", "square", "cross", "triangle"):
        rng = np.random.default_rng(5)
        pictures[shape] = synthetic.draw_picture("red", shape, 48, rng).astype(int)
    names = list(pictures)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            assert np.abs(pictures[one] - pictures[other]).mean() > 2, (one, other)


def test_a_training_picture_is_read_as_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "red.png"), np.full((8, 8, 3), (0, 0, 255), np.uint8))
    assert read_image(str(tmp_path / "red.png"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("model", {"num_classes": 1}, r"^model\.num_classes: expected at least 2, got 1"),
        ("data", {"resize_short": 8}, r"^data\.resize_short: expected at least image_size \(16\)"),
        ("data", {"std": [1, 0, 1]}, r"^data\.std: expected positive values"),
        ("data", {"rot": "x"}, r"^data\.rot: unknown key \(did you mean 'root'\?\)"),
        ("augment", {"flip": 1.5}, r"^augment\.flip: expected a probability, got 1\.5"),
        ("augment", {"scale": [0.5, 0.1]}, r"^augment\.scale: expected 0 < low <= high"),
        ("augment", {"scale": [0.5, 2]}, r"^augment\.scale: expected shares up to 1"),
        ("augment", {"hue": 0.7}, r"^augment\.hue: expected a value in 0\.\.0\.5"),
        ("augment", {"mixup": -1}, r"^augment\.mixup: expected 0 or more"),
        ("augment", {"policy": "auto"}, r"^augment\.policy: expected one of none, autoaugment"),
        ("augment", {"policy_magnitude": 11}, r"^augment\.policy_magnitude: expected"),
        ("loss", {"label_smoothing": 1.0}, r"^loss\.label_smoothing: expected"),
        ("evaluation", {"topk": [5]}, r"^evaluation\.topk: expected a list with 1 in it"),
        ("synthetic", {"side": 8}, r"^synthetic\.side: expected at least 32"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, section, values, message):
    with pytest.raises(ConfigError, match=message):
        make_config(tmp_path, **{section: values})


def test_defaults_change_nothing_but_crop_and_flip():
    augment = AugmentConfig()
    assert (augment.policy, augment.mixup, augment.erasing, augment.hue) == ("none", 0, 0, 0)
