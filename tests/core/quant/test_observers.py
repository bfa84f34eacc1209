"""Ranges of grids from observed values; each kind against brute force over the raw values."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import wasserstein_distance

from core.errors import ConfigError, DataError
from core.quant.histogram import BINS, Histogram
from core.quant.observers import ABSMAX_OF_ZEROS, OBSERVERS, build_observer

HISTOGRAMS = ("percentile", "kl", "mse", "emd", "output_mse")
GRIDS = [(8, True), (8, False), (4, True), (4, False), (2, True), (2, False)]


def observe(kind, *batches):
    observer = OBSERVERS[kind]("block.conv")
    for batch in batches:
        observer.observe(np.asarray(batch, np.float32))
    return observer


def width(largest):
    """A bin's width: the power of two with which BINS bins just cover the largest magnitude."""
    return 2.0 ** (math.floor(math.log2(largest)) + 1) / BINS


def rounded(values, absmax, bits, signed):
    highest = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    lowest = -(2 ** (bits - 1)) if signed else 0
    step = absmax / highest
    return step * np.clip(np.round(values.astype(np.float64) / step), lowest, highest)


def sample(signed, seed=0, size=4000):
    values = np.random.default_rng(seed).laplace(0, 0.7, size).astype(np.float32)
    return values if signed else np.maximum(values, 0)


finite = st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False).map(
    lambda x: x if abs(x) >= 1e-20 else 0.0
)
arrays = hnp.arrays(np.float32, st.integers(1, 30), elements=finite)
batches = st.lists(arrays, min_size=1, max_size=5)


def test_absmax_and_average_by_hand():
    data = [[1.0, -3.0], [0.5, 2.0], [-7.0, 0.0]]
    assert observe("abs_max", *data).absmax(8, True) == 7
    assert observe("avg", *data).absmax(8, True) == 4
    assert observe("avg", *data).lowest == -7


@pytest.mark.parametrize("kind", OBSERVERS)
def test_tensors_count_as_arrays_do(kind):
    data = sample(True, size=24).reshape(2, 3, 4)
    wanted = observe(kind, data).absmax(8, True)
    for tensor in (paddle.to_tensor(data), paddle.to_tensor(data).astype("float64")):
        observer = build_observer(kind, "conv")
        observer.observe(tensor)
        assert observer.absmax(8, True) == wanted


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.9, 99.99, 100.0])
@pytest.mark.parametrize("signed", [True, False])
def test_percentile_is_that_of_the_raw_values_within_a_bin(percentile, signed, monkeypatch):
    monkeypatch.setattr("core.quant.observers.PERCENTILE", percentile)
    values = sample(signed)
    got = observe("percentile", values[:100], values[100:]).absmax(8, signed)
    magnitudes = np.sort(np.abs(values))
    wanted = magnitudes[math.ceil(round(percentile * len(values) / 100, 6)) - 1]
    if wanted == 0:
        wanted = magnitudes[-1]
    assert wanted <= got <= wanted + width(magnitudes[-1])


def test_percentile_of_values_that_are_mostly_zero_is_the_largest(monkeypatch):
    assert observe("percentile", [0.0] * 99_999 + [3.0]).absmax(8, False) == 3
    monkeypatch.setattr("core.quant.observers.PERCENTILE", 100.0)
    assert observe("percentile", [0.0] * 9_999 + [3.0]).absmax(8, False) == 3


@pytest.mark.parametrize(("bits", "signed"), GRIDS)
@pytest.mark.parametrize("seed", range(3))
def test_mse_finds_the_range_of_the_smallest_squared_error(bits, signed, seed):
    """The root of the error of a range is off by half a bin in the histogram, there and back a bin.

    Brute force tries the same 32 ranges per octave, but all of them.
    """
    values = sample(signed, seed)
    largest = float(np.abs(values).max())
    got = observe("mse", *np.split(values, 4)).absmax(bits, signed)

    def error(absmax):
        return math.sqrt(np.mean((values - rounded(values, absmax, bits, signed)) ** 2))

    tried = [largest * 2 ** (-step / 32) for step in range(32 * 12)]
    assert error(got) <= min(map(error, tried)) + width(largest)
    assert any(math.isclose(got, each, rel_tol=1e-9) for each in tried)
    if bits < 8:
        assert error(got) < error(largest)  # clipping pays


