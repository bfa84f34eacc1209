"""The scale table: all that an int8 file needs beside the float graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from core.targets.processors import Limit

BITS = range(2, 9)


def highest_step(bits: int, signed: bool, zero_point: int = 0) -> int:
    """Return the number of the highest step of a grid, counted from zero."""
    return int(2 ** (bits - 1) - 1 if signed else 2**bits - 1 - zero_point)


def lowest_step(bits: int, signed: bool, zero_point: int = 0) -> int:
    """Return the number of the lowest step of a grid, counted from zero."""
    return int(-(2 ** (bits - 1)) if signed else -zero_point)


@dataclass(frozen=True)
class Grid:
    """Evenly spaced values that a tensor is rounded to, half to even, with zero among them.

    Signed: steps of absmax / (2^(bits-1) - 1) from -2^(bits-1) to 2^(bits-1) - 1. Unsigned, for
    tensors that are never negative: steps of absmax / (2^bits - 1) from 0 on. Both are what
    `QuantizeLinear` of ONNX and `quantize_linear` of Paddle do with 8 bits and zero point 0. With a
    zero point an unsigned grid has so many of its steps below zero, as in ONNX alone.

    Attributes:
        absmax: The value of the highest step; greater than 0.
        bits: 2 to 8.
        signed: Whether it reaches as far below zero as above.
        zero_point: Steps below zero of a grid that is not signed.
    """

    absmax: float
    bits: int = 8
    signed: bool = True
    zero_point: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.absmax < float("inf"):
            raise ValueError(f"absmax: expected a positive number, got {self.absmax}")
        if self.bits not in BITS:
            raise ValueError(f"bits: expected {BITS[0]} to {BITS[-1]}, got {self.bits}")
        most = 0 if self.signed else 2**self.bits - 2  # a step above zero is left
        if not 0 <= self.zero_point <= most:
            raise ValueError(f"zero_point: expected 0 to {most}, got {self.zero_point}")

    @classmethod
    def between(cls, low: float, high: float, bits: int = 8) -> Grid:
        """Return the grid with a zero point that reaches from `low` to `high`, to about a step.

        Args:
            low: Less than 0; at least one step is below zero.
            high: More than 0; so is one above.
            bits: 2 to 8.
        """
        steps = 2**bits - 1
        step = (high - low) / steps
        zero_point = min(max(round(-low / step), 1), steps - 1)
        return cls((steps - zero_point) * step, bits, signed=False, zero_point=zero_point)

    @property
    def highest(self) -> int:
        """Return the number of the highest step, counted from zero."""
        return highest_step(self.bits, self.signed, self.zero_point)

    @property
    def lowest(self) -> int:
        """Return the number of the lowest step, counted from zero."""
        return lowest_step(self.bits, self.signed, self.zero_point)

    @property
    def step(self) -> float:
        """Return the distance between two values."""
        return self.absmax / self.highest


@dataclass(frozen=True)
class LayerScales:
    """How one convolution or linear layer is quantized.

    The scales of weights are not here: they follow from the weights themselves, batch norms folded
    in, of each output channel or of all; see `core.quant.weight_grid`.

    Attributes:
        weight: Path of the layer's weight, its name in traced graphs and in files.
        input: Grid of the layer's input.
        weight_bits: 2 to 8; the grid is signed and symmetric, from -highest to highest.
        per_channel: Whether each output channel of the weight has a scale of its own.
        limit: Limit on the steps that the weight may take.
    """

    weight: str
    input: Grid
    weight_bits: int = 8
    per_channel: bool = True
    limit: Limit = "none"


@dataclass(frozen=True)
class OutputScales:
    """The grid of a tensor that is rounded for all its readers.

    Attributes:
        path: Path of the layer that makes the tensor.
        grid: Grid of the tensor.
    """

    path: str
    grid: Grid


@dataclass(frozen=True)
class ScaleTable:
    """Grids of all that the files of a format round.

    Attributes:
        layers: The quantized layers.
        outputs: Grids of the tensors that are rounded for all their readers, by name.
    """

    layers: Sequence[LayerScales]
    outputs: Mapping[str, Grid] = field(default_factory=dict)
