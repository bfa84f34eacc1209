"""List files, label maps, batches, bad input and generated data."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import ConfigError, DataError
from core.training.loader import Loader
from tasks.seg.data import SegDataset, read_list
from tasks.seg.labels import read_label
from tasks.seg.synthetic import ensure_drawn
from tests.networks.seg_data import RNG, config_for


@pytest.fixture
def folder(tmp_path):
    """Four pairs of different sizes, listed for both splits."""
    lines = []
    for i, (width, height) in enumerate([(20, 12), (14, 18), (20, 12), (16, 16)]):
        image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
        label = RNG.choice([0, 1, 2, 255], (height, width)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        cv2.imwrite(str(tmp_path / f"{i}_label.png"), label)
        lines.append(f"{i}.png {i}_label.png")
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


def sample_of(config, split="val", index=0):
    return SegDataset(config, split).sample(index, np.random.default_rng(0))


def test_validation_keeps_the_labels_own_size(folder):
    sample = sample_of(config_for(folder, data={"size": [8, 6]}))
    assert sample["image"].shape == (3, 6, 8)
    stored = cv2.imread(str(folder / "0_label.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(sample["label"], stored)
    np.testing.assert_array_equal(sample["label_size"], [12, 20])
    np.testing.assert_array_equal(sample["image_size"], [6, 8])


def test_images_are_rgb_and_normalized(folder):
    sample = sample_of(config_for(folder, data={"mean": [0, 0, 0], "std": [1, 1, 1]}))
    stored = cv2.imread(str(folder / "0.png"))[..., ::-1].transpose(2, 0, 1)
    np.testing.assert_allclose(sample["image"], stored / 255, atol=1e-6)


def test_a_validation_batch_fills_up_with_ignored_pixels(folder):
    (batch,) = Loader(SegDataset(config_for(folder), "val"), batch_size=4, train=False).epoch()
    assert batch["image"].shape == [4, 3, 18, 20]
    label = batch["label"].numpy()
    assert label.dtype == np.uint8
    for one, (height, width) in zip(label, batch["label_size"].numpy()):
        assert (one[height:] == 255).all()
        assert (one[:, width:] == 255).all()


def test_a_training_batch_has_the_crops_size(folder):
    config = config_for(
        folder, augment={"crop": [32, 10], "scale_min": 0.5, "scale_max": 2.0, "distort": 0.5}
    )
    (batch,) = Loader(SegDataset(config, "train"), batch_size=4, train=True).epoch()
    assert batch["image"].shape == [4, 3, 10, 32]
    assert batch["label"].shape == [4, 10, 32]
    missing = batch["label"].numpy() == 255
    assert missing.any()
    assert set(np.unique(batch["label"].numpy())) <= {0, 1, 2, 255}


def test_a_broken_first_image_is_skipped_where_no_size_is_set(folder):
    (folder / "0.png").write_bytes(b"no image")
    (folder / "train.txt").write_text("".join(f"{i}.png {i}_label.png\n" for i in (0, 2, 2)))
    dataset = SegDataset(config_for(folder, data={"on_error": "skip"}), "train")
    loader = Loader(dataset, batch_size=3, train=True, on_error="skip")
    (batch,) = loader.epoch()
    assert batch["image"].shape[1:] == [3, 12, 20]
    (message,) = loader.skipped
    assert "0.png: not an image" in message
    with pytest.raises(DataError, match=r"0\.png: not an image"):
        SegDataset(config_for(folder), "train")


def test_a_mirrored_sample_is_the_mirror_image(folder):
    samples = [
        SegDataset(config_for(folder, augment={"flip": flip}), "train").sample(
            0, np.random.default_rng(0)
        )
        for flip in (0.0, 1.0)
    ]
    for key in ("image", "label"):
        np.testing.assert_array_equal(samples[0][key], samples[1][key][..., ::-1])


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["grey", "palette", "grey16"]), st.integers(1, 12), st.integers(0, 999))
def test_label_files_are_read_exactly(tmp_path_factory, kind, side, seed):
    values = np.random.default_rng(seed).integers(0, 256, (side, side + 1)).astype(np.uint8)
    path = str(tmp_path_factory.mktemp("label") / "x.png")
    if kind == "palette":
        image = Image.fromarray(values, mode="P")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        image.save(path)
    elif kind == "grey16":
        cv2.imwrite(path, values.astype(np.uint16) * 200)
        values = values.astype(np.int32) * 200
    else:
        Image.fromarray(values).save(path)
    label = read_label(path)
    assert label.dtype == (np.int32 if kind == "grey16" else np.uint8)
    np.testing.assert_array_equal(label, values)


def test_label_files_of_few_bits(tmp_path):
    values = RNG.integers(0, 2, (5, 11)).astype(np.uint8)
    Image.fromarray(values.astype(bool)).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_label(str(tmp_path / "one.png")), values)
    image = Image.fromarray(values, mode="P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "palette.png", bits=1)
    np.testing.assert_array_equal(read_label(str(tmp_path / "palette.png")), values)


def test_separator_and_blank_lines(tmp_path):
    (tmp_path / "train.txt").write_text("a b.jpg, c d.png\n\n e.jpg,f.png \n")
    data = config_for(tmp_path, data={"separator": ","}).data
    pairs = read_list(data, "train.txt")
    assert pairs == [
        (tmp_path / "a b.jpg", tmp_path / "c d.png"),
        (tmp_path / "e.jpg", tmp_path / "f.png"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg b.png\na.jpg\n", r"train\.txt:2: expected an image and a label map.*'a\.jpg'"),
        ("a.jpg b.png c\n", r"train\.txt:1: .*separated by ' ' \(data\.separator\)"),
        ("\n", r"train\.txt: the list of images is empty"),
        (None, r"holds no folders and no files; for segmentation expected train\.txt"),
    ],
)
def test_broken_lists(tmp_path, text, message):
    if text is not None:
        (tmp_path / "train.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        SegDataset(config_for(tmp_path), "train")


def break_label_value(folder):
    label = np.zeros((12, 20), np.uint8)
    label[3, 4] = 7
    cv2.imwrite(str(folder / "0_label.png"), label)


def break_label_size(folder):
    shutil.copy(folder / "1_label.png", folder / "0_label.png")


def break_label_bytes(folder):
    path = folder / "0_label.png"
    path.write_bytes(path.read_bytes()[:-20])


def colour_label(folder):
    cv2.imwrite(str(folder / "0_label.png"), np.zeros((12, 20, 3), np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_label_value, r"0_label\.png: label value 7: expected 0\.\.2 .* or 255"),
        (break_label_size, r"0\.png: the image is 20x12, the label map 0_label\.png 14x18"),
        (break_label_bytes, r"0_label\.png: the label map is broken or truncated"),
        (colour_label, r"0_label\.png: expected a label map with one channel, got 3"),
        (lambda f: (f / "0_label.png").write_text("text"), r"0_label\.png: .* broken"),
        (lambda f: (f / "0_label.png").unlink(), r"0_label\.png: cannot be read: No such file"),
        (lambda f: (f / "0.png").unlink(), r"0\.png: cannot be read: No such file"),
        (lambda f: (f / "0.png").write_bytes(b"x" * 50), r"0\.png: not an image"),
    ],
)
def test_broken_files_are_named(folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message):
        sample_of(config_for(folder))


def test_a_broken_pair_can_be_skipped(folder):
    break_label_value(folder)
    loader = Loader(
        SegDataset(config_for(folder), "val"), batch_size=4, train=False, on_error="skip"
    )
    (batch,) = loader.epoch()
    assert batch["label"].shape[0] == 3
    assert len(loader.skipped) == 1
    assert "label value 7" in loader.skipped[0]


def test_training_images_of_many_sizes_need_a_crop(folder):
    loader = Loader(SegDataset(config_for(folder), "train"), batch_size=4, train=True)
    with pytest.raises(DataError, match=r"1\.png: the image is 14x18, the first.* augment\.crop"):
        list(loader.epoch())


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"classes": ["a"]}}, r"^data\.classes: expected model\.num_classes = 3"),
        ({"data": {"ignore_index": 2}}, r"^data\.ignore_index: "),
        ({"data": {"std": [0, 1, 1]}}, r"^data\.std: expected positive"),
        ({"data": {"size": [0, 4]}}, r"^data\.size: expected positive"),
        ({"augment": {"scale_max": 2.0}}, r"^augment\.crop: needed"),
        ({"augment": {"scale_min": 2.0}}, r"^augment\.scale_min: "),
        ({"augment": {"flip": 2}}, r"^augment\.flip: expected a probability"),
        ({"augment": {"hue": 500}}, r"^augment\.hue: "),
        ({"loss": {"function": {"kind": "ohm"}}}, r"^loss\.function\.kind: got 'ohm'.*'ohem'"),
        ({"loss": {"function": {"kind": "ohem", "min_kept": 0}}}, r"^loss\.function\.min_kept"),
        (
            {"loss": {"function": {"kind": "cross_entropy", "class_weights": [1.0]}}},
            r"^loss\.function\.class_weights: expected model\.num_classes = 3 numbers, got 1",
        ),
        ({"loss": {"heads": [{"kind": "dice"}], "coef": [1, 2]}}, r"^loss\.coef: expected one"),
        (
            {"loss": {"function": {"kind": "mixed", "losses": [{"kind": "dice"}], "coef": []}}},
            r"^loss\.function\.coef: expected one number for each of 1 losses, got 0",
        ),
        (
            {"evaluation": {"sliding_window": {"crop": [4, 4], "stride": [8, 4]}}},
            r"^evaluation\.sliding_window\.stride: expected at most the crop",
        ),
        ({"evaluation": {"scales": []}}, r"^evaluation\.scales: "),
        ({"model": {"num_classes": 1}}, r"^model\.num_classes: expected at least 2"),
        ({"synthetic": {"size": [8, 8]}}, r"^synthetic\.size: "),
    ],
)
def test_settings_that_cannot_be(tmp_path, sections, message):
    with pytest.raises(ConfigError, match=message):
        config_for(tmp_path, **sections)


def drawn(root, **synthetic):
    config = config_for(
        root,
        model={"num_classes": 4},
        synthetic={"train_images": 3, "val_images": 2, "size": [40, 32], **synthetic},
    )
    ensure_drawn(config)
    return config


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_generated_data_is_the_same_every_time(tmp_path):
    config = drawn(tmp_path / "a")
    drawn(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert len(SegDataset(config, "train")) == 3
    sample = sample_of(config, "val", 1)
    assert sample["label"].shape == (32, 40)
    values = {value for i in range(2) for value in np.unique(sample_of(config, "val", i)["label"])}
    assert {0, 255} < values <= {0, 1, 2, 3, 255}


def test_generated_data_is_drawn_by_many_processes_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        configs = list(pool.map(drawn, [tmp_path / "a"] * 4))
    assert [len(SegDataset(config, "train")) for config in configs] == [3] * 4
    assert os.listdir(tmp_path) == ["a"]


def test_generated_data_has_four_classes(tmp_path):
    with pytest.raises(DataError, match=r"^model\.num_classes: the synthetic data has 4"):
        ensure_drawn(config_for(tmp_path, synthetic={}))
