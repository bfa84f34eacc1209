"""Weights rounded so that what a layer answers changes least, against every rounding there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.network.layer_fitting import factor
from core.quant.adaptive_rounding import fit_weight, round_weight
from core.quant.weight_grid import LIMITS, quantize_weight
from core.targets.processors import HIGHEST, MIDDLE, PAIR

LIMITED = pytest.mark.parametrize("limit", LIMITS)


def correlated(rng, samples, groups, count):
    """Draw inputs [samples, groups, K] of which each shares much with its neighbours."""
    shared = rng.normal(size=(samples, groups, 1))
    return (shared + 0.3 * rng.normal(size=(samples, groups, count))).clip(min=0)


def power_of(inputs):
    """Return the mean products of inputs with each other, [groups, K, K], one by one."""
    samples, groups, count = inputs.shape
    power = np.zeros((groups, count, count))
    for row in inputs:
        for group in range(groups):
            power[group] += np.outer(row[group], row[group]) / samples
    return power + 1e-6 * np.eye(count)


def nearest(row, limit):
    """Round a row [K] to nearest; return values and the value of a step."""
    steps, ends = quantize_weight(row[None], 0, limit)
    values = np.where(np.abs(steps) == HIGHEST, np.sign(steps) * np.float32(MIDDLE), steps)
    return (values if limit == "even" else steps)[0] * (ends[0] / HIGHEST), ends[0] / HIGHEST


def on_grid(values, limit):
    """Return the row [K] on the grid that a file derives from these very values."""
    return nearest(values.astype(np.float32).astype(np.float64), limit)[0]


def loss(power, off):
    return off @ power @ off


def best_of_all(row, power, limit):
    """Try each of 3^K roundings up, down and to nearest that stay where they are on their grid."""
    plain, step = nearest(row, limit)
    stride = 2 * step if limit == "even" else step
    found = [
        loss(power, row - values)
        for moves in itertools.product((-1, 0, 1), repeat=len(row))
        if np.allclose(on_grid(values := plain + stride * np.array(moves), limit), values, 1e-4)
    ]
    return min(found)


@LIMITED
def test_rounding_is_near_the_best_of_all_roundings(limit):
    rng = np.random.default_rng(0)
    gained, possible = [], []
    for _ in range(24):
        inputs = correlated(rng, 200, 1, 6)
        weight, power = rng.normal(size=(1, 1, 6)), power_of(inputs)
        row = weight[0, 0]
        plain = loss(power[0], row - nearest(row, limit)[0])
        made = loss(power[0], row - round_weight(weight, factor(power), limit)[0, 0])
        least = best_of_all(row, power[0], limit)
        assert least * (1 - 1e-3) <= made <= plain * (1 + 1e-3)
        gained.append(plain - made)
        possible.append(plain - least)
    assert sum(gained) > 0.7 * sum(possible)
    assert np.mean(np.array(gained) > 0) > 0.25


@LIMITED
def test_inputs_without_correlation_are_rounded_to_nearest(limit):
    rng = np.random.default_rng(1)
    weight, power = rng.normal(size=(3, 4, 6)), np.stack([np.diag(rng.uniform(1, 9, 6))] * 3)
    made = round_weight(weight, factor(power), limit)
    for group, output in np.ndindex(3, 4):
        expected = nearest(weight[group, output], limit)[0]
        np.testing.assert_allclose(made[group, output], expected, rtol=1e-6)


@LIMITED
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_files_round_to_the_same_steps_and_no_pair_overflows(limit, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    groups, outputs, count = (data.draw(st.integers(1, most)) for most in (3, 5, 140))
    weight = rng.normal(size=(groups, outputs, count)) * data.draw(st.sampled_from([1e-3, 1, 40]))
    weight[rng.random(weight.shape) < data.draw(st.sampled_from([0, 0.5]))] = 0
    power = power_of(correlated(rng, 2 * count, groups, count))
    made = round_weight(weight, factor(power), limit)
    rows = made.reshape(-1, count)
    steps, ends = quantize_weight(rows.astype(np.float32), 0, limit)
    rounded = (made != weight).any(axis=2).ravel()  # others: see the next test
    for row, step, end in zip(rows[rounded], steps.astype(int)[rounded], ends[rounded]):
        again = np.where(np.abs(step) == HIGHEST, np.sign(step) * MIDDLE, step)
        again = (again if limit == "even" else step) * (float(end) / HIGHEST)
        np.testing.assert_allclose(again, row, atol=1e-5 * max(np.abs(row).max(), 1e-30))
    if limit == "pair_sum" and count > 1:
        ordered = np.sort(steps.astype(int), axis=1)
        assert (ordered[:, -2:].clip(min=0).sum(1) <= PAIR).all()
        assert (ordered[:, :2].clip(max=0).sum(1) >= -PAIR).all()


@LIMITED
def test_hardly_a_row_stays_unrounded(limit):
    """Two largest values may miss the sum of a pair, when they are rounded, by one step."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(1, 2000, 8))
    made = round_weight(weight, factor(power_of(correlated(rng, 21, 1, 8))), limit)
    assert (made == weight).all(axis=2).mean() <= 0.001


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_fewer_bits(bits):
    rng = np.random.default_rng(2)
    weight, inputs = rng.normal(size=(1, 8, 12)), correlated(rng, 400, 1, 12)
    power, highest = power_of(inputs), 2 ** (bits - 1) - 1
    made = round_weight(weight, factor(power), "pair_sum", bits)[0]
    unit = np.abs(weight[0]).max(axis=1, keepdims=True) / highest
    np.testing.assert_allclose(np.rint(made / unit) * unit, made, atol=1e-9)
    np.testing.assert_allclose(np.abs(made).max(axis=1), highest * unit[:, 0])
    plain = np.rint(weight[0] / unit) * unit
    losses = [sum(loss(power[0], off) for off in weight[0] - each) for each in (made, plain)]
    assert losses[0] < 0.8 * losses[1]


