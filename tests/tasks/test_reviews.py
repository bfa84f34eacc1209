"""Errors and pictures of single samples of a validation, for each task."""

from __future__ import annotations

import numpy as np
import pytest

from core.settings.config import read
from core.task import ConfusionMetric, ReviewedTask, TellingTask, build_task
from core.training.images import restore_image
from tasks.cls import review as cls
from tasks.cls.config import DataConfig
from tasks.keypoint import review as keypoint
from tasks.keypoint.codec import Codec
from tasks.seg import review as seg
from tasks.seg.config import Config as SegConfig
from tests.tasks.keypoint_data import build_config

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("cls", {"name": "PPLCNet_x0_25", "num_classes": 3}),
        ("seg", {"num_classes": 3}),
        ("keypoint", {"name": "lite_hrnet_18"}),
    ],
)
def test_our_tasks_can_be_looked_at(name, model):
    task = build_task(name, {"model": model, "data": {"root": "x"}})
    assert isinstance(task, ReviewedTask)
    assert isinstance(task, TellingTask)


def test_images_come_back_from_their_planes():
    image = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    planes = ((image / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(restore_image(planes, mean, std), image)
    grey = restore_image(planes[:1], mean[:1], std[:1])  # as RGB, to draw on
    np.testing.assert_array_equal(grey, image[..., [0, 0, 0]])
    with_fourth = np.concatenate([planes, planes[:1]])
    four = restore_image(with_fourth, (*mean, 0.4), (*std, 0.2))
    np.testing.assert_array_equal(four, image)


def test_classes_are_wrong_by_what_the_truth_lacks():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], np.float32))
    batch = {"image": np.zeros((2, 3, 4, 4), np.float32), "label": np.array([0, 1])}
    np.testing.assert_allclose(cls.sample_errors({"logits": logits}, batch), [0.3, 0.7], rtol=1e-6)
    data = DataConfig(root="x")
    views = [cls.view_sample({"logits": logits}, batch, n, data, ["a", "b"]) for n in (0, 1)]
    assert [view.text for view in views] == ["a 0.70", "is b, taken for class 2 0.60"]
    assert views[0].image.shape == (4, 4, 3)
    for outputs, texts in (  # other endings of an export
        ({"probabilities": np.exp(logits)}, ["a 0.70", "is b, taken for class 2 0.60"]),
        ({"label": np.array([0, 2])}, ["a", "is b, taken for class 2"]),
    ):
        views = [cls.view_sample(outputs, batch, n, data, ["a", "b"]) for n in (0, 1)]
        assert [view.text for view in views] == texts


@pytest.fixture
def seg_config():
    return read(SegConfig, {"model": {"num_classes": 2}, "data": {"root": "x"}})


def seg_batch(label):
    size = np.array([label.shape])
    image = np.zeros((1, 3, *label.shape), np.float32)
    return {"image": image, "label": label[None], "label_size": size, "image_size": size}


@pytest.mark.parametrize("name", ["labels", "logits"])
def test_maps_are_wrong_by_their_mean_iou(seg_config, name):
    label = np.zeros((8, 10), np.int64)
    label[:, 5:] = 1
    found = np.roll(label, 1, axis=1)
    found[:, 0] = 0  # a column of class 1 is taken for class 0
    label[0] = 255  # which does not count
    outputs = {name: found[None] if name == "labels" else np.eye(2)[found].transpose(2, 0, 1)[None]}
    expected = 1 - (5 / 6 + 4 / 5) / 2
    assert seg.sample_errors(outputs, seg_batch(label), seg_config)[0] == pytest.approx(expected)
    view = seg.view_sample(outputs, seg_batch(label), 0, seg_config)
    assert view.text == "mean IoU 0.82 (truth, prediction)"
    truth, prediction = np.split(view.image, 2, axis=1)
    assert truth.shape == (256, 320, 3)
    assert (truth != prediction).any(axis=(0, 2)).nonzero()[0].min() < 170
    assert (truth[100, 200] == prediction[100, 200]).all()


def test_a_map_without_labels_is_not_wrong(seg_config):
    batch = seg_batch(np.full((4, 4), 255))
    assert seg.sample_errors({"labels": np.zeros((1, 4, 4), int)}, batch, seg_config) == [0]


def test_large_maps_are_looked_at_coarsely(seg_config):
    label = np.zeros((4, 2048), np.int64)
    found = label.copy()
    found[:, 1::4] = 1  # between the pixels that are looked at
    assert seg.sample_errors({"labels": found[None]}, seg_batch(label), seg_config) == [0]


def test_joints_are_wrong_by_their_distance(tmp_path):
    config = build_config(tmp_path)
    codec = Codec(config.codec, config.data.input_size)
    points = RNG.uniform(20, 80, (17, 2))
    target, weight = codec.encode(points, np.arange(17) < 3)
    found, _ = codec.encode(points + [12, 16], np.ones(17, bool))  # 3 and 4 pixels of the heatmap
    batch = {
        "image": np.zeros((1, 3, *config.data.input_size), np.float32),
        "target": target[None],
        "target_weight": weight[None],
    }
    error = keypoint.sample_errors({"heatmaps": found[None]}, batch)
    assert error == pytest.approx(5 / np.hypot(32, 24), rel=0.1)
    nobody = {**batch, "target_weight": np.zeros((1, 17))}
    assert keypoint.sample_errors({"heatmaps": found[None]}, nobody) == [0]
    view = keypoint.view_sample({"heatmaps": found[None]}, batch, 0, config, codec)
    assert view.text.startswith("3 joints, off by 12")
    truth, prediction = np.split(view.image, 2, axis=1)
    drawn = [
        np.count_nonzero((side != view.image[0, 0]).any(axis=2)) for side in (truth, prediction)
    ]
    assert 0 < drawn[0] < drawn[1]  # all 17 joints are predicted, three are labelled
    answer = {"points": codec.decode(found[None])}  # another ending of an export
    other = keypoint.view_sample(answer, batch, 0, config, codec)
    assert other.text == view.text
    np.testing.assert_array_equal(other.image, view.image)


def test_metrics_of_classes_have_a_confusion_matrix():
    for name, model, count in (
        ("seg", {"num_classes": 3}, 3),
        ("keypoint", {"name": "lite_hrnet_18"}, 0),
    ):
        task = build_task(name, {"model": model, "data": {"root": "x"}})
        if count:
            metric = task.build_metric()
            assert isinstance(metric, ConfusionMetric)
            assert metric.confusion.shape == (count, count)
            assert len(metric.names) == count
