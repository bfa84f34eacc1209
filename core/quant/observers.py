"""Choose the range of a grid from the activations that one layer reads during calibration.

All kinds answer with the `absmax` of `core.quant.scales.Grid`, or with both ends if it has a zero
point. Two keep a number or two, the others a histogram of fixed size, for any number of bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import paddle

from core.errors import ConfigError, DataError
from core.quant.histogram import BINS, SMALLEST, Histogram
from core.quant.scales import Grid

ABSMAX_OF_ZEROS = 1.0  # every grid holds zero; this one spoils the least if other values come
PERCENTILE = 99.99
MOST_CLIPPED = 0.05  # share of the values, by `kl`
_STEPS_PER_OCTAVE = 32
_STEPS_PER_OCTAVE_OF_TWO = 8  # where both ends are looked for, in turn
_TURNS = 3
# `output_mse` adds errors up as if they were independent, but those of clipped values of a map all
# point to zero. With ends so much farther out, as far as values were seen, TinyPose's heatmaps of
# images that it was not calibrated on are nearer to those in float, above all of other data.
_MARGIN = 1.25
_LEAST = 1e-3  # share of the farther end: how near to zero the other may be


class Observer:
    """See batches of one tensor and say where its grid should end.

    Args:
        name: Path of the layer that reads the tensor; errors begin with it.

    Attributes:
        reads_gradients: Whether it wants gradients of what it sees, see `run_back`.
        clips: Whether the grid may end below the largest magnitude of many a batch.
    """

    reads_gradients = False
    clips = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.lowest = math.inf  # minimum of all values so far; tells whether any was negative
        self.highest = -math.inf
        self.largest = 0.0  # magnitude

    def observe(self, x: paddle.Tensor | np.ndarray) -> None:
        """Take in a batch of any shape.

        Raises:
            DataError: The batch is empty or holds values that are not finite.
        """
        if 0 in x.shape:
            raise DataError(f"{self.name}: cannot calibrate on an empty tensor {list(x.shape)}")
        if isinstance(x, paddle.Tensor):
            x = x if x.dtype == paddle.float32 else x.astype("float32")
        else:
            x = np.asarray(x, np.float32)
        low, high = float(x.min()), float(x.max())  # a sixth of the time of abs().max()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(
                f"{self.name}: expected finite activations, got values from {low} to {high}"
            )
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        largest = max(-low, high)
        self.largest = max(self.largest, largest)
        self._observe(x, largest)

    def absmax(self, bits: int, signed: bool) -> float:
        """Return the value of the highest step of a grid, at most the largest magnitude seen.

        A tensor of zeros gets 1.

        Raises:
            DataError: No batch was seen, or some values are negative and the grid is unsigned.
        """
        if math.isinf(self.lowest):
            raise DataError(f"{self.name}: no activations were seen during calibration")
        if not signed and self.lowest < 0:
            raise DataError(
                f"{self.name}: an unsigned grid is for tensors that are never negative, but the "
                f"lowest value seen is {self.lowest:g}"
            )
        if self.largest < SMALLEST:
            return ABSMAX_OF_ZEROS
        return min(self._absmax(Grid(self.largest, bits, signed)), self.largest)

    def ends(self, bits: int) -> tuple[float, float]:
        """Return the ends of a grid with a zero point, for tensors that may be negative.

        They are below and above zero, and no farther than the values seen.

        Raises:
            DataError: No batch was seen.
        """
        if self.largest < SMALLEST:
            absmax = self.absmax(bits, signed=True)
            return -absmax, absmax
        return _both_signs(*self._ends(bits))

    def _ends(self, bits: int) -> tuple[float, float]:
        """Answer for values of which some are not zero."""
        absmax = self.absmax(bits, signed=True)
        return max(self.lowest, -absmax), min(self.highest, absmax)

    def _observe(self, x: Any, largest: float) -> None:
        """Take in a checked batch in float32 and its largest magnitude."""

    def _absmax(self, whole: Grid) -> float:
        """Answer, given the grid that ends at the largest magnitude."""
        raise NotImplementedError


class AbsMaxObserver(Observer):
    """The largest magnitude of all: nothing is clipped."""

    def _absmax(self, whole: Grid) -> float:
        return whole.absmax


class AverageObserver(Observer):
    """The mean over the batches of each batch's largest magnitude."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._sum, self._batches = 0.0, 0

    def _observe(self, x: Any, largest: float) -> None:
        self._sum += largest
        self._batches += 1

    def _absmax(self, whole: Grid) -> float:
        return self._sum / self._batches


