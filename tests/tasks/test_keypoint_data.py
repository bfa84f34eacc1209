"""Samples of keypoints: the cut-outs, the images, and the stick figures."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from core.errors import DataError
from core.training.loader import Loader
from tasks.keypoint.config import Config
from tasks.keypoint.data import load_split
from tasks.keypoint.metrics import KeypointMetric
from tasks.keypoint.synthetic import ensure_data
from tasks.keypoint.transforms import apply
from tests.tasks.keypoint_data import (
    VISIBLE,
    build_config,
    build_dataset,
    coco,
    person,
    write_two_persons,
)


@pytest.fixture
def root(tmp_path):
    return write_two_persons(tmp_path)


def test_validation_sample_is_the_person_cut_out(root):
    dataset = build_dataset(root, "val")
    sample = dataset.sample(1, np.random.default_rng(0))
    assert sample["image"].shape == (3, 128, 96)
    assert sample["target"].shape == (17, 32, 24)
    assert sample["person"] == 1
    decoded = dataset.codec.decode(sample["target"][None])[0, :, :2]
    placed = apply(sample["to_image"], decoded.astype(np.float64))
    np.testing.assert_allclose(placed, np.array(VISIBLE)[:, :2], atol=0.3)


def test_training_samples_depend_on_the_generator_alone(root):
    dataset = build_dataset(root, "train", augment={"erase": 1.0})
    first, again, other = (dataset.sample(0, np.random.default_rng(seed)) for seed in (5, 5, 6))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["image"] != other["image"]).any()
    assert set(first) == {"image", "target", "target_weight"}


def test_a_mirror_swaps_the_sides(root):
    still = {"half_body": 0, "scale": 0, "rotate": 0}
    plain = build_dataset(root, "train", augment={"flip": 0, **still})
    mirrored = build_dataset(root, "train", augment={"flip": 1, **still})
    rng = np.random.default_rng(0)
    one, two = plain.sample(0, rng), mirrored.sample(0, rng)
    order = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    np.testing.assert_allclose(two["target"], one["target"][order][..., ::-1], atol=1e-5)
    assert np.abs(two["image"] - one["image"][..., ::-1]).mean() < 0.05


def test_batches_come_out_of_the_loader(root):
    loader = Loader(build_dataset(root, "val"), batch_size=2, train=False)
    (batch,) = loader.epoch()
    assert batch["image"].shape == [2, 3, 128, 96]
    assert batch["person"].numpy().tolist() == [0, 1]


def test_a_missing_image_is_named(root):
    (root / "val" / "one.png").unlink()
    loader = Loader(build_dataset(root, "val"), batch_size=2, train=False)
    with pytest.raises(DataError, match=r"val/one.png: cannot be read"):
        list(loader.epoch())


def synthetic_config(root, **changes) -> Config:
    synthetic = {"train_images": 6, "val_images": 3, "size": [96, 80], **changes}
    return build_config(root, synthetic=synthetic)


def test_figures_are_drawn_once_and_alike(tmp_path):
    for name in ("a", "b"):
        ensure_data(synthetic_config(tmp_path / name))
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 6 + 3 + 2 + 1  # images, annotations, how they were drawn
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    before = os.stat(tmp_path / "a" / "train.json").st_mtime_ns
    ensure_data(synthetic_config(tmp_path / "a"))
    assert os.stat(tmp_path / "a" / "train.json").st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_figures_are_coco_persons_inside_their_images(tmp_path):
    config = synthetic_config(tmp_path / "new" / "data", val_images=20)
    ensure_data(config)
    annotations, persons = load_split(config, "val")
    assert len(persons) == 20
    labelled = persons.joints[..., 2] > 0
    assert 0.9 < labelled.mean() < 1
    places = persons.joints[labelled][:, :2]
    assert (places >= 0).all()
    assert (places < [80, 96]).all()
    for entry in annotations.people:
        x, y, width, height = entry["bbox"]
        joints = np.array(entry["keypoints"]).reshape(-1, 3)
        joints = joints[joints[:, 2] > 0, :2]
        assert ((joints >= [x, y]) & (joints <= [x + width, y + height])).all()


def test_another_seed_draws_other_figures(tmp_path):
    ensure_data(synthetic_config(tmp_path / "a"))
    ensure_data(synthetic_config(tmp_path / "b", seed=1))
    first, second = ((tmp_path / name / "val.json").read_text() for name in ("a", "b"))
    assert first != second


@pytest.mark.parametrize("area", [0, -1])
def test_perfect_points_score_whatever_the_area(root, area):
    flat = person(3, area=area, bbox=[1.0, 1.0, 0.0, 5.0])  # without a scale, nobody can be scored
    (root / "val.json").write_text(json.dumps(coco(person(1, area=area), flat)))
    config = build_config(root)
    annotations, persons = load_split(config, "val")
    metric = KeypointMetric(config, annotations, persons)
    points = np.array([[*joint[:2], 1.0] for joint in VISIBLE])
    placed = {"person": np.array([0]), "to_image": np.eye(2, 3)[None]}
    metric.update({"points": points[None]}, placed)
    assert metric.compute()["AP"] == pytest.approx(1.0)
    assert metric.compute()["PCK"] == 1.0


def test_an_image_of_another_size_than_annotated_is_named(root):
    content = coco(person(1))
    content["images"][0] |= {"width": 240, "height": 200}
    (root / "val.json").write_text(json.dumps(content))
    message = r"one\.png: the image is 120x100, its annotation says 240x200"
    with pytest.raises(DataError, match=message):
        build_dataset(root, "val").sample(0, np.random.default_rng(0))
    loader = Loader(build_dataset(root, "val"), batch_size=1, train=False, on_error="skip")
    assert list(loader.epoch()) == []
    assert "120x100" in loader.skipped[0]


def test_a_box_outside_of_an_image_of_unknown_size_is_named(root):
    content = coco(person(1, bbox=[500.0, 20.0, 60.0, 70.0]))
    content["images"] = [{"id": 1, "file_name": "one.png"}]
    (root / "val.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"120x100, and the box \[500, 20, 60, 70\] of a person"):
        build_dataset(root, "val").sample(0, np.random.default_rng(0))


def test_points_stay_on_an_image_that_exif_turns(root):
    """The picture is bright where the first joint is, as it is stored."""
    image = np.zeros((100, 120, 3), np.uint8)
    image[38:43, 28:33] = 255
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(image).save(root / "val" / "one.png", exif=exif)
    still = {"flip": 0, "half_body": 0, "scale": 0, "rotate": 0}
    sample = build_dataset(root, "val", augment=still).sample(1, np.random.default_rng(0))
    brightest = np.unravel_index(sample["image"][0].argmax(), sample["image"].shape[1:])
    peak = np.unravel_index(sample["target"][0].argmax(), sample["target"].shape[1:])
    assert np.abs(np.array(brightest) / 4 - np.array(peak)).max() < 2
