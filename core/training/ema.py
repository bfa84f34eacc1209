"""Exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import paddle
from paddle.nn import Layer


class Ema:
    """Averages every floating entry of a model's state, with the usual bias correction.

    The decay of update t is min(decay, (1 + t) / (10 + t)), so that early averages follow.
    """

    def __init__(self, model: Layer, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._average = {
            name: tensor.detach().clone()
            for name, tensor in model.state_dict().items()
            if tensor.is_floating_point()
        }

    def update(self, model: Layer) -> None:
        """Move the average towards the model."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        with paddle.no_grad():
            state = model.state_dict()
            for name, average in self._average.items():
                average.scale_(decay)
                average.add_(state[name].detach() * (1.0 - decay))

    @contextlib.contextmanager
    def applied(self, model: Layer) -> Iterator[None]:
        """Give the model the averaged weights while the context is open."""
        state = model.state_dict()
        backup = {name: state[name].detach().clone() for name in self._average}
        try:
            for name, average in self._average.items():
                state[name].set_value(average)
            yield
        finally:
            for name, value in backup.items():
                state[name].set_value(value)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the averages as arrays of any shape, and how often they were updated."""
        arrays = {name: tensor.numpy() for name, tensor in self._average.items()}
        return {**arrays, "": np.asarray(self.updates)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `state_dict` returned: arrays of any shape."""
        self.updates = int(state[""])
        for name, average in self._average.items():
            average.set_value(state[name])
