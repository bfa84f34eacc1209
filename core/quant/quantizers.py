"""Quantizers of activations, and the statistics that set the ends of their grids."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
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
    highest_step,
)
from core.quant.observers import Observer
from core.quant.scales import BITS, Grid
from core.targets.names import Processors

ActivationType = Literal["moving_average_abs_max", "range_abs_max", "abs_max", "lsq", "fixed"]
TINY = 1e-8  # of a tensor that is zero throughout


@dataclass(frozen=True)
class Rounding:
    """How layers are rounded, the same for all of them; part of a checkpoint's record.

    Attributes:
        weight_type: A grid for each output channel, or one for the whole weight.
        activation_type: What sets the end of the grid of activations. `moving_average_abs_max`: an
            average of the batches' largest magnitudes; `range_abs_max`: the largest of a window of
            batches; `abs_max`: in training each batch's own, in evaluation and in files, which
            cannot hold what is computed on the fly, the moving average; `lsq`: learned; `fixed`:
            what calibration found.
        pact: Whether activations are clipped at a learned threshold first.
        weight_bits: 2 to 8.
        activation_bits: 2 to 8.
        moving_rate: Share of the moving average that each batch keeps.
        window_size: Batches of `range_abs_max`.
        processors: Processors on which the int8 files are right: `any`, or only those with
            instructions for dot products of bytes (VNNI). Old records lack it.
    """

    weight_type: WeightType = "channel_wise_abs_max"
    activation_type: ActivationType = "moving_average_abs_max"
    pact: bool = False
    weight_bits: int = 8
    activation_bits: int = 8
    moving_rate: float = 0.9
    window_size: int = 10000
    processors: Processors = "vnni"

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits"):
            if getattr(self, name) not in BITS:
                raise ValueError(f"{name}: expected 2 to 8, got {getattr(self, name)}")
        if not 0 <= self.moving_rate < 1:
            raise ValueError(f"moving_rate: expected 0 or more, below 1, got {self.moving_rate}")
        if self.window_size < 1:
            raise ValueError(f"window_size: expected 1 or more, got {self.window_size}")


class ActivationQuantizer(Layer):
    """Rounds activations to a grid that calibration begins and training goes on with.

    Args:
        rounding: How the layer is rounded.
        nonnegative: Whether calibration saw no negative input, so that a grid from zero on does.
        unsigned: Whether to use such a grid then.

    Attributes:
        signed: Whether the grid has steps below zero.
        observer: While it is set, it sees the inputs, which pass unrounded.
        tracking: Whether training moves the statistics.
        bypassed: Whether outputs pass unrounded for now; see `core.quant.outputs`.
    """

    def __init__(
        self, rounding: Rounding, nonnegative: bool = False, unsigned: bool = False
    ) -> None:
        super().__init__()
        self.rounding, self.nonnegative = rounding, nonnegative
        self.signed = not (nonnegative and unsigned)
        self.observer: Observer | None = None
        self.tracking, self.bypassed = True, False
        self._window: deque[tuple[int, float]] = deque()  # falling magnitudes, with their batch
        self._batches = 0
        self.register_buffer("absmax", paddle.ones([1], "float32"))
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
            return fake_quantize_by_step(x, self.step, bits, self.signed)
        absmax = self._statistic(x) if self.training and self.tracking else self.absmax
        if self.rounding.pact and float(self.threshold) < float(absmax):
            return clip_and_fake_quantize(x, self.threshold, bits, self.signed)
        return fake_quantize(x, absmax, bits, self.signed)

    def begin(self, absmax: float, nonnegative: bool, unsigned: bool) -> None:
        """Set the grid, as calibration found it."""
        self.nonnegative = nonnegative
        self.signed = not (nonnegative and unsigned)
        self.absmax.set_value(paddle.full([1], absmax, "float32"))
        self._window.clear()
        self._batches = 0
        if self.rounding.activation_type == "lsq":
            highest = highest_step(self.rounding.activation_bits, self.signed)
            self.step.set_value(paddle.full([1], absmax / highest, "float32"))
        if self.rounding.pact:
            self.threshold.set_value(paddle.full([1], absmax, "float32"))

    def use_unsigned(self, unsigned: bool, step: Tensor | None = None) -> None:
        """Use a grid from zero on, or one with a sign, that ends at the same value.

        Args:
            unsigned: Use a grid from zero on, if inputs are never negative.
            step: Learned step [1] to put back; None: it is computed.
        """
        bits, before = self.rounding.activation_bits, self.signed
        self.signed = not (self.nonnegative and unsigned)
        if self.rounding.activation_type == "lsq" and self.signed != before:
            ratio = highest_step(bits, before) / highest_step(bits, self.signed)
            self.step.set_value(self.step * ratio if step is None else step)

    def learned_step(self) -> Tensor | None:
        """Return a copy of the learned step [1], if there is one."""
        return self.step.clone() if self.rounding.activation_type == "lsq" else None

    def grid(self) -> Grid:
        """Return the grid that evaluation uses and files get.

        Raises:
            ValueError: Training has made it empty or infinite.
        """
        absmax = float(self.absmax)
        if self.rounding.activation_type == "lsq":
            highest = highest_step(self.rounding.activation_bits, self.signed)
            absmax = float(self.step) * highest
        if self.rounding.pact:
            absmax = min(absmax, float(self.threshold))
        return Grid(absmax, self.rounding.activation_bits, self.signed)

    def training_state(self) -> dict[str, Any]:
        """Return the state that an exact resume needs beside buffers and parameters."""
        return {"window": [list(pair) for pair in self._window], "batches": self._batches}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Restore what `training_state` returned."""
        self._window = deque((int(batch), float(value)) for batch, value in state["window"])
        self._batches = int(state["batches"])

    def extra_repr(self) -> str:
        kind = ("pact, " if self.rounding.pact else "") + self.rounding.activation_type
        sign = "int" if self.signed else "uint"
        return f"{kind}, {sign}{self.rounding.activation_bits}"

    def _statistic(self, x: Tensor) -> Tensor:
        """Move the statistic by a batch and return the end of the grid for it."""
        if self.rounding.activation_type == "fixed":
            return self.absmax
        with paddle.no_grad():
            now = self._largest(x)
            if self.rounding.activation_type == "range_abs_max":
                self.absmax.set_value(self._largest_of_window(now))
                return self.absmax
            keep = self.rounding.moving_rate
            self.absmax.set_value(self.absmax * keep + now * (1.0 - keep))
        return now if self.rounding.activation_type == "abs_max" else self.absmax

    def _largest(self, x: Tensor) -> Tensor:
        # two reductions are a fifth of the time of abs and one
        largest = paddle.max(x)
        if self.signed:
            largest = paddle.maximum(largest, -paddle.min(x))
        return paddle.clip(largest.astype("float32"), min=TINY).reshape([1])

    def _largest_of_window(self, now: Tensor) -> Tensor:
        value = float(now)
        while self._window and self._window[-1][1] <= value:
            self._window.pop()
        self._window.append((self._batches, value))
        self._batches += 1
        if self._window[0][0] <= self._batches - 1 - self.rounding.window_size:
            self._window.popleft()
        return paddle.full([1], self._window[0][1], "float32")
