"""Compare values of a metric, whether more or less is better."""

from __future__ import annotations

from collections.abc import Sequence


def is_better(value: float, other: float | None, higher_is_better: bool) -> bool:
    """Tell whether a value is better than another one; anything is better than None."""
    return other is None or lost(other, value, higher_is_better) < 0


def lost(before: float, after: float, higher_is_better: bool) -> float:
    """Return by how much a metric became worse; below 0 it became better."""
    return before - after if higher_is_better else after - before


def best_of(values: Sequence[float | None], higher_is_better: bool) -> int:
    """Return the position of the first best value; 0 if none is measured."""
    best = 0
    for position, value in enumerate(values):
        if value is not None and is_better(value, values[best], higher_is_better):
            best = position
    return best
