"""Histogram of activations of which neither the number nor the range is known beforehand."""

from __future__ import annotations

import math

import numpy as np

BINS = 4096  # on either side of zero; 64 KB per layer in all
SMALLEST = 1e-30  # below, steps are no normal float32, so that such tensors count as zero


class Histogram:
    """Counts of values in bins as wide as a power of two, with exact zeros apart.

    Bin i covers [i width, (i + 1) width), for i from -BINS to BINS - 1. If a batch goes beyond, the
    width doubles until it fits, and pairs of bins become one. As edges are always multiples of the
    width, that loses nothing: the counts are those of a histogram made of all values at once with
    the last width, whatever the order of the batches. At least half of the bins on one side are
    within the largest magnitude.
    """

    def __init__(self) -> None:
        self.zeros = 0
        self.counts = np.zeros(2 * BINS, np.int64)
        self._exponent: int | None = None

    @property
    def width(self) -> float:
        """Return the width of a bin."""
        return 2.0 ** (self._exponent or 0)

    @property
    def magnitudes(self) -> np.ndarray:
        """Return the counts [BINS] of both signs together, by magnitude."""
        return np.asarray(self.counts[BINS:] + self.counts[BINS - 1 :: -1])

    def add(self, values: np.ndarray, largest: float, weights: np.ndarray | None = None) -> None:
        """Count values of any shape, whose largest magnitude is known.

        Args:
            values: Values.
            largest: Their largest magnitude.
            weights: What each of them counts, of the same shape; one if not given.
        """
        # frexp: largest < 2 ** exponent
        needed = math.frexp(max(largest, SMALLEST))[1] - int(math.log2(BINS))
        if self._exponent is None:
            self._exponent = needed
        while self._exponent < needed:
            halves = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(halves, BINS // 2)
            self._exponent += 1
        zeros = int(np.count_nonzero(values == 0))
        self.zeros += zeros
        bins = np.floor(values.ravel() * np.float32(2.0**-self._exponent)).astype(np.int32)
        bins += BINS
        if weights is None:
            self.counts += np.bincount(bins, minlength=2 * BINS)
            self.counts[BINS] -= zeros
        else:
            weights = np.where(values == 0, 0, weights).ravel()
            self.counts = self.counts + np.bincount(bins, weights, 2 * BINS)
