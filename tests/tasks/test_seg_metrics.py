"""Confusion matrix and its figures against scikit-learn and PaddleSeg."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from tasks.seg.metrics import SegMetric, class_dice, class_iou, confusion

NAMES = ("a", "b", "c", "d")
IGNORE = 255


@st.composite
def label_maps(draw):
    """Labels with ignored pixels, and predictions that are right about half of the time."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9)))
    label = rng.choice([0, 1, 2, 3, IGNORE], shape).astype(np.uint8)
    label[:, 0, 0] = 0
    guess = rng.integers(0, 4, shape)
    return np.where(rng.random(shape) < 0.5, np.minimum(label, 3), guess).astype(np.int32), label


def measured(predicted, label):
    metric = SegMetric(NAMES, IGNORE)
    metric.update({"labels": predicted}, {"label": label})
    return metric


@settings(max_examples=40, deadline=None)
@given(label_maps())
def test_figures_are_scikit_learns(maps):
    predicted, label = maps
    metric = measured(predicted, label)
    y, p = label[label != IGNORE], predicted[label != IGNORE]
    present = sorted(set(y) | set(p))
    np.testing.assert_array_equal(metric.matrix, sk.confusion_matrix(y, p, labels=range(4)))
    figures = metric.compute()
    jaccard = sk.jaccard_score(y, p, labels=present, average=None)
    assert figures["mIoU"] == pytest.approx(jaccard.mean())
    np.testing.assert_allclose(class_iou(metric.matrix)[present], jaccard)
    dice = sk.f1_score(y, p, labels=present, average=None)
    np.testing.assert_allclose(class_dice(metric.matrix)[present], dice)
    assert figures["dice"] == pytest.approx(dice.mean())
    assert figures["accuracy"] == pytest.approx(sk.accuracy_score(y, p))
    if len(present) > 1:
        assert figures["kappa"] == pytest.approx(sk.cohen_kappa_score(y, p))


def test_figures_are_paddlesegs():
    from paddleseg.utils import metrics as theirs

    rng = np.random.default_rng(0)
    label = rng.choice([0, 1, 2, 3, IGNORE], (2, 16, 16)).astype(np.uint8)
    predicted = np.where(rng.random(label.shape) < 0.6, np.minimum(label, 3), 1).astype(np.int32)
    maps = [paddle.to_tensor(m.astype(np.int64)) for m in (predicted, label)]
    # it concatenates scalars, which Paddle no longer does
    concat, paddle.concat = paddle.concat, paddle.stack
    try:
        areas = theirs.calculate_area(*maps, 4, IGNORE)
    finally:
        paddle.concat = concat
    figures = measured(predicted, label).compute()
    assert figures["mIoU"] == pytest.approx(theirs.mean_iou(*areas)[1])
    assert figures["dice"] == pytest.approx(theirs.dice(*areas)[1])
    assert figures["accuracy"] == pytest.approx(theirs.accuracy(*areas[:2])[1])
    assert figures["kappa"] == pytest.approx(theirs.kappa(*areas))


def test_scores_and_labels_count_alike():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 4, 5, 6)).astype(np.float32)
    label = rng.integers(0, 4, (2, 5, 6))
    wanted = measured(logits.argmax(1), label).matrix
    for name in ("logits", "probabilities"):
        metric = SegMetric(NAMES, IGNORE)
        metric.update({name: logits}, {"label": label})
        np.testing.assert_array_equal(metric.matrix, wanted)


@settings(max_examples=10, deadline=None)
@given(st.lists(label_maps(), min_size=1, max_size=4))
def test_merging_states_is_counting_once(parts):
    together = SegMetric(NAMES, IGNORE)
    for predicted, label in parts:
        together.update({"labels": predicted}, {"label": label})
    merged = SegMetric(NAMES, IGNORE)
    merged.merge([measured(*part).state() for part in parts])
    np.testing.assert_array_equal(merged.matrix, together.matrix)
    assert merged.compute() == together.compute()


def test_an_absent_class_is_left_out_of_the_mean():
    metric = measured(np.array([[[0, 1]]]), np.array([[[0, 0]]]))
    assert metric.compute()["mIoU"] == pytest.approx(0.25)
    lines = metric.report().splitlines()
    assert len(lines) == 5
    assert lines[1].split() == ["a", "0.500", "1.000", "0.500", "1.000"]
    assert lines[3].split() == ["c", "-", "-", "-", "0.000"]


def test_an_empty_count_is_zero():
    metric = SegMetric(NAMES)
    assert metric.compute() == {"mIoU": 0.0, "accuracy": 0.0, "kappa": 0.0, "dice": 0.0}
    assert metric.report()


def test_reset_and_state_are_independent():
    metric = measured(np.array([[[0]]]), np.array([[[0]]]))
    state = metric.state()
    metric.reset()
    assert metric.matrix.sum() == 0
    assert state.sum() == 1


def test_sizes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 2, 2\)"):
        measured(np.zeros((1, 1, 2), int), np.zeros((1, 2, 2), int))


def test_confusion_ignores():
    matrix = confusion(np.array([0, 1, 1]), np.array([1, 1, 9]), 2, 9)
    np.testing.assert_array_equal(matrix, [[0, 0], [1, 1]])
