"""Tensors of a graph before it runs: their bounds, their grids, their int8 weights.

Bounds follow from activations (a sigmoid is within 0..1), and with the scale and the zero point of
a grid they say which of its steps can occur. They are never narrower than the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.targets.pair_sums import HIGHEST_STEP, Steps

SIGNED_SHIFT = 128  # added to int8 data to make the unsigned operand
# of the float that is divided by a scale: runtimes round it in float32
_SLACK = 1e-5
_INFINITY = float("inf")
_ALL = Steps()
_UINT8 = np.dtype(np.uint8)


@dataclass(frozen=True)
class OnnxGrid:
    """Steps of 8 bits that data is on.

    Attributes:
        steps: Steps that can occur, as the unsigned operand holds them.
        dtype: int8 or uint8.
        scale: None where it is not one known number.
        zero: The step in the file that stands for 0; None where it is not one known number.
    """

    steps: Steps = _ALL
    dtype: np.dtype = _UINT8
    scale: float | None = None
    zero: int | None = None

    @property
    def shift(self) -> int:
        """Return the offset of the unsigned operand from the stored values."""
        return SIGNED_SHIFT if self.dtype == np.int8 else 0

    @property
    def symmetric(self) -> bool:
        """Tell whether it is int8 with zero point 0."""
        return self.dtype == np.int8 and self.zero == 0

    def widened(self) -> OnnxGrid:
        """Return all steps of 8 bits, on no known scale."""
        return OnnxGrid(dtype=self.dtype)

    def joined(self, other: OnnxGrid) -> OnnxGrid:
        """Return the grid of values from both; runtimes make different grids one."""
        if self.scale is None or replace(self, steps=other.steps) != other:
            return self.widened()
        lowest = min(self.steps.lowest, other.steps.lowest)
        return replace(self, steps=Steps(lowest, max(self.steps.highest, other.steps.highest)))


@dataclass(frozen=True)
class Weight:
    """Dequantized constants.

    Attributes:
        name: Name of the stored array.
        steps: int8 or uint8, in the layout in which the layer reads them.
    """

    name: str
    steps: np.ndarray


@dataclass(frozen=True)
class Tensor:
    """Known facts about a computed tensor.

    Attributes:
        lowest: No value is below.
        highest: No value is above.
        grid: Its values are on, or may be computed on; None: they are floats.
        weight: Its weight, if it is dequantized constants.
    """

    lowest: float = -_INFINITY
    highest: float = _INFINITY
    grid: OnnxGrid | None = None
    weight: Weight | None = None

    def within(self, lowest: float, highest: float) -> Tensor:
        """Return values cut off at both ends; cut off, they may still be computed on a grid."""
        low, high = (min(max(end, lowest), highest) for end in (self.lowest, self.highest))
        return Tensor(low, high, self.grid.widened() if self.grid else None)

    def with_zero(self) -> Tensor:
        """Return the tensor with 0 among its values, as a border adds it."""
        return replace(self, lowest=min(self.lowest, 0.0), highest=max(self.highest, 0.0))


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return the tensor that holds the values of several others."""
    grid = tensors[0].grid
    for tensor in tensors[1:]:
        grid = grid.joined(tensor.grid) if grid and tensor.grid else None
    lowest = min(tensor.lowest for tensor in tensors)
    return Tensor(lowest, max(tensor.highest for tensor in tensors), grid)


def quantized(
    tensor: Tensor, scale: np.ndarray | None, zero: np.ndarray | None, dtype: np.dtype
) -> Tensor:
    """Return the steps of a tensor of floats on a grid.

    Args:
        tensor: Floats.
        scale: A scalar or [C]; None if it is computed.
        zero: Zero point, likewise.
        dtype: Type of the steps.
    """
    if dtype not in (np.int8, np.uint8):
        return Tensor()
    if scale is None or zero is None or scale.size != 1 or zero.size != 1 or scale.item() <= 0:
        return Tensor(grid=OnnxGrid(dtype=dtype))
    size = float(scale.item())
    grid = OnnxGrid(dtype=dtype, scale=size, zero=int(zero.item()))
    origin = int(zero.item()) + grid.shift
    ends = []
    for end, outward in ((tensor.lowest, -1), (tensor.highest, 1)):
        step = end / size
        step += outward * _SLACK * (abs(step) + 1)
        # borders of a convolution are filled with the zero point
        farthest = max(outward * step, 0.0)
        ends.append(origin + outward * int(min(np.floor(farthest + 0.5), HIGHEST_STEP)))
    lowest, highest = (min(max(end, 0), HIGHEST_STEP) for end in ends)
    return Tensor(grid=replace(grid, steps=Steps(lowest, highest)))


def dequantized(steps: Tensor, scale: np.ndarray | None, zero: np.ndarray | None) -> Tensor:
    """Return the floats of steps.

    Args:
        steps: On a grid, or not.
        scale: A scalar or [C]; None if it is computed.
        zero: Zero point, likewise.
    """
    grid = steps.grid
    if grid is None:
        return Tensor()
    if zero is not None and zero.dtype != grid.dtype:
        grid = OnnxGrid(dtype=zero.dtype)  # integers of an operator that does not say which
    if scale is None or zero is None or scale.size != 1 or zero.size != 1 or scale.item() <= 0:
        return Tensor(grid=replace(grid, scale=None, zero=None))
    size, origin = float(scale.item()), int(zero.item())
    border = origin + grid.shift  # the value that convolutions pad with
    lowest, highest = min(grid.steps.lowest, border), max(grid.steps.highest, border)
    grid = replace(grid, steps=Steps(lowest, highest), scale=size, zero=origin)
    return Tensor(size * (lowest - border), size * (highest - border), grid)
