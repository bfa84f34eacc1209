"""Grids of weights: within their limits for all weights, and no coarser than the limits ask for."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core.quant.fake_quant import fake_quantize_limited_weight
from core.quant.weight_grid import _survive_loading, limit_weight, quantize_weight
from core.targets.processors import MIDDLE

SHAPES = {(16, 8, 3, 3): 0, (24, 10): 1, (12, 6, 2, 2): 1, (5, 1, 1, 1): 0, (6, 192, 1, 1): 0}
LIMITS = ("none", "pair_sum", "even")


def draw(shape, seed=0):
    """Draw weights of channels that differ in size, one of them zero, one with a huge weight."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(3, shape).astype("float32")
    channels = weight if SHAPES[shape] == 0 else np.swapaxes(weight, 0, 1)
    channels *= rng.uniform(1e-3, 10, len(channels)).reshape([-1] + [1] * (weight.ndim - 1))
    channels[1] = 0
    channels[2].reshape(-1)[0] = 1e4
    return weight


def rows_of(array, axis):
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def values(steps, absmax, axis):
    shape = [1] * steps.ndim
    shape[axis] = -1
    return steps.astype("float64") * absmax.reshape(shape) / 127


def pairs_of(steps, axis):
    """Return the largest sum of two steps of a channel, and that of the negated ones."""
    ordered = np.sort(rows_of(steps.astype(int), axis))
    if ordered.shape[1] == 1:
        return 0, 0
    return int(ordered[:, -2:].sum(1).max()), int(-ordered[:, :2].sum(1).min())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("limit", LIMITS)
def test_values_are_near_the_weights(shape, limit):
    weight, axis = draw(shape), SHAPES[shape]
    steps, absmax = quantize_weight(weight, axis, limit)
    assert (steps.dtype, absmax.dtype) == (np.int8, np.float32)
    assert absmax.shape == (shape[axis],)
    wide = 1.0 if limit == "even" else 0.5  # even steps are twice as far apart
    apart = np.abs(values(steps, absmax, axis) - weight)
    step = rows_of(values(np.full_like(steps, 1), absmax, axis), axis)
    assert (rows_of(apart, axis) <= step * wide * (1 + 1e-5)).all()


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pairs_stay_within_sixteen_bits(shape, per_channel):
    weight, axis = draw(shape), SHAPES[shape]
    steps, absmax = quantize_weight(weight, axis, "pair_sum", per_channel)
    assert max(pairs_of(steps, axis)) <= 128
    if not per_channel:
        assert absmax.shape == (1,)


def test_the_limit_costs_no_more_than_it_must():
    """A tenth finer, and a pair would add up to more than 128; a lone weight keeps all steps."""
    weight = draw((16, 8, 3, 3))
    _, absmax = quantize_weight(weight, 0, "pair_sum")
    steps = np.rint(weight * 127 / (absmax.reshape(-1, 1, 1, 1) * 0.985))
    for channel, row in enumerate(rows_of(steps, 0)):
        ordered = np.sort(row)
        over = max(ordered[-2:].sum(), -ordered[:2].sum()) > 128
        assert over or np.abs(row).max() > 127 or channel == 1
    lone = np.float32([[[[3.0, -2.9, 0.01]]]])
    np.testing.assert_array_equal(quantize_weight(lone, 0, "pair_sum")[1], np.float32([3.0]))
    assert quantize_weight(lone, 0, "pair_sum")[0].ravel().tolist() == [127, -123, 0]


@settings(deadline=None, max_examples=300)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 12)),
        elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
    ),
    st.randoms(use_true_random=False),
)
def test_no_pairing_saturates(weight, random):
    """Drawn weights at largest inputs, in every order that kernels might take."""
    steps, _ = quantize_weight(weight, 0, "pair_sum")
    for row in steps.astype(np.int64):
        order = list(range(len(row)))
        for _ in range(5):
            random.shuffle(order)
            padded = np.append(row[order], [0] * (len(row) % 2))
            for mask in (padded > 0, padded < 0, np.ones(len(padded), bool)):
                products = np.where(mask, 255, 0) * padded
                pairs = products.reshape(-1, 2).sum(1)
                np.testing.assert_array_equal(pairs, pairs.astype(np.int16))


