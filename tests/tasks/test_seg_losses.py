"""Losses against PaddleSeg's own and against numpy."""

import functools
import warnings

import numpy as np
import paddle
import pytest

from core.errors import ConfigError
from tasks.seg import losses
from tasks.seg.config import CrossEntropy, Detail, Dice, LossConfig, Mixed, Ohem

CLASSES, IGNORE = 5, 255
RNG = np.random.default_rng(3)
LOGITS = RNG.normal(0, 2, (2, CLASSES, 24, 32)).astype(np.float32)
LABEL = RNG.integers(0, CLASSES, (2, 24, 32)).astype(np.uint8)
LABEL[:, :3] = IGNORE
LABEL[1, 10:, 5] = IGNORE
WEIGHTS = (0.5, 1.0, 2.0, 4.0, 0.0)


@pytest.fixture
def peer(monkeypatch):
    """PaddleSeg's losses, with the mixing of int and float that Paddle allowed when it was made."""

    def promote(operation):
        @functools.wraps(operation)
        def wrapped(self, other):
            if isinstance(other, paddle.Tensor) and self.is_floating_point():
                other = other.astype(self.dtype)
            elif isinstance(other, paddle.Tensor) and other.is_floating_point():
                self = self.astype(other.dtype)
            return operation(self, other)

        return wrapped

    for name in ("__add__", "__mul__", "__sub__", "__truediv__"):
        monkeypatch.setattr(paddle.Tensor, name, promote(getattr(paddle.Tensor, name)))
    embed = paddle.nn.functional.one_hot
    monkeypatch.setattr(paddle.nn.functional, "one_hot", lambda x, n: embed(x.astype("int64"), n))
    with warnings.catch_warnings():
        from paddleseg.models import losses as theirs
    return theirs


def value_and_gradient(function, logits=LOGITS):
    tensor = paddle.to_tensor(logits, stop_gradient=False)
    value = function(tensor, paddle.to_tensor(LABEL.astype(np.int64)))
    value.backward()
    return float(value), tensor.grad.numpy()


def assert_same(ours, theirs, logits=LOGITS):
    (value, gradient), (wanted, wanted_gradient) = (
        value_and_gradient(function, logits) for function in (ours, theirs)
    )
    assert value == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-7 + 1e-4 * np.abs(gradient).max())


def softmax(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def chosen_probabilities(logits, label):
    index = np.where(label == IGNORE, 0, label)[:, None]
    return np.take_along_axis(softmax(logits), index.astype(int), 1)[:, 0]


@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_cross_entropy_is_paddlesegs(peer, weights):
    assert_same(
        lambda x, y: losses.cross_entropy(x, y, IGNORE, weights),
        peer.CrossEntropyLoss(weight=list(weights) or None),
    )


@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_cross_entropy_is_the_formula(weights):
    label = paddle.to_tensor(LABEL.astype(np.int64))
    value = losses.cross_entropy(paddle.to_tensor(LOGITS), label, IGNORE, weights)
    counts = LABEL != IGNORE
    of_pixel = np.array(weights or [1.0] * CLASSES)[np.where(counts, LABEL, 0)] * counts
    wanted = (-np.log(chosen_probabilities(LOGITS, LABEL)) * of_pixel).sum() / of_pixel.sum()
    assert float(value) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("threshold", "min_kept"),
    [(0.7, 100), (0.7, 1300), (0.001, 200), (0.3, 10_000)],
)
def test_ohem_is_paddlesegs(peer, threshold, min_kept):
    assert_same(
        lambda x, y: losses.ohem(x, y, IGNORE, threshold, min_kept),
        peer.OhemCrossEntropyLoss(threshold, min_kept),
    )


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 100), (0.01, 200)])
def test_ohem_is_the_formula(threshold, min_kept):
    label = paddle.to_tensor(LABEL.astype(np.int64))
    value = losses.ohem(paddle.to_tensor(LOGITS), label, IGNORE, threshold, min_kept)
    chosen = chosen_probabilities(LOGITS, LABEL)[LABEL != IGNORE]
    limit = max(threshold, np.sort(chosen)[min_kept - 1])
    assert float(value) == pytest.approx(-np.log(chosen[chosen < limit]).mean(), rel=1e-3)


@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_dice_is_paddlesegs(peer, weights):
    theirs = peer.DiceLoss(weight=list(weights) or None, smooth=0.5)
    assert_same(
        lambda x, y: losses.dice(x, y, IGNORE, weights, 0.5),
        lambda x, y: theirs(x, y.clone()),
    )