@pytest.mark.parametrize(("bits", "signed"), GRIDS)
def test_output_mse_weighs_errors_with_squared_gradients(bits, signed):
    values = sample(signed)
    gradients = np.random.default_rng(1).normal(size=values.shape).astype(np.float32)
    gradients *= np.where(np.abs(values) > 2, 30.0, 1.0)  # what is large matters
    observer = build_observer("output_mse", "conv")
    for part, gradient in zip(np.split(values, 4), np.split(gradients, 4)):
        tensor = paddle.to_tensor(part, stop_gradient=False)
        observer.observe(tensor)
        (tensor * paddle.to_tensor(gradient)).sum().backward()
    got = observer.absmax(bits, signed)

    def error(absmax):
        return np.sqrt(np.mean((gradients * (values - rounded(values, absmax, bits, signed))) ** 2))

    largest = float(np.abs(values).max())
    tried = [largest * 2 ** (-step / 32) for step in range(32 * 12)]
    slack = width(largest) * np.sqrt(np.mean(gradients**2))
    chosen = [each for each in tried if np.isclose(min(1.25 * each, largest), got, rtol=1e-9)]
    assert chosen
    assert min(map(error, chosen)) <= min(map(error, tried)) + slack
    assert got >= observe("mse", values).absmax(bits, signed)
    if bits == 4:
        assert got > observe("mse", values).absmax(bits, signed)


@pytest.mark.parametrize("bits", [4, 8])
def test_output_mse_ends_a_quarter_farther_out_but_not_beyond_what_was_seen(bits):
    values = np.append(sample(True), 12.0).astype(np.float32)  # equal gradients: one error each
    low, high = observe("mse", values).ends(bits)
    wanted = max(1.25 * low, float(values.min())), min(1.25 * high, 12.0)
    np.testing.assert_allclose(observe("output_mse", values).ends(bits), wanted, rtol=1e-12)
    assert wanted[0] < low or bits == 8
    absmax = observe("mse", values).absmax(bits, True)
    assert observe("output_mse", values).absmax(bits, True) == min(1.25 * absmax, 12.0)


def test_gradients_that_are_not_finite_are_refused():
    observer = build_observer("output_mse", "stage1.conv")
    tensor = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
    observer.observe(tensor)
    (tensor * paddle.to_tensor([1.0, float("inf")])).sum().backward()
    for ask in (observer.absmax, lambda bits, _signed: observer.ends(bits)):
        with pytest.raises(DataError, match=r"stage1\.conv: expected finite gradients"):
            ask(8, True)


@pytest.mark.parametrize(("bits", "signed"), GRIDS)
def test_emd_finds_the_range_of_the_smallest_distance_of_distributions(bits, signed):
    values = sample(signed, size=1000)
    largest = float(np.abs(values).max())
    got = observe("emd", values).absmax(bits, signed)

    def distance(absmax):
        return wasserstein_distance(values, rounded(values, absmax, bits, signed))

    tried = [largest * 2 ** (-step / 32) for step in range(32 * 12)]
    assert distance(got) <= min(map(distance, tried)) + width(largest)


def test_rare_outliers_are_clipped_by_all_kinds_with_a_histogram():
    values = np.append(np.random.default_rng(0).normal(size=200_000), 12.0)
    for kind in HISTOGRAMS:
        assert 2.5 < observe(kind, values).absmax(8, True) < 8, kind
    assert observe("abs_max", values).absmax(8, True) == 12