class HistogramObserver(Observer):
    """Base of the observers that collect a histogram."""

    clips = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.histogram = Histogram()

    def _observe(self, x: Any, largest: float) -> None:
        values = x.numpy() if isinstance(x, paddle.Tensor) else x
        self.histogram.add(values, largest)


class PercentileObserver(HistogramObserver):
    """The percentile of the magnitudes, rounded up to the end of its bin; see `PERCENTILE`.

    If that is zero, since almost all values are, it is the largest magnitude.
    """

    def _absmax(self, whole: Grid) -> float:
        magnitudes = self.histogram.magnitudes
        # the 1e-9 takes back what the product has too much: 99.99 % of 10000 is not 9999.000000001
        total = self.histogram.zeros + int(magnitudes.sum())
        rank = math.ceil(PERCENTILE / 100 * total - 1e-9) - self.histogram.zeros
        if rank <= 0:
            return whole.absmax
        index = int(np.searchsorted(np.cumsum(magnitudes), rank))
        return (index + 1) * self.histogram.width


class EntropyObserver(HistogramObserver):
    """The range in which the values look most like their rounded selves, by KL divergence.

    Migacz, "8-bit inference with TensorRT", GTC 2017: of the histogram of magnitudes, the first n
    bins are kept, with all beyond added to the last; that is compared with the same bins merged
    into as many groups as the grid has steps, each group spread evenly over its bins that are not
    empty. The n of the smallest divergence wins, the largest n among equals. Exact zeros are left
    out: all grids hold them without error, and the many behind a ReLU would outweigh the rest.

    Not in the slides: at most `MOST_CLIPPED` of the values are beyond. Without it, a tensor with no
    values near zero, like pooled features, would have all but a few of them in the last bin, where
    clipping looks like perfection.
    """

    def _absmax(self, whole: Grid) -> float:
        magnitudes = self.histogram.magnitudes
        used = int(np.flatnonzero(magnitudes)[-1]) + 1
        levels = whole.highest + 1
        ends = np.arange(used, levels - 1, -1)  # from the largest, so that it wins ties
        beyond = magnitudes.sum() - np.cumsum(magnitudes)[ends - 1]
        ends = ends[beyond <= MOST_CLIPPED * magnitudes.sum()]
        best = ends[np.argmin(_divergences(magnitudes, ends, levels))]
        return float(best) * self.histogram.width


def _divergences(counts: np.ndarray, ends: np.ndarray, levels: int) -> np.ndarray:
    """Return the KL divergence between clipped counts and those merged into levels, for each end.

    With C of all T values in a group of f bins that are not empty, and S of them not clipped, of
    K in all: sum p log(p / q) = sum p log p - sum C / T log(S / f / K). Running sums make that
    a few lookups per group instead of a pass through all bins for each end.
    """
    total = counts.sum()
    starts = np.arange(levels + 1) * ends[:, None] // levels
    sums = np.concatenate([[0], np.cumsum(counts)])
    kept = np.diff(sums[starts])
    filled = np.diff(np.concatenate([[0], np.cumsum(counts > 0)])[starts])
    outliers = total - sums[ends]
    last = counts[ends - 1]
    filled[:, -1] += (last == 0) & (outliers > 0)
    clipped = kept.copy()
    clipped[:, -1] += outliers
    # a last group of outliers alone: nothing is spread where they are, and the divergence infinite
    lost = (kept[:, -1] == 0) & (outliers > 0)
    share = np.where(kept > 0, kept, 1) / np.maximum(filled, 1)
    cross = (clipped * np.log(share)).sum(axis=1)
    own = np.concatenate([[0.0], np.cumsum(_x_log_x(counts))])[ends - 1] + _x_log_x(last + outliers)
    divergence = (own - cross) / total - np.log(total / np.maximum(sums[ends], 1))
    return np.where(lost, np.inf, divergence)


def _x_log_x(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts * np.log(np.maximum(counts, 1)))