@pytest.mark.parametrize("samples", [15000, 1000])
def test_weight_is_fitted_to_the_inputs_that_the_quantized_layer_reads(samples):
    """Inputs too small by a tenth: the weight becomes larger by a ninth, if samples are many.

    Thirty samples count as one, so that of fewer it stays nearer to what it was.
    """
    rng = np.random.default_rng(3)
    weight, inputs = rng.normal(size=(2, 3, 4)), correlated(rng, samples, 2, 4)
    wanted = np.einsum("gok,ngk->ngo", weight, inputs)
    made = fit_weight(weight, 0.9 * inputs, wanted, "none")
    for group in range(2):
        x, y = 0.9 * inputs[:, group], wanted[:, group]
        damping = max(0.01, 30 * 4 / samples) * np.square(x).mean()
        least = np.linalg.solve(
            x.T @ x / samples + damping * np.eye(4), x.T @ y / samples + damping * weight[group].T
        ).T
        if samples == 15000:
            np.testing.assert_allclose(least, weight[group] / 0.9, atol=0.1)
        unit = np.abs(least).max(axis=1, keepdims=True) / HIGHEST
        steps = made[group] / unit
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)  # products in float32
        assert np.abs(steps - least / unit).max() < 3
        share = 0.1 if samples == 15000 else 0.5
        assert (
            np.square(made[group] @ x.T - y.T).mean()
            < share * np.square(weight[group] @ x.T - y.T).mean()
        )


def test_few_samples_leave_a_weight_near_to_what_it_was():
    rng = np.random.default_rng(4)
    weight = rng.normal(size=(1, 5, 200))
    inputs, noise = rng.normal(size=(20, 1, 200)), 20 * rng.normal(size=(20, 1, 5))
    wanted = np.einsum("gok,ngk->ngo", weight, inputs) + noise
    far = fit_weight(weight, inputs, wanted, "none") - weight
    exact = np.linalg.lstsq(inputs[:, 0], noise[:, 0], rcond=None)[0].T
    rounding = np.abs(weight).max() / HIGHEST
    assert np.square(far).mean() < 0.5 * np.square(exact).mean() + rounding**2


def test_a_row_whose_grid_would_move_is_not_rounded():
    """Both of a pair of 128 steps in all are rounded down: the file would have other steps."""
    rows = np.array([[[70.5, 57.5, 3.3, -20.2], [70.4, 57.6, 3.3, -20.2]]]) / 1000
    made = round_weight(rows, np.eye(4)[None], "pair_sum")
    np.testing.assert_array_equal(made[0, 0], rows[0, 0])
    unit = 0.128 * (1 + 1e-6) / PAIR
    np.testing.assert_allclose(made[0, 1], np.array([70, 58, 3, -20]) * unit, rtol=1e-5)
