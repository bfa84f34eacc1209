"""Halves of channel shuffles keep equal numbers, within the limits of their groups."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn
from paddle.static import InputSpec

from core.prune.planning.plan import Ranking
from core.prune.structure.analysis import Analysis
from core.prune.structure.labels import Array
from tests.networks.rules import analyze
from tests.networks.shuffled import ShuffleUnit, Weighted

SPECS = [InputSpec([1, 3, 64, 64], "float32", "image")]
CHANNELS = 16


class Chain(nn.Layer):
    """A convolution, units that shuffle, and a classifier."""

    def __init__(self, unit: type[nn.Layer], count: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, CHANNELS, 3, padding=1)
        self.units = nn.Sequential(*(unit(CHANNELS) for _ in range(count)))
        self.head = nn.Linear(CHANNELS, 5)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.units(self.stem(x)).mean([2, 3]))


@pytest.fixture(scope="module")
def dense() -> Analysis:
    return analyze(Chain(ShuffleUnit), SPECS)


@pytest.fixture(scope="module")
def tied() -> Analysis:
    return analyze(Chain(Weighted), SPECS)


def ranking(analysis: Analysis, seed: int, even: bool = True, **limits: object) -> Ranking:
    rng = np.random.default_rng(seed)
    scores = [rng.random(len(group)) for group in analysis.groups]
    return Ranking(analysis, scores, even_halves=even, **limits)  # type: ignore[arg-type]


def halves(analysis: Analysis, mask: Array) -> list[list[int]]:
    pairs = [moved.inputs for moved in analysis.rearrangements if not moved.parts]
    assert len(pairs) == 3
    return [[int(mask[half].sum()) for half in pair] for pair in pairs]


shares = st.lists(st.floats(0, 0.9), min_size=12, max_size=12)


@settings(max_examples=60, deadline=None)
@given(shares, st.integers(0, 99))
def test_what_a_block_makes_follows_what_it_passes(
    dense: Analysis, wanted: list[float], seed: int
) -> None:
    ranked = ranking(dense, seed)
    mask = ranked.keep(ranked.counts(wanted[: len(dense.groups)]))
    assert all(first == second for first, second in halves(dense, mask))


@settings(max_examples=60, deadline=None)
@given(shares, st.integers(0, 99), st.sampled_from([0.3, 0.9]), st.booleans())
def test_groups_keep_what_they_must(
    dense: Analysis, tied: Analysis, wanted: list[float], seed: int, most: float, free: bool
) -> None:
    analysis = dense if free else tied
    ranked = ranking(analysis, seed, max_ratio=most)
    mask = ranked.keep(ranked.counts(wanted[: len(analysis.groups)]))
    for group, steps in zip(analysis.groups, ranked.steps):
        kept = mask[group.units]
        assert len(group) - int(kept.sum()) <= steps[-1]
        lost = [(int((~kept[part]).sum()), len(part)) for part in group.keep_one]
        assert all(gone <= most * size + 1e-6 and gone < size for gone, size in lost)
    labels = np.concatenate([group.units for group in analysis.groups])
    assert np.delete(mask, labels).all()  # what belongs to no group stays


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 0.5), st.integers(0, 99))
def test_layers_of_a_group_lose_the_same_share(dense: Analysis, share: float, seed: int) -> None:
    """However their weights differ in size: a shuffle ties the channels of all blocks together."""
    rng = np.random.default_rng(seed)
    sizes = [len(group) for group in dense.groups]
    scores = [rng.random(size) * 100.0 ** (np.arange(size) * 3 // size) for size in sizes]
    ranked = Ranking(dense, scores)
    mask = ranked.keep(ranked.counts([share] * len(sizes)))
    parts = [group.units[part] for group in dense.groups for part in group.keep_one]
    assert len(parts) > 3
    for part in parts:
        gone = int((~mask[part]).sum())
        assert abs(gone - share * len(part)) <= 2, (gone, len(part))


def test_groups_that_were_not_chosen_lose_nothing(dense: Analysis) -> None:
    ranked = ranking(dense, 0, chosen=[0])
    mask = ranked.keep(ranked.counts([0.8] * len(dense.groups)))
    assert not mask[dense.groups[0].units].all()
    assert all(mask[group.units].all() for group in dense.groups[1:])
