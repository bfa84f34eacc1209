"""Metrics that rise and metrics that fall, compared in one place."""

from __future__ import annotations

import pytest

from core.settings.metric_order import best_of, is_better, lost


@pytest.mark.parametrize(("higher", "better", "worse"), [(True, 0.9, 0.8), (False, 0.8, 0.9)])
def test_the_sense_of_a_metric_decides(higher: bool, better: float, worse: float) -> None:
    assert is_better(better, worse, higher)
    assert not is_better(worse, better, higher)
    assert not is_better(better, better, higher)
    assert is_better(worse, None, higher)
    assert lost(better, worse, higher) == pytest.approx(0.1)
    assert lost(worse, better, higher) == pytest.approx(-0.1)


def test_the_first_best_value_wins_and_what_is_not_measured_loses() -> None:
    assert best_of([None, 0.5, 0.7, 0.7], True) == 2
    assert best_of([None, 0.5, 0.7, 0.5], False) == 1
    assert best_of([None, None], True) == 0
    assert best_of([0.5, None], False) == 0
