"""Rounding and its gradients against numpy, written from the formulas of the papers."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core.quant.fake_quant import (
    clip_and_fake_quantize,
    fake_quantize,
    fake_quantize_by_step,
    fake_quantize_weight,
)
from core.quant.scales import Grid

RNG = np.random.default_rng(0)
GRIDS = [(bits, signed) for bits in (2, 3, 4, 8) for signed in (True, False)]


def on_grid(x: np.ndarray, absmax: float, bits: int, signed: bool) -> np.ndarray:
    """q = clip(round(x / step), lowest, highest) * step, in float32 as the runtimes do."""
    highest = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    lowest = -highest - 1 if signed else 0
    steps = np.rint(x.astype(np.float32) * np.float32(highest) / np.float32(absmax))
    return (np.clip(steps, lowest, highest) * np.float64(absmax) / highest).astype(np.float32)


def values(size: int = 4000, spread: float = 1.0) -> np.ndarray:
    return RNG.normal(scale=spread, size=size).astype(np.float32)


def tensor(x: Any, trainable: bool = False) -> paddle.Tensor:
    return paddle.to_tensor(np.asarray(x, np.float32), stop_gradient=not trainable)


@pytest.mark.parametrize(("bits", "signed"), GRIDS)
def test_activations_land_on_the_grid(bits: int, signed: bool) -> None:
    x, absmax = values(), 1.3
    found = fake_quantize(tensor(x), tensor([absmax]), bits, signed).numpy()
    np.testing.assert_allclose(found, on_grid(x, absmax, bits, signed), rtol=0, atol=2e-7 * absmax)
    grid = Grid(absmax, bits, signed)
    assert len(np.unique(np.rint(found / grid.step))) <= 2**bits
    assert found.max() == pytest.approx(absmax)
    assert found.min() == pytest.approx(grid.lowest * grid.step if signed else 0.0)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.int16, st.integers(1, 40), elements=st.integers(-700, 700)),
    st.sampled_from(GRIDS),
)
def test_halves_go_to_the_even_step(halves: Any, grid: Any) -> None:
    """Values exactly between two steps, and on them, with steps that floats hold exactly."""
    bits, signed = grid
    highest = Grid(1.0, bits, signed).highest
    x = halves.astype(np.float32) / 2
    found = fake_quantize(tensor(x), tensor([highest]), bits, signed).numpy()
    np.testing.assert_array_equal(found, on_grid(x, highest, bits, signed))


@pytest.mark.parametrize(("bits", "zero_point"), [(8, 1), (8, 77), (8, 254), (4, 5), (2, 2)])
def test_grids_with_a_zero_point_are_those_of_onnx(bits: int, zero_point: int) -> None:
    """y = saturate(round(x / scale) + zero point), half to even, times the scale again."""
    grid = Grid(1.3, bits, signed=False, zero_point=zero_point)
    halves = np.arange(-600, 600, dtype=np.float32) / 2 * np.float32(grid.step)
    x = np.concatenate([values(), halves])
    found = fake_quantize(tensor(x), tensor([grid.absmax]), bits, False, zero_point).numpy()
    steps = np.rint(x / np.float32(grid.step)) + zero_point
    wanted = (np.clip(steps, 0, 2**bits - 1) - zero_point) * np.float32(grid.step)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-7 * np.abs(wanted).max())
    assert found.max() == pytest.approx(grid.absmax)
    assert found.min() == pytest.approx(grid.lowest * grid.step)


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e6, -1e-6), st.floats(1e-6, 1e6), st.sampled_from([2, 4, 8]))
def test_a_grid_between_two_ends_reaches_them_to_a_step(low: float, high: float, bits: int) -> None:
    grid = Grid.between(low, high, bits)
    assert grid.step * (2**bits - 1) == pytest.approx(high - low)
    assert grid.highest - grid.lowest == 2**bits - 1
    assert grid.lowest <= -1
    assert grid.highest >= 1
    assert grid.absmax == pytest.approx(high, abs=1.01 * grid.step)
    assert grid.lowest * grid.step == pytest.approx(low, abs=1.01 * grid.step)


def test_the_gradient_of_plain_rounding_goes_straight_through() -> None:
    x, weights = tensor(values(), True), values()
    (fake_quantize(x, tensor([0.5]), 8, True) * tensor(weights)).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), weights)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_round_to_their_own_range(axis: int | None, bits: int) -> None:
    weight = RNG.normal(size=(6, 5, 3, 3)).astype(np.float32)
    weight[2] = 0.0
    other = tuple(i for i in range(4) if i != axis)
    absmax = np.abs(weight).max(axis=other if axis is not None else None, keepdims=True)
    highest = 2 ** (bits - 1) - 1
    safe = np.where(absmax == 0, 1, absmax)
    wanted = np.rint(weight * np.float32(highest) / safe) * safe / highest
    given_weight, factor = tensor(weight, True), RNG.normal(size=weight.shape).astype(np.float32)
    found = fake_quantize_weight(given_weight, bits, axis)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=3e-7 * float(absmax.max()))
    assert not found.numpy()[2].any()
    (found * tensor(factor)).sum().backward()
    np.testing.assert_array_equal(given_weight.grad.numpy(), factor)


@pytest.mark.parametrize(("bits", "signed"), GRIDS)
def test_pact_gives_what_is_clipped_to_the_threshold(bits: int, signed: bool) -> None:
    """Choi et al., 2018, equation 3: dy/da is 1 where x >= a, else 0; symmetric if signed."""
    x, threshold, upstream = values(), 0.8, values()
    given_x, learned = tensor(x, True), tensor([threshold], True)
    found = clip_and_fake_quantize(given_x, learned, bits, signed)
    np.testing.assert_allclose(
        found.numpy(), on_grid(x, threshold, bits, signed), rtol=0, atol=2e-7
    )
    (found * tensor(upstream)).sum().backward()
    above, below = x >= threshold, (x <= -threshold) & signed
    np.testing.assert_array_equal(given_x.grad.numpy(), np.where(above | below, 0, upstream))
    wanted = upstream[above].sum(dtype=np.float64) - upstream[below].sum(dtype=np.float64)
    assert float(learned.grad) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("bits", "signed", "zero_point"),
    [*((*grid, 0) for grid in GRIDS), (8, False, 90), (3, False, 2)],
)
def test_lsq_learns_its_step(bits: int, signed: bool, zero_point: int) -> None:
    """Esser et al., 2020, equations 3 and 5, the gradient scaled by 1 / sqrt(N Qp)."""
    x, step, upstream = values(), 0.11, values()
    highest = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - zero_point
    lowest = -highest - 1 if signed else -zero_point
    given_x, learned = tensor(x, True), tensor([step], True)
    found = fake_quantize_by_step(given_x, learned, bits, signed, zero_point)
    wanted = np.clip(np.rint(x / np.float32(step)), lowest, highest) * np.float32(step)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-6)
    (found * tensor(upstream)).sum().backward()
    steps = x / np.float32(step)
    inside = (steps > lowest) & (steps < highest)
    np.testing.assert_array_equal(given_x.grad.numpy(), np.where(inside, upstream, 0))
    share = np.where(inside, np.rint(steps) - steps, np.clip(steps, lowest, highest))
    wanted_step = (upstream * share).sum(dtype=np.float64) / np.sqrt(x.size * highest)
    assert float(learned.grad) == pytest.approx(wanted_step, rel=2e-3, abs=1e-4)


def test_without_gradients_nothing_is_kept() -> None:
    x = tensor(values(), True)
    with paddle.no_grad():
        assert fake_quantize(x, tensor([1.0]), 8, True).stop_gradient
        assert fake_quantize_weight(x.reshape([40, 100]), 8, 0).stop_gradient


def test_inputs_without_gradient_still_train_the_threshold_and_the_step() -> None:
    for function in (clip_and_fake_quantize, fake_quantize_by_step):
        learned = tensor([0.05], True)
        function(tensor(values()), learned, 8, True).sum().backward()
        assert float(learned.grad) != 0


def test_half_precision_is_rounded_in_float() -> None:
    x = tensor(values()).astype("float16")
    found = fake_quantize(x, tensor([1.0]), 8, True)
    assert found.dtype == paddle.float16
    wanted = on_grid(x.astype("float32").numpy(), 1.0, 8, True)
    # the cast back to half cuts digits off: one unit in the last of ten bits
    np.testing.assert_allclose(found.astype("float32").numpy(), wanted, rtol=2**-10)


@pytest.mark.parametrize(("absmax", "bits"), [(0.0, 8), (-1.0, 8), (float("nan"), 8), (1.0, 1)])
def test_a_grid_that_is_none_is_refused(absmax: float, bits: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        Grid(absmax, bits)


@pytest.mark.parametrize(("signed", "zero_point"), [(True, 1), (False, 255), (False, -1)])
def test_a_zero_point_that_leaves_no_step_is_refused(signed: bool, zero_point: int) -> None:
    with pytest.raises(ValueError, match=r"^zero_point: expected 0 to "):
        Grid(1.0, 8, signed, zero_point)
