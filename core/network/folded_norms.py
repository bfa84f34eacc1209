"""Batch norms that weights of exported networks have folded away, given back what they lost.

Whoever folds a batch norm into the convolution before it leaves a norm of mean 0 and variance 1
that only adds a shift. In evaluation nothing has changed. In training such a norm divides by the
spread of the batch as any other, which no weight expects any more: the network is another one from
the first step on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import Layer

from core.network.batch_norms import is_batch_norm
from core.network.modes import evaluation_mode

NEAR_ONE = 1e-3  # of the variance; tools write 1, or 1 without their epsilon


def folded_norms(model: Layer) -> list[Layer]:
    """Return the batch norms with a shift, but with statistics as they are before any training.

    Those without a shift may never have been trained, those of `use_global_stats` train as they
    are evaluated.
    """
    return [
        layer
        for layer in model.sublayers()
        if is_batch_norm(layer) and not layer._use_global_stats and _is_folded(layer)
    ]


def _is_folded(norm: Layer) -> bool:
    if norm.weight is None or norm.bias is None:
        return False
    mean, variance = norm._mean.numpy(), norm._variance.numpy()
    untouched = not mean.any() and bool((np.abs(variance - 1) <= NEAR_ONE).all())
    return untouched and bool(norm.bias.numpy().any())


def unfold_norms(model: Layer, batches: Callable[[], Iterable[Sequence[Tensor]]]) -> int:
    """Give folded batch norms mean and variance of their inputs, without changing the network.

    Their scale and shift undo what the statistics do, so that each norm computes in evaluation what
    it computed before (but for rounding).

    Args:
        model: Changed in place.
        batches: Returns inputs of the model, [N, C, H, W] for images; called if there are any.

    Returns:
        How many norms were folded.
    """
    norms = folded_norms(model)
    if not norms:
        return 0
    sums: dict[int, list[np.ndarray]] = {}
    counts: dict[int, int] = {}

    def look(norm: Layer, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].numpy().astype(np.float64)
        axes = (0, *range(2, values.ndim))
        found = [values.sum(axes), np.square(values).sum(axes)]
        kept = sums.get(id(norm))
        sums[id(norm)] = found if kept is None else [a + b for a, b in zip(kept, found)]
        counts[id(norm)] = counts.get(id(norm), 0) + values.size // values.shape[1]

    with contextlib.ExitStack() as opened:
        opened.enter_context(evaluation_mode(model))
        opened.enter_context(paddle.no_grad())
        for norm in norms:
            opened.callback(norm.register_forward_pre_hook(look).remove)
        for inputs in batches():
            model(*inputs)
    seen = [norm for norm in norms if id(norm) in sums]
    for norm in seen:
        total, squares = (each / counts[id(norm)] for each in sums[id(norm)])
        _restore(norm, total, np.maximum(squares - np.square(total), 0))
    return len(seen)


def _restore(norm: Layer, mean: np.ndarray, variance: np.ndarray) -> None:
    """Set statistics, and the scale and shift with which they compute the same."""
    weight, bias, before = (
        each.numpy().astype(np.float64) for each in (norm.weight, norm.bias, norm._variance)
    )
    scale = weight / np.sqrt(before + norm._epsilon)
    values = {
        norm._mean: mean,
        norm._variance: variance,
        norm.weight: scale * np.sqrt(variance + norm._epsilon),
        norm.bias: bias + scale * mean,
    }
    for tensor, value in values.items():
        tensor.set_value(value.astype(tensor.numpy().dtype))
