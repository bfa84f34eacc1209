"""The proof that 16-bit sums of two products fit, against every pairing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.targets.pair_sums import Int8Layer, Steps, Verdict, check_layer, largest_pair


def pairings(places: list[int]) -> Iterator[list[tuple[int, int]]]:
    """Yield every way to put an even number of places into pairs."""
    if not places:
        yield []
        return
    first, *others = places
    for other in others:
        rest = [place for place in others if place != other]
        for more in pairings(rest):
            yield [(first, other), *more]


def saturated(products: np.ndarray, pairs: list[tuple[int, int]]) -> int:
    """Add up products as `vpmaddubsw` does and 32 bits behind it."""
    return sum(max(-32768, min(32767, int(products[a] + products[b]))) for a, b in pairs)


@st.composite
def channels(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """Weights of one output channel, close to the limit in half of the cases, and the data's ends.

    Returns:
        An even number of weights, and the lowest and highest value of the data.
    """
    highest = draw(st.sampled_from((255, 255, 200, 128, 90)) | st.integers(1, 255))
    lowest = draw(st.sampled_from((0, 0, 0, highest)) | st.integers(0, highest))
    weight = st.integers(-128, 127)
    near = st.integers(32767 // highest - 1, 32767 // highest + 2).map(lambda total: total // 2)
    close = st.tuples(near, st.sampled_from((-1, 1)), st.integers(0, 1)).map(
        lambda parts: max(-128, min(127, parts[1] * (parts[0] + parts[2])))
    )
    count = draw(st.sampled_from((2, 4, 6)))
    return draw(st.lists(weight | close, min_size=count, max_size=count)), lowest, highest


@settings(max_examples=250, deadline=None)
@given(channels())
def test_exact_means_that_no_pairing_differs_and_overflow_that_one_does(
    drawn: tuple[list[int], int, int],
) -> None:
    weights, lowest, highest = drawn
    layer = Int8Layer("w", "Conv", np.array([weights], np.int8), (len(weights),))
    check = check_layer(Int8Layer(**{**vars(layer), "steps": Steps(lowest, highest)}))
    wrong = False
    for data in itertools.product((lowest, highest), repeat=len(weights)):
        products = np.array(data) * np.array(weights)
        every = pairings(list(range(len(weights))))
        wrong |= any(saturated(products, pairs) != products.sum() for pairs in every)
    assert check.verdict is (Verdict.OVERFLOW if wrong else Verdict.EXACT)


@settings(max_examples=200, deadline=None)
@given(channels())
def test_the_witness_is_lost_where_its_two_weights_are_a_pair(
    drawn: tuple[list[int], int, int],
) -> None:
    weights, lowest, highest = drawn
    check = check_layer(
        Int8Layer("w", "Conv", np.array([weights]), (1, len(weights)), Steps(lowest, highest))
    )
    data = check.witness()
    assert data.shape == (1, len(weights))
    assert set(data.ravel().tolist()) <= {lowest, highest}
    first, second = check.pair.places
    products = data.ravel().astype(int) * np.array(weights)
    total = int(products[first] + products[second])
    overflows = not -32768 <= total <= 32767
    assert overflows == (check.verdict is Verdict.OVERFLOW)
    assert total == check.pair.total or not overflows


@settings(deadline=None)
@given(st.data())
def test_the_largest_pair_is_that_of_a_search_over_all(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 6)))
    value = st.integers(-128, 127)
    flat = data.draw(st.lists(value, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    highest = data.draw(st.integers(1, 255))
    weights = np.array(flat, np.int8).reshape(shape)
    sums = [
        x * int(row[a]) + y * int(row[b])
        for row in np.pad(weights, ((0, 0), (0, 1)))  # a weight of 0: kernels fill up with them
        for a, b in itertools.combinations(range(shape[1] + 1), 2)
        for x, y in itertools.product((0, highest), repeat=2)
    ]
    beyond = max(max(sums) - 32767, -32768 - min(sums))
    pair = largest_pair(weights, highest)
    assert abs(pair.total) - abs(pair.limit) == beyond
    assert pair.fits == (beyond <= 0)
    row = np.pad(weights, ((0, 0), (0, 1)))[pair.channel].astype(int)
    kept = np.maximum(row, 0) if pair.total > 0 else np.minimum(row, 0)
    assert highest * kept[list(pair.places)].sum() == pair.total


@pytest.mark.parametrize(
    ("weights", "highest", "total", "fits"),
    [
        ([64, 64], 255, 32640, True),
        ([65, 64], 255, 32895, False),
        ([-64, -64, 100], 255, -32640, True),
        ([-64, -65, 100], 255, -32895, False),
        ([127, -128], 255, -32640, True),  # one product always fits, and signs do not add up
        ([-128, -128], 255, -65280, False),
        ([-128, -128], 128, -32768, True),
        ([127, 127], 129, 32766, True),
        ([127, 127], 130, 33020, False),
        ([127], 255, 32385, True),
        ([0, 0, 0], 255, 0, True),
    ],
)
def test_the_limits_are_those_of_16_bits(
    weights: list[int], highest: int, total: int, fits: bool
) -> None:
    pair = largest_pair(np.array([weights], np.int8), highest)
    assert (pair.total, pair.fits) == (total, fits)
