"""Training and evaluation mode of a network, changed for a while and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from paddle.nn import Layer


@contextlib.contextmanager
def evaluation_mode(layer: Layer) -> Iterator[None]:
    """Put a layer in evaluation mode while the context is open."""
    with modes_kept(layer):
        layer.eval()
        yield


@contextlib.contextmanager
def training_mode(layer: Layer) -> Iterator[None]:
    """Put a layer in training mode while the context is open."""
    with modes_kept(layer):
        layer.train()
        yield


@contextlib.contextmanager
def modes_kept(layer: Layer) -> Iterator[None]:
    """Give the layer and each of its sublayers back the mode it had when the context opened."""
    modes = [(each, each.training) for each in layer.sublayers(include_self=True)]
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training
