"""Distances between answers over several images, and how far chance reaches in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from core.export import parity

Pairs = Sequence[tuple[np.ndarray, np.ndarray]]
Parts = tuple[np.ndarray, np.ndarray]  # of a distance, for each image: difference and whole
LEAST_IMAGES = 3
CERTAIN = 3.0  # standard errors beyond which it is no chance, of many images


def whole_distance(parts: Parts, counted: bool) -> float:
    """Return how far answers are from others, over all images.

    That is the root of the mean square of differences, relative to that of the values; or the share
    of elements that are not equal.
    """
    differing, whole = parts
    share = float(differing.sum()) / max(float(whole.sum()), 1e-300)
    share = share if counted else share**0.5
    return share if np.isfinite(share) else float("inf")


def parts_of(pairs: Pairs, counted: bool) -> Parts:
    """Return the parts that a distance between answers [N, ...] has, for each image."""
    measure = _unequal if counted else _squares
    parts = [measure(a, b) for a, b in pairs]
    differing, whole = (np.concatenate(each) for each in zip(*parts))
    return differing, whole


def is_clear(
    apart: Parts, effect: Parts, counted: bool, gap: Callable[[float, float], float]
) -> bool:
    """Tell whether other images would hardly turn the sign of what two distances give.

    The standard error is that of the jackknife: the images are left out one by one.

    Args:
        apart: Parts of the first distance.
        effect: Parts of the second one, for the same images.
        counted: Whether unequal elements are counted.
        gap: Difference or ratio of the two distances.
    """
    count = len(apart[0])
    found = gap(whole_distance(apart, counted), whole_distance(effect, counted))
    if not np.isfinite(found):
        return True
    if count < LEAST_IMAGES:
        return False
    without = [
        gap(*(whole_distance(_without(each, index), counted) for each in (apart, effect)))
        for index in range(count)
    ]
    spread = float(np.square(np.subtract(without, np.mean(without))).sum())
    error = ((count - 1) / count * spread) ** 0.5
    # few images estimate their own spread badly
    return bool(abs(found) > CERTAIN * (1 + 4 / (count - 1)) * error)


def _without(parts: Parts, index: int) -> Parts:
    return np.delete(parts[0], index), np.delete(parts[1], index)


def _squares(a: np.ndarray, b: np.ndarray) -> Parts:
    values = b.astype(np.float64)
    return _by_image(np.square(a.astype(np.float64) - values)), _by_image(np.square(values))


def _unequal(a: np.ndarray, b: np.ndarray) -> Parts:
    """Count the elements that are not equal (floats: within the tolerance)."""
    limit = parity.TOLERANCE * float(np.abs(b).max(initial=0)) if b.dtype.kind == "f" else 0
    unequal = ~(np.abs(a.astype(np.float64) - b) <= limit)
    return _by_image(unequal), _by_image(np.ones(b.shape))


def _by_image(values: np.ndarray) -> np.ndarray:
    rows: np.ndarray = values.reshape(len(values) if values.ndim else 1, -1).sum(axis=1)
    return rows.astype(np.float64)