def test_dice_is_the_formula():
    label = paddle.to_tensor(LABEL.astype(np.int64))
    value = losses.dice(paddle.to_tensor(LOGITS), label, IGNORE, smooth=1.0)
    got, counts = softmax(LOGITS), LABEL != IGNORE
    per_class = [
        1 - (2 * (g * (y == k))[m].sum() + 1) / (g[m].sum() + (y == k)[m].sum() + 1)
        for k in range(CLASSES)
        for g, y, m in zip(got[:, k], LABEL, counts)
    ]
    assert float(value) == pytest.approx(np.mean(per_class), rel=1e-5)


@pytest.mark.parametrize("size", [(24, 32), (6, 8)])
def test_detail_is_paddlesegs(peer, size):
    theirs = peer.DetailAggregateLoss()
    # PaddleSeg leaves the fusion of the scales random; these are the paper's weights
    theirs.fuse_kernel.set_value(np.array(losses.EDGE_FUSION, np.float32).reshape(1, 3, 1, 1))
    logits = RNG.normal(size=(2, 1, *size)).astype(np.float32)
    assert_same(losses.detail, theirs, logits)


def test_detail_needs_a_head_of_one_channel():
    outputs = {"logits": paddle.to_tensor(LOGITS)}
    with pytest.raises(ConfigError, match=r"^loss\.heads: detail judges a head of one channel"):
        losses.head_losses(outputs, paddle.to_tensor(LABEL), LossConfig(Detail()), IGNORE, CLASSES)


def test_mixed_is_the_sum_of_paddlesegs(peer):
    mixed = Mixed(losses=(CrossEntropy(), Dice()), coef=(0.8, 0.2))

    def ours(x, y):
        terms = losses.head_losses({"logits": x}, y, LossConfig(mixed), IGNORE, CLASSES)
        assert list(terms) == ["logits/cross_entropy", "logits/dice"]
        return sum(terms.values())

    def theirs(x, y):  # its own sum fails: its Dice changes the labels that its CE still needs
        return peer.CrossEntropyLoss()(x, y) * 0.8 + peer.DiceLoss()(x, y.clone()) * 0.2

    assert_same(ours, theirs)


@pytest.mark.parametrize("function", [CrossEntropy(WEIGHTS), Ohem(), Dice()])
def test_labels_stay_and_ignored_images_cost_nothing(function):
    label = paddle.full([1, 8, 8], IGNORE, dtype="uint8")
    logits = paddle.to_tensor(LOGITS[:1, :, :8, :8], stop_gradient=False)
    terms = losses.head_losses({"logits": logits}, label, LossConfig(function), IGNORE, CLASSES)
    value = sum(terms.values())
    value.backward()
    assert float(value) == pytest.approx(0, abs=1e-6)
    assert np.abs(logits.grad.numpy()).max() == 0
    assert (label.numpy() == IGNORE).all()


def test_heads_are_weighted_named_and_resized():
    outputs = {
        "logits": paddle.to_tensor(LOGITS),
        "aux_1": paddle.to_tensor(LOGITS[:, :, ::4, ::4]),
        "aux_2": paddle.to_tensor(LOGITS[:, :1]),
    }
    config = LossConfig(heads=(CrossEntropy(), Ohem(min_kept=50), Detail()), coef=(1, 0.5, 2))
    label = paddle.to_tensor(LABEL)
    terms = losses.head_losses(outputs, label, config, IGNORE, CLASSES)
    assert list(terms) == ["logits/cross_entropy", "aux_1/ohem", "aux_2/detail"]
    larger = paddle.nn.functional.interpolate(outputs["aux_1"], [24, 32], mode="bilinear")
    wanted = losses.ohem(larger, label.astype("int64"), IGNORE, 0.7, 50)
    assert float(terms["aux_1/ohem"]) == pytest.approx(0.5 * float(wanted))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LossConfig(coef=(1.0,)), r"^loss\.coef: expected 2 entries.*logits, aux_1.*got 1"),
        (LossConfig(heads=(CrossEntropy(),) * 3), r"^loss\.heads: expected 2 entries.*got 3"),
        (LossConfig(), r"^loss\.heads: output aux_1 .* 1 channels.*5 classes"),
    ],
)
def test_heads_that_do_not_fit(config, message):
    outputs = {"logits": paddle.to_tensor(LOGITS), "aux_1": paddle.to_tensor(LOGITS[:, :1])}
    with pytest.raises(ConfigError, match=message):
        losses.head_losses(outputs, paddle.to_tensor(LABEL), config, IGNORE, CLASSES)
