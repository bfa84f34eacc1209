"""Automatic mixed precision around the forward call."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import paddle
from paddle import Tensor

from core.errors import ConfigError
from core.training.optimizers import Optimizer

AmpType = Literal["off", "float16", "bfloat16"]


class Amp:
    """Casts, scales and steps; with `off` it only passes on.

    Raises:
        ConfigError: The device is a CPU: Paddle computes in float32 there whatever is asked.
    """

    def __init__(self, dtype: AmpType, device: str) -> None:
        if dtype != "off" and device == "cpu":
            raise ConfigError(f"train.amp: {dtype} needs a GPU, the device is cpu")
        self._dtype = None if dtype == "off" else dtype
        self._scaler = paddle.amp.GradScaler() if dtype == "float16" else None

    def cast(self) -> Any:
        """Return the context in which the forward call runs."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(dtype=self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a (scaled) loss, a scalar."""
        (self._scaler.scale(loss) if self._scaler else loss).backward()

    def step(self, optimizer: Optimizer, rate: float) -> None:
        """Update the parameters, unless scaled gradients overflowed."""
        optimizer.step(rate, self._scaler)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scaler."""
        return dict(self._scaler.state_dict()) if self._scaler else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if self._scaler and state:
            self._scaler.load_state_dict(state)
