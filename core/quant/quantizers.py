"""Quantizers of activations, and the statistics that set the ends of their grids."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Literal

import paddle
from paddle import Tensor
from paddle.nn import Layer
from paddle.nn.initializer import Constant

from core.quant.choices import WeightType
from core.quant.fake_quant import (
    clip_and_fake_quantize,
    fake_quantize,
    fake_quantize_by_step,
)
from core.quant.observers import Observer
from core.quant.scales import BITS, Grid
from core.targets.names import Processors

ActivationType = Literal["moving_average_abs_max", "range_abs_max", "abs_max", "lsq", "fixed"]
TINY = 1e-8  # end of the grid of a tensor of zeros


@dataclass(frozen=True)
class Rounding:
    """How layers are rounded, the same for all of them; part of a checkpoint's record.

    Attributes:
        weight_type: A grid for each output channel, or one for the whole weight.
        activation_type: Rule that sets the end of the grid of activations.
            `moving_average_abs_max`: an average of the batches' largest magnitudes;
            `range_abs_max`: the largest of a window of batches; `abs_max`: each batch's own in
            training, the moving average in evaluation and in files, which cannot compute a grid
            for each batch; `lsq`: learned; `fixed`: as calibration found it.
        pact: Whether activations are clipped at a learned threshold first.
        weight_bits: 2 to 8.
        activation_bits: 2 to 8.
        moving_rate: Share of the moving average that each batch keeps.
        window_size: Batches of `range_abs_max`.
        processors: Processors on which the int8 files are right: `any`, or only those with
            instructions for dot products of bytes (VNNI). Old records lack it.
        zero_points: Whether activations that may be negative have grids with a zero point where
            the files of the target have them. Old records lack it.
    """

    weight_type: WeightType = "channel_wise_abs_max"
    activation_type: ActivationType = "moving_average_abs_max"
    pact: bool = False
    weight_bits: int = 8
    activation_bits: int = 8
    moving_rate: float = 0.9
    window_size: int = 10000
    processors: Processors = "vnni"
    zero_points: bool = False

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits"):
            if getattr(self, name) not in BITS:
                raise ValueError(f"{name}: expected 2 to 8, got {getattr(self, name)}")
        if not 0 <= self.moving_rate < 1:
            raise ValueError(f"moving_rate: expected 0 or more, below 1, got {self.moving_rate}")
        if self.window_size < 1:
            raise ValueError(f"window_size: expected 1 or more, got {self.window_size}")
        if self.zero_points and self.pact:
            raise ValueError("zero_points: PACT clips both ends alike; give one of them")


class ActivationQuantizer(Layer):
    """Rounds activations to a grid that calibration begins and training goes on with.

    Args:
        rounding: How the layer is rounded.
        nonnegative: Whether calibration saw no negative input, so that a grid from zero on does.
        unsigned: Whether to use such a grid then, or else one with a zero point, if the rounding
            has those.

    Attributes:
        signed: Whether the grid reaches as far below zero as above.
        absmax: Upper end of the grid.
        lowest: Lower end of a grid with a zero point; exists only if the rounding has such grids.
        observer: While it is set, it sees the inputs, which pass unrounded.
        tracking: Whether training moves the statistics.
        bypassed: Whether outputs pass unrounded for now; see `core.quant.outputs`.
    """

    def __init__(
        self, rounding: Rounding, nonnegative: bool = False, unsigned: bool = False
    ) -> None:
        super().__init__()
        self.rounding, self.nonnegative = rounding, nonnegative
        self.signed = not self._does_without_sign(unsigned)
        self.observer: Observer | None = None
        self.tracking, self.bypassed = True, False
        # falling magnitudes, with their batch: of all values, or of those above and below zero
        self._window: deque[tuple[int, float]] = deque()
        self._below: deque[tuple[int, float]] = deque()
        self._batches = 0
        self.register_buffer("absmax", paddle.ones([1], "float32"))
        if rounding.zero_points:
            self.register_buffer("lowest", paddle.zeros([1], "float32"))
        if rounding.activation_type == "lsq":
            self.step = self.create_parameter([1], default_initializer=Constant(1.0))
        if rounding.pact:
            self.threshold = self.create_parameter([1], default_initializer=Constant(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Round x, of any shape."""
        if self.observer is not None:
            self.observer.observe(x)
            return x
        bits, kind = self.rounding.activation_bits, self.rounding.activation_type
        if kind == "lsq":
            return fake_quantize_by_step(x, self.step, bits, self.signed, self._zero_point())
        moves = self.training and self.tracking and kind != "fixed"
        if self.asymmetric:
            grid = Grid.between(*(self._move_ends(x) if moves else self._ends()), bits)
            absmax = paddle.full([1], grid.absmax, "float32")
            return fake_quantize(x, absmax, bits, False, grid.zero_point)
        absmax = self._move_end(x) if moves else self._end()
        if self.rounding.pact and float(self.threshold) < float(absmax):
            return clip_and_fake_quantize(x, self.threshold, bits, self.signed)
        return fake_quantize(x, absmax, bits, self.signed)

    @property
    def asymmetric(self) -> bool:
        """Return whether the grid has a zero point."""
        return not (self.signed or self.nonnegative)

    def begin(self, absmax: float, nonnegative: bool, unsigned: bool, lowest: float = 0.0) -> None:
        """Set the grid, as calibration found it.

        Args:
            absmax: Largest magnitude, or the upper end with a zero point.
            nonnegative: See `ActivationQuantizer`.
            unsigned: See `ActivationQuantizer`.
            lowest: Lower end, if it has a zero point.
        """
        self.nonnegative = nonnegative
        self.signed = not self._does_without_sign(unsigned)
        self.absmax.set_value(paddle.full([1], absmax, "float32"))
        if self.rounding.zero_points:
            self.lowest.set_value(paddle.full([1], lowest, "float32"))
        self._window.clear()
        self._below.clear()
        self._batches = 0
        if self.rounding.activation_type == "lsq":
            step = self._calibrated().step
            self.step.set_value(paddle.full([1], step, "float32"))
        if self.rounding.pact:
            self.threshold.set_value(paddle.full([1], absmax, "float32"))

    def use_unsigned(self, unsigned: bool, step: Tensor | None = None) -> None:
        """Use a grid from zero on, or with a zero point, or one with a sign; all reach as far.

        Args:
            unsigned: Whether the files have the former two: a grid from zero on where inputs are
                never negative, one with a zero point only if the rounding has those.
            step: Learned step [1] to put back; None: it is computed.
        """
        signed = not self._does_without_sign(unsigned)
        if self.rounding.activation_type != "lsq" or self.signed == signed:
            self.signed = signed
            return
        before = self._calibrated().step
        self.signed = signed
        learned = self.step * (self._calibrated().step / before)
        self.step.set_value(learned if step is None else step)

    def learned_step(self) -> Tensor | None:
        """Return a copy of the learned step [1], if there is one."""
        return self.step.clone() if self.rounding.activation_type == "lsq" else None

    def grid(self) -> Grid:
        """Return the grid that evaluation uses and files get.

        Raises:
            ValueError: Training has made it empty or infinite.
        """
        grid = self._calibrated()
        absmax = grid.absmax
        if self.rounding.activation_type == "lsq":
            absmax = float(self.step) * grid.highest
        if self.rounding.pact:
            absmax = min(absmax, float(self.threshold))
        return replace(grid, absmax=absmax)

    def training_state(self) -> dict[str, Any]:
        """Return the state that an exact resume needs beside buffers and parameters."""
        state: dict[str, Any] = {
            "window": [list(pair) for pair in self._window],
            "batches": self._batches,
        }
        return state | ({"below": [list(pair) for pair in self._below]} if self._below else {})

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Restore what `training_state` returned."""
        self._window, self._below = (
            deque((int(batch), float(value)) for batch, value in state.get(name, []))
            for name in ("window", "below")
        )
        self._batches = int(state["batches"])

    def extra_repr(self) -> str:
        kind = ("pact, " if self.rounding.pact else "") + self.rounding.activation_type
        sign = "int" if self.signed else "uint"
        zero_point = ", zero point" if self.asymmetric else ""
        return f"{kind}, {sign}{self.rounding.activation_bits}{zero_point}"

    def _does_without_sign(self, unsigned: bool) -> bool:
        return unsigned and (self.nonnegative or self.rounding.zero_points)

    def _end(self) -> Tensor:
        """Return the end of a grid without a zero point, [1]."""
        if self.rounding.zero_points:
            return paddle.maximum(self.absmax, -self.lowest)
        return self.absmax

    def _ends(self) -> tuple[float, float]:
        """Return from where to where a grid with a zero point reaches."""
        return float(self.lowest), float(self.absmax)

    def _calibrated(self) -> Grid:
        """Return the grid that the statistics say."""
        bits = self.rounding.activation_bits
        if self.asymmetric:
            return Grid.between(*self._ends(), bits)
        return Grid(float(self._end()), bits, self.signed)

    def _zero_point(self) -> int:
        return self._calibrated().zero_point if self.asymmetric else 0

    def _move_end(self, x: Tensor) -> Tensor:
        """Move the statistic by a batch and return the end of the grid for it."""
        with paddle.no_grad():
            now = self._largest(x)
            moved = self._moved(self.absmax, now, self._window)
            self._batches += 1
        return now if self.rounding.activation_type == "abs_max" else moved

    def _move_ends(self, x: Tensor) -> tuple[float, float]:
        """Move the statistics by a batch and return the ends of the grid for it."""
        with paddle.no_grad():
            above, below = (_at_least_tiny(end) for end in (paddle.max(x), -paddle.min(x)))
            self._moved(self.absmax, above, self._window)
            self.lowest.set_value(-self._moved(-self.lowest, below, self._below))
            self._batches += 1
        if self.rounding.activation_type == "abs_max":
            return -float(below), float(above)
        return self._ends()

    def _moved(self, end: Tensor, now: Tensor, window: deque[tuple[int, float]]) -> Tensor:
        """Move an end by a batch, in place, and return it."""
        if self.rounding.activation_type == "range_abs_max":
            end.set_value(self._largest_of_window(now, window))
        else:
            keep = self.rounding.moving_rate
            end.set_value(end * keep + now * (1.0 - keep))
        return end

    def _largest(self, x: Tensor) -> Tensor:
        # two reductions are a fifth of the time of abs and one
        largest = paddle.max(x)
        if self.signed:
            largest = paddle.maximum(largest, -paddle.min(x))
        return _at_least_tiny(largest)

    def _largest_of_window(self, now: Tensor, window: deque[tuple[int, float]]) -> Tensor:
        value = float(now)
        while window and window[-1][1] <= value:
            window.pop()
        window.append((self._batches, value))
        if window[0][0] <= self._batches - self.rounding.window_size:
            window.popleft()
        return paddle.full([1], window[0][1], "float32")


def _at_least_tiny(end: Tensor) -> Tensor:
    return paddle.clip(end.astype("float32"), min=TINY).reshape([1])