def divergence(counts, end, levels):
    """The slides' procedure, bin by bin."""
    p = [float(count) for count in counts[:end]]
    p[-1] += sum(counts[end:])
    q = [0.0] * end
    for level in range(levels):
        group = range(level * end // levels, (level + 1) * end // levels)
        filled = [index for index in group if p[index] > 0]
        for index in filled:
            q[index] = sum(counts[each] for each in group) / len(filled)
    total = 0.0
    for one, other in zip(p, q):
        if one > 0:
            if other == 0:
                return math.inf
            total += one / sum(p) * math.log(one / sum(p) / (other / sum(q)))
    return total


@pytest.mark.parametrize(("bits", "signed"), [(8, True), (8, False), (2, True)])
def test_kl_does_what_the_slides_say(bits, signed):
    values = sample(signed, size=3000)
    largest = float(np.abs(values).max())
    bin_width = width(largest)
    got = observe("kl", values).absmax(bits, signed)
    levels = 2 ** (bits - 1) if signed else 2**bits
    counts = np.bincount((np.abs(values[values != 0]) / bin_width).astype(int)).tolist()
    end = len(counts) if got == largest else round(got / bin_width)
    ends = {*range(levels, len(counts), 97), len(counts)}
    assert divergence(counts, end, levels) <= min(divergence(counts, e, levels) for e in ends)


def test_kl_by_hand():
    """Bins of 1: 1000 values in the first, 10 in the second, then nothing, and one far away.

    Two steps and the range up to 2 keep the two bins as they are: only the far value, moved to the
    second bin, is wrong. The whole range spreads the 1010 evenly over the first two; all between
    have nothing where the far value is moved to.
    """
    edge = BINS / 2
    values = [0.5] * 1000 + [1.5] * 10 + [edge + 0.5]
    assert observe("kl", values).absmax(2, True) == 2
    # equal counts in every bin: merged they are the same, so nothing needs to be clipped
    even = np.arange(BINS) + 0.5
    assert observe("kl", even).absmax(8, True) == BINS - 0.5
    # the zeros of a ReLU say nothing
    assert observe("kl", [0.0] * 10**6, values).absmax(2, True) == 2
    # clipped to where nothing is, the divergence would be infinite
    assert observe("kl", [1.0, 3000.0]).absmax(8, False) == 3000


def test_kl_keeps_values_that_are_nowhere_near_zero():
    values = np.random.default_rng(0).uniform(0.5, 1.0, 20_000)
    assert observe("kl", values).absmax(8, False) > 0.97


@pytest.mark.parametrize("kind", OBSERVERS)
@settings(max_examples=40, deadline=None)
@given(data=batches, bits=st.integers(2, 8), signed=st.booleans())
def test_ranges_are_positive_and_at_most_the_largest(kind, data, bits, signed):
    data = data if signed else [np.abs(each) for each in data]
    largest = max(float(np.abs(each).max()) for each in data)
    got = observe(kind, *data).absmax(bits, signed)
    assert got == ABSMAX_OF_ZEROS if largest == 0 else 0 < got <= largest


@pytest.mark.parametrize("kind", OBSERVERS)
@settings(max_examples=25, deadline=None)
@given(data=batches, power=st.integers(-20, 20))
def test_scaled_values_scale_the_range(kind, data, power):
    """By a power of two, exactly; the last bits of an average and of errors may differ."""
    first = observe(kind, *data)
    if first.largest == 0:
        return
    second = observe(kind, *[each * np.float32(2.0**power) for each in data])
    assert second.absmax(8, True) == pytest.approx(first.absmax(8, True) * 2.0**power, rel=1e-9)


@pytest.mark.parametrize("factor", [0.3, 1.7, 100.0])
def test_other_factors_scale_what_is_read_off_a_histogram_within_a_bin(factor):
    values = sample(True)
    scaled = (values * factor).astype(np.float32)
    one, other = observe("percentile", values), observe("percentile", scaled)
    bound = width(other.largest) + factor * width(one.largest)
    assert abs(other.absmax(8, True) - factor * one.absmax(8, True)) <= bound


@pytest.mark.parametrize("kind", OBSERVERS)
@settings(max_examples=25, deadline=None)
@given(data=batches, random=st.randoms(use_true_random=False))
def test_the_order_of_batches_does_not_matter(kind, data, random):
    shuffled = random.sample(data, len(data))
    first, second = observe(kind, *data), observe(kind, *shuffled)
    assert first.absmax(8, True) == pytest.approx(second.absmax(8, True), rel=1e-12)
    assert first.lowest == second.lowest


@settings(max_examples=50, deadline=None)
@given(data=batches)
def test_a_histogram_that_grew_is_that_of_all_values_at_once(data):
    grown, whole = Histogram(), Histogram()
    for each in data:
        grown.add(each, float(np.abs(each).max()))
    everything = np.concatenate(data)
    whole.add(everything, float(np.abs(everything).max()))
    assert (grown.width, grown.zeros) == (whole.width, whole.zeros)
    np.testing.assert_array_equal(grown.counts, whole.counts)
    assert grown.counts.sum() + grown.zeros == everything.size
    edges = np.arange(-BINS, BINS + 1) * grown.width
    brute = np.histogram(everything[everything != 0].astype(np.float64), edges)[0]
    np.testing.assert_array_equal(grown.counts, brute)


def test_a_signed_grid_wastes_half_on_values_that_are_never_negative():
    """So the steps of an unsigned one are finer where the range is about the same."""
    observer = observe("mse", sample(False))
    signed, unsigned = observer.absmax(4, True), observer.absmax(4, False)
    assert unsigned / 15 < 0.75 * signed / 7
    assert observer.lowest == 0


@pytest.mark.parametrize("kind", OBSERVERS)
def test_zeros_and_specks_get_a_range_all_the_same(kind):
    assert observe(kind, [0.0, -0.0]).absmax(8, False) == ABSMAX_OF_ZEROS
    assert observe(kind, [1e-38]).absmax(8, False) == ABSMAX_OF_ZEROS
    assert 0 < observe(kind, [0.0], [1e-29, 2e-29]).absmax(8, False) <= 2.1e-29


@pytest.mark.parametrize("kind", OBSERVERS)
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("convert", [np.asarray, paddle.to_tensor])
def test_values_that_are_not_finite_name_the_layer(kind, wrong, convert):
    observer = build_observer(kind, "stage1.conv")
    with pytest.raises(DataError, match=r"^stage1\.conv: expected finite"):
        observer.observe(convert(np.array([1.0, wrong, 2.0], np.float32)))
    with pytest.raises(DataError, match=r"^stage1\.conv: no activations"):
        observer.absmax(8, True)


@pytest.mark.parametrize("kind", OBSERVERS)
def test_nothing_to_see_and_signs_that_do_not_fit_name_the_layer(kind):
    with pytest.raises(DataError, match=r"^block\.conv: no activations"):
        observe(kind).absmax(8, True)
    with pytest.raises(DataError, match=r"^block\.conv: .*empty tensor \[0, 3\]"):
        observe(kind, np.zeros((0, 3)))
    with pytest.raises(DataError, match=r"^block\.conv: an unsigned grid .* -0.5"):
        observe(kind, [-0.5, 2.0]).absmax(8, False)


def test_unknown_kinds_are_refused():
    with pytest.raises(ConfigError, match=r"observer: expected one of abs_max, .* got 'hist'"):
        build_observer("hist", "conv")
    with pytest.raises(TypeError):
        OBSERVERS["mine"] = OBSERVERS["kl"]


@pytest.mark.parametrize("kind", OBSERVERS)
@pytest.mark.parametrize("shift", [-3.0, -0.5, 0.0, 0.5, 3.0])
def test_ends_for_a_zero_point_are_on_either_side_and_within_the_values(kind, shift):
    values = sample(True) + np.float32(shift)
    low, high = observe(kind, values[:1000], values[1000:]).ends(8)
    least = 1.01e-3 * max(-low, high)
    assert low < 0 < high
    assert low >= min(values.min(), -least) - 1e-6
    assert high <= max(values.max(), least) + 1e-6


@pytest.mark.parametrize(("kind", "power"), [("mse", 2), ("emd", 1)])
@pytest.mark.parametrize("bits", [4, 8])
def test_ends_for_a_zero_point_are_the_best_by_brute_force(kind, power, bits):
    """Each end by itself, the other as found, cannot be placed better but for the bins' width."""
    values = np.concatenate([sample(True, size=3000) * 0.2, sample(False, seed=1, size=3000) + 0.4])
    ends = observe(kind, values).ends(bits)

    def error(low, high):
        steps = 2**bits - 1
        step = (high - low) / steps
        zero = min(max(round(-low / step), 1), steps - 1)
        on_grid = np.clip(np.rint(values.astype(np.float64) / step), -zero, steps - zero) * step
        return (np.abs(values - on_grid) ** power).mean()

    found = error(*ends)
    for factor in 2.0 ** np.arange(-3, 3, 1 / 8):
        low, high = max(ends[0] * factor, values.min()), min(ends[1] * factor, values.max())
        assert found <= 1.05 * error(low, ends[1])
        assert found <= 1.05 * error(ends[0], high)
    symmetric = observe(kind, values).absmax(bits, True)
    assert found < 0.8 * np.mean(np.abs(values - rounded(values, symmetric, bits, True)) ** power)


@pytest.mark.parametrize("kind", OBSERVERS)
def test_ends_of_zeros_are_those_of_a_grid_to_one(kind):
    assert observe(kind, np.zeros(9)).ends(8) == (-ABSMAX_OF_ZEROS, ABSMAX_OF_ZEROS)
