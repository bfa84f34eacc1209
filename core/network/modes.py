"""Training and evaluation mode of a network, changed for a while and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from paddle.nn import Layer


@contextlib.contextmanager
def evaluation_mode(layer: Layer, evaluation: bool = True) -> Iterator[None]:
    """Put a layer in evaluation mode inside, or in training mode.

    Each sublayer gets back the mode it had.
    """
    modes = [(each, each.training) for each in layer.sublayers(include_self=True)]
    layer.eval() if evaluation else layer.train()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training
