"""Losses and metrics of the classification task against NumPy, SciPy, scikit-learn and Paddle."""

from __future__ import annotations

import warnings

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import log_softmax, softmax
from sklearn import metrics

from core.errors import ConfigError
from tasks.cls.config import LossConfig
from tasks.cls.losses import classification_losses, cross_entropy
from tasks.cls.metrics import ClassificationMetric


def make_answers(count: int = 200, classes: int = 8, seed: int = 0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=count)
    logits = rng.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), truth] += 1
    return logits, truth


def counted(outputs, truth, classes, **options) -> ClassificationMetric:
    metric = ClassificationMetric(classes, **options)
    for start in range(0, len(truth), 33):
        part = slice(start, start + 33)
        metric.update({k: v[part] for k, v in outputs.items()}, {"label": truth[part]})
    return metric


def test_accuracies_equal_sklearn():
    logits, truth = make_answers()
    metric = counted({"logits": logits}, truth, 8, topk=(1, 3, 5))
    values, answers = metric.compute(), logits.argmax(axis=1)
    for k in (1, 3, 5):
        expected = metrics.top_k_accuracy_score(truth, logits, k=k, labels=range(8))
        assert values[f"top{k}"] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(metric.confusion, metrics.confusion_matrix(truth, answers))
    recalls = metrics.recall_score(truth, answers, average=None)
    np.testing.assert_allclose(metric.class_accuracy(), recalls)
    assert values["mean_class"] == pytest.approx(metrics.balanced_accuracy_score(truth, answers))


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(np.float32, (7, 4), elements=st.integers(-2, 2)),
    arrays.arrays(np.int64, 7, elements=st.integers(0, 3)),
)
def test_ties_go_to_the_lower_class(logits, truth):
    values = counted({"logits": logits}, truth, 4, topk=(1, 2, 9)).compute()
    order = np.argsort(-logits, axis=1, kind="stable")
    for k in (1, 2):
        assert values[f"top{k}"] == np.mean([t in row[:k] for t, row in zip(truth, order)])
    assert values["top4"] == 1.0
    assert "top9" not in values


def test_merged_states_equal_counting_once():
    logits, truth = make_answers()
    whole = counted({"logits": logits}, truth, 8)
    parts = [counted({"logits": logits[i::3]}, truth[i::3], 8) for i in range(3)]
    merged = ClassificationMetric(8)
    merged.merge([part.state() for part in parts])
    assert merged.compute() == whole.compute()
    assert merged.report() == whole.report()
    merged.reset()
    assert merged.compute() == ClassificationMetric(8).compute()


def test_deployed_endings_are_counted_alike():
    logits, truth = make_answers()
    probabilities = softmax(logits, axis=1)
    by_logits = counted({"logits": logits}, truth, 8).compute()
    assert counted({"probabilities": probabilities}, truth, 8).compute() == by_logits
    ended = {"label": logits.argmax(axis=1), "score": probabilities.max(axis=1)}
    by_label = counted(ended, truth, 8).compute()
    assert by_label == {key: by_logits[key] for key in ("top1", "mean_class")}
    with pytest.raises(ConfigError, match=r"^model\.stop_after: "):
        ClassificationMetric(8).update({"features": logits}, {"label": truth})


def test_nan_is_never_a_hit():
    logits = np.full((3, 4), np.nan, np.float32)
    values = counted({"logits": logits}, np.array([0, 1, 2]), 4, topk=(1, 3)).compute()
    assert values["top1"] == values["top3"] == 0


def test_report_names_classes_and_their_confusions():
    truth = np.array([0, 0, 0, 1, 1])
    answers = np.array([0, 1, 1, 1, 1])
    report = counted({"label": answers}, truth, 3, names=["rose", "tulip", "daisy"]).report()
    lines = report.splitlines()
    assert lines[1].split() == ["rose", "3", "0.3333", "tulip", "(2)"]
    assert lines[2].split() == ["tulip", "2", "1.0000", "-"]
    assert len(lines) == 3  # nothing to say about a class that was not there


def test_classes_that_never_occur_do_not_count():
    truth = np.array([0, 0, 1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric = counted({"label": np.array([0, 0, 0, 1])}, truth, 3)
        assert metric.compute()["mean_class"] == pytest.approx(0.75)
        assert np.isnan(metric.class_accuracy()[2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_classes_and_targets_equals_the_formula(smoothing):
    logits, truth = make_answers()
    targets = np.eye(8)[truth] * (1 - smoothing) + smoothing / 8
    expected = -(targets * log_softmax(logits.astype(np.float64), axis=1)).sum(axis=1).mean()
    tensor = paddle.to_tensor(logits)
    by_class = cross_entropy(tensor, paddle.to_tensor(truth), smoothing)
    soft = paddle.to_tensor(np.eye(8, dtype=np.float32)[truth])
    assert float(by_class) == pytest.approx(expected, rel=1e-5)
    assert float(cross_entropy(tensor, soft, smoothing)) == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_and_its_gradient_equal_paddle():
    logits, _ = make_answers(16)
    rng = np.random.default_rng(1)
    targets = paddle.to_tensor(rng.dirichlet(np.ones(8), size=16).astype(np.float32))
    ours, theirs = (paddle.to_tensor(logits, stop_gradient=False) for _ in range(2))
    cross_entropy(ours, targets, 0.1).backward()
    F.cross_entropy(theirs, F.label_smooth(targets, epsilon=0.1), soft_label=True).backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-7)


def test_auxiliary_outputs_are_weighted():
    logits, truth = make_answers(16)
    label = paddle.to_tensor(truth)
    main, side = paddle.to_tensor(logits), paddle.to_tensor(logits[::-1].copy())
    outputs = {"logits": main, "auxiliary_1": side, "blocks[2]": paddle.rand([16, 4, 2, 2])}
    losses = classification_losses(outputs, label, LossConfig(auxiliary_weight=0.4))
    assert set(losses) == {"loss_ce", "loss_auxiliary_1"}
    expected = 0.4 * float(F.cross_entropy(side, label))
    assert float(losses["loss_auxiliary_1"]) == pytest.approx(expected, rel=1e-5)
    assert losses["loss_ce"].ndim == 0