class _ErrorObserver(HistogramObserver):
    """The range of the smallest error, rounding and clipping together, over the histogram.

    Candidates are the largest magnitude and 32 per octave below it, down to where a step is as
    narrow as a bin. The values of a bin count as its centre; the distance between a value and its
    rounded self changes no faster than the value, so no error is off by more than half a bin.
    """

    power = 1

    def _absmax(self, whole: Grid) -> float:
        values, weights = self._centres()
        octaves = max(0.0, math.log2(whole.step / self.histogram.width))
        candidates = whole.absmax * 2.0 ** -np.arange(0, octaves, 1 / _STEPS_PER_OCTAVE)
        errors = [
            weights
            @ np.abs(values - _round(values, Grid(each, whole.bits, whole.signed))) ** self.power
            for each in candidates
        ]
        return float(candidates[np.argmin(errors)])

    def _ends(self, bits: int) -> tuple[float, float]:
        values, weights = self._centres()
        widest = Grid.between(*_both_signs(self.lowest, self.highest), bits).step
        octaves = max(1.0, math.log2(widest / self.histogram.width))
        factors = 2.0 ** -np.arange(0, octaves, 1 / _STEPS_PER_OCTAVE_OF_TWO)

        def error(ends: list[float]) -> float:
            grid = Grid.between(*_both_signs(*ends), bits)
            return float(weights @ np.abs(values - _round(values, grid)) ** self.power)

        best = [self.lowest, self.highest]
        for side in [0, 1] * _TURNS:
            tried = [[*best] for _ in factors]
            for ends, factor in zip(tried, factors):
                ends[side] = (self.lowest, self.highest)[side] * factor
            best = min([best, *tried], key=error)
        return best[0], best[1]

    def _centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the centres of the bins that are not empty, and what they count."""
        counts = self.histogram.counts
        filled = np.flatnonzero(counts)
        values = (filled - BINS + 0.5) * self.histogram.width
        return values, counts[filled].astype(np.float64)


def _both_signs(low: float, high: float) -> tuple[float, float]:
    """Return ends of which one is below zero and one above."""
    least = _LEAST * max(-low, high)
    return min(low, -least), max(high, least)


def _round(values: np.ndarray, grid: Grid) -> np.ndarray:
    steps = np.rint(values / grid.step)
    np.maximum(steps, grid.lowest, out=steps)  # for few values, clip takes several times as long
    np.minimum(steps, grid.highest, out=steps)
    return np.asarray(steps * grid.step)


class SquaredErrorObserver(_ErrorObserver):
    """The range of the smallest mean squared error."""

    power = 2


class OutputErrorObserver(SquaredErrorObserver):
    """The range of the smallest mean squared error of the network's outputs, to first order.

    The error of each value counts as the square of its gradient. Where those are of random mixtures
    of the outputs, of mean zero and variance one, that is the mean square of what the outputs
    change by, if errors are independent of each other (as the Fisher information in Li et al.,
    "BRECQ", ICLR 2021). Values whose gradient is not known count one each. As errors of clipped
    values are not independent, the grid ends farther out by `_MARGIN`.
    """

    reads_gradients = True

    def _observe(self, x: Any, largest: float) -> None:
        if not isinstance(x, paddle.Tensor) or x.stop_gradient:
            super()._observe(x, largest)
            return
        values = x.numpy()

        def weigh(gradient: paddle.Tensor) -> None:
            weights = np.square(gradient.numpy(), dtype=np.float64)
            self.histogram.add(values, largest, weights)

        x.register_hook(weigh)

    def _absmax(self, whole: Grid) -> float:
        return super()._absmax(whole) * _MARGIN

    def _ends(self, bits: int) -> tuple[float, float]:
        low, high = super()._ends(bits)
        return max(self.lowest, low * _MARGIN), min(self.highest, high * _MARGIN)

    def _centres(self) -> tuple[np.ndarray, np.ndarray]:
        if not np.isfinite(self.histogram.counts).all():  # told here: Paddle hides errors of hooks
            raise DataError(f"{self.name}: expected finite gradients, got some that are not")
        return super()._centres()


class EarthMoverObserver(_ErrorObserver):
    """The range of the smallest earth mover's distance between the values and their rounded selves.

    On a line the cheapest transport keeps the order, and rounding does; so the distance is the mean
    absolute error (Vallender, 1973: the integral of the difference of the distribution functions).
    """

    power = 1


OBSERVERS: Mapping[str, type[Observer]] = MappingProxyType(
    {
        "abs_max": AbsMaxObserver,
        "avg": AverageObserver,
        "percentile": PercentileObserver,
        "kl": EntropyObserver,
        "mse": SquaredErrorObserver,
        "emd": EarthMoverObserver,
        "output_mse": OutputErrorObserver,
    }
)


def build_observer(kind: str, name: str) -> Observer:
    """Make an observer of a kind for a layer.

    Raises:
        ConfigError: The kind is unknown.
    """
    if kind not in OBSERVERS:
        raise ConfigError(f"observer: expected one of {', '.join(OBSERVERS)}, got {kind!r}")
    return OBSERVERS[kind](name)
