"""Batch normalization statistics, estimated anew from data."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import paddle
from paddle import Tensor
from paddle.nn import Layer
from paddle.nn.layer.norm import _BatchNormBase

from core.errors import DataError
from core.network.modes import modes_kept, training_mode

_log = logging.getLogger(__name__)


def reestimate(model: Layer, batches: Iterable[Sequence[Tensor]]) -> int:
    """Replace the running statistics of all batch norms by averages over these batches.

    After weights were cut or rounded the old statistics describe other activations. The model runs
    in training mode, without gradients and without dropout; its modes are put back.

    Args:
        model: Changed in place.
        batches: Inputs of the model, [N, C, H, W] for images.

    Returns:
        How many norms were estimated; frozen ones (`use_global_stats`) keep theirs.

    Raises:
        DataError: There are no batches.
    """
    norms = [layer for layer in model.sublayers() if is_batch_norm(layer)]
    norms = [norm for norm in norms if not norm._use_global_stats]
    if not norms:
        return 0
    count = 0
    with _averaging(model, norms), paddle.no_grad():
        for count, inputs in enumerate(batches, start=1):
            for norm in norms:
                norm._momentum = (count - 1) / count  # the mean of all batches so far
            model(*inputs)
    if count == 0:
        raise DataError("calibration: no batches to estimate batch norms on")
    _log.debug("estimated the statistics of %d batch norms on %d batches", len(norms), count)
    return len(norms)


@runtime_checkable
class KeepsTrainingState(Protocol):
    """A layer with state of training beside its buffers and parameters, such as a quantizer."""

    def training_state(self) -> dict[str, Any]: ...

    def load_training_state(self, state: dict[str, Any]) -> None: ...


@contextlib.contextmanager
def statistics_kept(model: Layer) -> Iterator[None]:
    """Put back modes, running statistics and other states of layers that are changed inside."""
    values = [(tensor, tensor.clone()) for tensor in _statistics(model)]
    layers = [layer for layer in model.sublayers() if isinstance(layer, KeepsTrainingState)]
    states = [(layer, layer.training_state()) for layer in layers]
    try:
        with modes_kept(model):
            yield
    finally:
        for tensor, value in values:
            tensor.set_value(value)
        for layer, state in states:
            layer.load_training_state(state)


def _statistics(model: Layer) -> list[Tensor]:
    buffers = [tensor for tensor in model.buffers() if tensor is not None]
    # paddle.nn.BatchNorm keeps them as parameters
    return buffers + [tensor for tensor in model.parameters() if tensor.stop_gradient]


def is_batch_norm(layer: Layer) -> bool:
    """Tell batch norms, old and new, from other layers."""
    return isinstance(layer, (_BatchNormBase, paddle.nn.BatchNorm))


@contextlib.contextmanager
def _averaging(model: Layer, norms: Sequence[Layer]) -> Iterator[None]:
    momenta = [(norm, norm._momentum) for norm in norms]
    dropouts = (paddle.nn.Dropout, paddle.nn.Dropout2D, paddle.nn.AlphaDropout)
    try:
        with training_mode(model):
            for layer in model.sublayers():
                if isinstance(layer, dropouts):
                    layer.eval()
            yield
    finally:
        for norm, momentum in momenta:
            norm._momentum = momentum
