"""Check whether sums of two products fit into 16 bits, as int8 kernels without VNNI need.

x86 processors without VNNI multiply int8 with `vpmaddubsw`: an unsigned operand in 8 bits (the
data; int8 data is shifted by 128 to 0..255) by a signed one (the weights), and the products are
added up in pairs, in 16 bits with saturation. What goes beyond is lost without a word. Which two
products make a pair is the kernel's choice (neighbouring channels in one, neighbouring taps in
another), so any two weights of one output channel are taken for a pair. One product alone always
fits: 255 x 127 and 255 x -128 are within 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

LARGEST_SUM = 32767
SMALLEST_SUM = -32768
HIGHEST_STEP = 255  # highest value of the unsigned operand
HALVED = "weights halved"
LARGEST = "weights halved; only the largest of a channel change, from 127 to 128"


class Verdict(Enum):
    """Effect of processors without VNNI on the output of a layer."""

    EXACT = "exact"
    ROUNDED = "rounded again"  # the runtime computes with weights other than those of the file
    OVERFLOW = "may overflow"


@dataclass(frozen=True)
class Steps:
    """Range of data as the unsigned operand holds it; of int8 data it is 128 above the file's."""

    lowest: int = 0
    highest: int = HIGHEST_STEP


@dataclass(frozen=True)
class Int8Layer:
    """A layer with int8 weights, as a processor gets it.

    Attributes:
        name: Name of the weight in the file, or of the node if it has no weight.
        kind: Operator.
        weights: [channels, n] integers, the n weights that each output channel adds up.
        patch: Shape of the n values of data that one output value is made of.
        steps: Range of these.
        exempt: Why no products are added up in 16 bits; empty if they may be.
        rounded: Why a runtime computes with weights other than those of the file; empty if it does
            not.
    """

    name: str
    kind: str
    weights: np.ndarray
    patch: tuple[int, ...]
    steps: Steps = Steps()
    exempt: str = ""
    rounded: str = ""


@dataclass(frozen=True)
class StepPair:
    """Two weights of one output channel, and the sum of products that is farthest from 0.

    Attributes:
        channel: Output channel.
        places: Positions of the weights in the channel; one beyond the last is a weight of 0.
        total: Sum of the products at the data that makes it largest.
    """

    channel: int
    places: tuple[int, int]
    total: int

    @property
    def limit(self) -> int:
        """Return the limit of the sum."""
        return LARGEST_SUM if self.total >= 0 else SMALLEST_SUM

    @property
    def fits(self) -> bool:
        """Tell whether 16 bits hold the sum."""
        return SMALLEST_SUM <= self.total <= LARGEST_SUM


def largest_pair(weights: np.ndarray, highest: int) -> StepPair:
    """Find the pair that comes closest to the limits of 16 bits, or goes farthest beyond.

    With data from 0 to `highest`, the largest sum is that of the two largest positive weights, the
    smallest that of the two most negative ones, all data at `highest`.

    Args:
        weights: [channels, n] integers.
        highest: Largest value of the unsigned operand.
    """
    if weights.size == 0:
        return StepPair(0, (0, 1), 0)
    wide = np.pad(weights.astype(np.int64), ((0, 0), (0, max(0, 2 - weights.shape[1]))))
    found = []
    for sign in (1, -1):
        places = np.argpartition(sign * wide, -2, axis=1)[:, -2:]
        pairs = np.take_along_axis(wide, places, axis=1)
        sums = highest * np.maximum(sign * pairs, 0).sum(axis=1)
        channel = int(sums.argmax())
        first, second = sorted(int(place) for place in places[channel])
        found.append(StepPair(channel, (first, second), sign * int(sums[channel])))
    return max(found, key=lambda pair: abs(pair.total) - abs(pair.limit))


@dataclass(frozen=True)
class LayerCheck:
    """Result of the check of a layer for processors without VNNI.

    Attributes:
        layer: Name of the weight, or of the node where it has no weight.
        kind: Operator.
        lowest: Lowest data as the unsigned operand holds it: int8 data is 128 above the file's.
        highest: Highest data, likewise.
        pair: Two weights, and the sum farthest from 0 that two products can reach.
        verdict: Whether answers are exact, rounded or overflow.
        reason: Why pairs of products do not count, or that weights change; may be empty.
        patch: Shape of the data that one output value is made of.
    """

    layer: str
    kind: str
    lowest: int
    highest: int
    pair: StepPair
    verdict: Verdict
    reason: str
    patch: tuple[int, ...]

    def witness(self) -> np.ndarray:
        """Return data, as the unsigned operand holds it, at which the pair reaches its sum.

        Returns:
            uint8 of shape `patch`: of a convolution [inputs of a group, *kernel], of a linear
            layer [inputs]. An output value of channel `pair.channel` that reads it adds up the
            pair's products.
        """
        data = np.full(int(np.prod(self.patch)), self.lowest, np.uint8)
        data[[place for place in self.pair.places if place < data.size]] = self.highest
        return data.reshape(self.patch)


def check_layer(layer: Int8Layer) -> LayerCheck:
    """Say whether sums of two products of a layer can overflow, and where."""
    pair = largest_pair(layer.weights, layer.steps.highest)
    reason = layer.exempt
    if not pair.fits and not layer.exempt:
        verdict = Verdict.OVERFLOW
    elif layer.rounded:
        verdict, reason = Verdict.ROUNDED, layer.rounded
    else:
        verdict = Verdict.EXACT
    steps = layer.steps
    return LayerCheck(
        layer.name, layer.kind, steps.lowest, steps.highest, pair, verdict, reason, layer.patch
    )