@settings(deadline=None, max_examples=200)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 12)),
        elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
    )
)
def test_even_steps_survive_halving(weight):
    steps, absmax = quantize_weight(weight, 0, "even")
    steps = steps.astype(int)
    largest = np.abs(steps).max(1)
    assert np.isin(largest, (0, 127)).all()  # oneDNN changes no scale when it loads the file
    halved = np.rint(steps / 2) * 2
    np.testing.assert_array_equal(
        halved, np.where(np.abs(steps) == 127, steps + np.sign(steps), steps)
    )
    top = np.abs(weight).max(1)
    np.testing.assert_allclose(np.where(top > 0, absmax * MIDDLE / 127, top), top, rtol=1e-4)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_eager_weights_are_those_of_files(shape, limit, per_channel):
    weight, axis = draw(shape), SHAPES[shape]
    steps, absmax = quantize_weight(weight, axis, limit, per_channel)
    shaped = absmax if absmax.size > 1 else np.repeat(absmax, shape[axis])
    found = limit_weight(paddle.to_tensor(weight), axis, limit, per_channel, largest=127).numpy()
    scale = rows_of(np.abs(weight), axis).max(1, keepdims=True)
    apart = rows_of(np.abs(found - values(steps, shaped, axis)), axis)
    ties = apart > 1e-5 * np.maximum(scale, 1e-12)  # float32 and float64 may part at a tie
    assert ties.mean() < 0.002


def test_the_largest_even_step_stands_for_what_a_processor_makes_of_it():
    weight = paddle.to_tensor([[0.5, -1.0, 0.26]])
    whole = limit_weight(weight, 0, "even", largest=127).numpy()
    halved = limit_weight(weight, 0, "even", largest=128).numpy()
    others = [64 / MIDDLE, 34 / MIDDLE]
    np.testing.assert_allclose(whole[0], [others[0], -127 / MIDDLE, others[1]], rtol=1e-6)
    np.testing.assert_allclose(halved[0], [others[0], -128 / MIDDLE, others[1]], rtol=1e-6)
    between = limit_weight(weight, 0, "even").numpy()
    np.testing.assert_allclose(between[0], [others[0], -1.0, others[1]], rtol=1e-6)


def test_no_processor_moves_a_weight_by_more_than_a_step():
    weight = np.random.default_rng(0).normal(size=(16, 8, 3, 3)).astype("float32")
    step = np.abs(weight).max((1, 2, 3), keepdims=True) / MIDDLE
    for largest in (127, 128):
        found = limit_weight(paddle.to_tensor(weight), 0, "even", largest=largest).numpy()
        off = np.abs(found - weight) / step
        assert off.max() <= 1 + 1e-4
        top = np.abs(weight) == np.abs(weight).max((1, 2, 3), keepdims=True)
        np.testing.assert_allclose(off[top], 0.5, rtol=1e-2)


def test_gradients_go_straight_through():
    weight = paddle.to_tensor(draw((16, 8, 3, 3)), stop_gradient=False)
    rounded = fake_quantize_limited_weight(weight, 0, "pair_sum", True)
    upstream = np.random.default_rng(1).normal(size=weight.shape).astype("float32")
    (rounded * paddle.to_tensor(upstream)).sum().backward()
    np.testing.assert_array_equal(weight.grad.numpy(), upstream)
    with paddle.no_grad():
        assert fake_quantize_limited_weight(weight, 0, "pair_sum", True).stop_gradient


def test_scales_that_loading_does_not_round_below():
    """oneDNN computes 127 x (1 / absmax) x absmax in float32, in one order or another."""
    rng = np.random.default_rng(0)
    absmax = np.exp(rng.uniform(-20, 10, 200_000)).astype("float32")
    found = _survive_loading(absmax)
    factor = (np.float32(1) / found) * np.float32(127)
    assert (found * factor >= 127).all()
    assert (found / (np.float32(1) / factor) >= 127).all()
    assert (np.rint(found * factor * np.float32(0.5)) == 64).all()
    np.testing.assert_allclose(found, absmax, rtol=1e-4)


@pytest.mark.filterwarnings("error")
def test_a_channel_of_the_smallest_numbers_is_no_cause_to_warn():
    weight = np.ones((2, 4), np.float32)
    weight[1] = 1e-39
    steps, absmax = quantize_weight(weight, 0, "even")
    assert (np.abs(steps[0]) == 127).all()
    assert absmax[1] < 1e-38
