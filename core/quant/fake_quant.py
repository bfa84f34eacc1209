"""Rounding to a grid in eager mode, with gradients: on Paddle's own kernels, without its layers.

All functions take float tensors and return float tensors of the same shape whose values lie on a
grid of `core.quant.scales`. Rounding is half to even and a signed grid reaches one step further
below zero than above, as in `QuantizeLinear` of the file formats, so that training and files agree
to the bit. Half precision is computed in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

from core.quant.scales import highest_step, lowest_step
from core.quant.weight_grid import limit_weight
from core.targets.processors import MIDDLE, Limit

HALF_TO_EVEN = 0
INFINITE = float(np.finfo(np.float32).max)


def fake_quantize(
    x: Tensor, absmax: Tensor, bits: int, signed: bool, zero_point: int = 0
) -> Tensor:
    """Round activations to a grid; the gradient goes straight through (Bengio et al., 2013).

    Args:
        x: Activations of any shape; an unsigned grid without a zero point clips at zero.
        absmax: Highest value of the grid, float32 [1], greater than 0.
        bits: 2 to 8.
        signed: Whether the grid reaches as far below zero as above.
        zero_point: Steps below zero of a grid that is not signed.
    """
    if x.stop_gradient or not paddle.is_grad_enabled():
        return _rounded(x, absmax, bits, signed, zero_point)
    rounded: Tensor = _StraightThrough.apply(x, absmax, bits, signed, zero_point)
    return rounded


def clip_and_fake_quantize(x: Tensor, threshold: Tensor, bits: int, signed: bool) -> Tensor:
    """Round activations to a grid that ends at a learned threshold.

    PACT (Choi et al., 2018), for signed activations symmetric: beyond the threshold the gradient
    goes to the threshold and not to the activation.

    Args:
        x: Activations of any shape.
        threshold: Trainable, float32 [1], greater than 0.
        bits: 2 to 8.
        signed: Whether the grid has steps below zero.
    """
    clipped: Tensor = _Pact.apply(x, threshold, bits, signed)
    return clipped


def fake_quantize_by_step(
    x: Tensor, step: Tensor, bits: int, signed: bool, zero_point: int = 0
) -> Tensor:
    """Round activations to a grid whose step is learned.

    LSQ (Esser et al., 2020): the gradient of the step counts roundings as well as clipping, and is
    divided by sqrt(elements of x, highest step).

    Args:
        x: Activations of any shape.
        step: Trainable distance between two values, float32 [1], greater than 0.
        bits: 2 to 8.
        signed: Whether the grid reaches as far below zero as above.
        zero_point: Steps below zero of a grid that is not signed; it is not learned.
    """
    rounded: Tensor = _Lsq.apply(x, step, bits, signed, zero_point)
    return rounded


def fake_quantize_weight(weight: Tensor, bits: int, axis: int | None) -> Tensor:
    """Round a weight to a symmetric grid that ends at its largest magnitude.

    The gradient goes straight through. Where all weights are zero they stay zero.

    Args:
        weight: Weight of any shape.
        bits: 2 to 8.
        axis: 0 or 1: each index along it has a grid of its own; None: one grid for all.
    """
    if weight.stop_gradient or not paddle.is_grad_enabled():
        return _rounded_weight(weight, bits, axis)
    rounded: Tensor = _StraightThroughWeight.apply(weight, bits, axis)
    return rounded


def fake_quantize_limited_weight(
    weight: Tensor, axis: int | None, limit: Limit, per_channel: bool, largest: float = MIDDLE
) -> Tensor:
    """Round a weight to the 8 bits of a limited grid; the gradient goes straight through.

    Args:
        weight: Weight of any shape.
        axis: Axis of the output channels; None if no axis counts them.
        limit: See `core.quant.weight_grid`.
        per_channel: Whether each output channel has a grid of its own.
        largest: See `limit_weight`.
    """
    with paddle.no_grad():
        rounded = limit_weight(weight.astype("float32"), axis, limit, per_channel, largest)
    rounded = rounded.astype(weight.dtype)
    if weight.stop_gradient or not paddle.is_grad_enabled():
        return rounded
    passed: Tensor = _InPlaceOf.apply(weight, rounded)
    return passed


def _rounded(x: Tensor, absmax: Tensor, bits: int, signed: bool, zero_point: int = 0) -> Tensor:
    if x.dtype != paddle.float32:
        return _rounded(x.astype("float32"), absmax, bits, signed, zero_point).astype(x.dtype)
    if zero_point:
        lowest, highest = (end(bits, signed, zero_point) for end in (lowest_step, highest_step))
        step = absmax / highest
        on_grid: Tensor = x / step
        return on_grid.round_().clip_(lowest, highest).multiply_(step)  # half to even
    # the kernel knows signed grids only; of one bit more, an unsigned grid is the upper half
    width = bits if signed else bits + 1
    rounded: Tensor = _C_ops.fake_quantize_dequantize_moving_average_abs_max(
        x, absmax, absmax, absmax, 0.0, width, True, HALF_TO_EVEN
    )[0]
    return rounded if signed else F.relu_(rounded)


def _rounded_weight(weight: Tensor, bits: int, axis: int | None) -> Tensor:
    if weight.dtype != paddle.float32:
        return _rounded_weight(weight.astype("float32"), bits, axis).astype(weight.dtype)
    if axis is None:
        rounded = _C_ops.fake_quantize_dequantize_abs_max(weight, bits, HALF_TO_EVEN)[0]
    else:
        rounded = _C_ops.fake_channel_wise_quantize_dequantize_abs_max(
            weight, bits, HALF_TO_EVEN, axis
        )[0]
    result: Tensor = rounded
    return result


class _StraightThrough(PyLayer):
    @staticmethod
    def forward(
        context: Any, x: Tensor, absmax: Tensor, bits: int, signed: bool, zero_point: int
    ) -> Tensor:
        return _rounded(x, absmax, bits, signed, zero_point)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        return gradient


class _StraightThroughWeight(PyLayer):
    @staticmethod
    def forward(context: Any, weight: Tensor, bits: int, axis: int | None) -> Tensor:
        return _rounded_weight(weight, bits, axis)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        return gradient


class _InPlaceOf(PyLayer):
    @staticmethod
    def forward(context: Any, weight: Tensor, rounded: Tensor) -> Tensor:
        return rounded.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        return gradient


class _Pact(PyLayer):
    @staticmethod
    def forward(context: Any, x: Tensor, threshold: Tensor, bits: int, signed: bool) -> Tensor:
        context.save_for_backward(x, threshold)
        context.signed, context.to_x = signed, not x.stop_gradient
        return _rounded(x, threshold, bits, signed)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        x, threshold = context.saved_tensor()
        x32, gradient32, end = x.astype("float32"), gradient.astype("float32"), float(threshold)
        below_end = _within(x32, gradient32, -INFINITE, end)
        inside = _within(x32, gradient32, -end, end) if context.signed else below_end
        # amount clipped above, less the amount clipped below
        kept = below_end.sum()
        to_threshold = gradient32.sum() - kept - (kept - inside.sum())
        return _through(context, gradient, inside), to_threshold.reshape([1])


class _Lsq(PyLayer):
    @staticmethod
    def forward(
        context: Any, x: Tensor, step: Tensor, bits: int, signed: bool, zero_point: int
    ) -> Tensor:
        highest = highest_step(bits, signed, zero_point)
        context.save_for_backward(x, step)
        context.lowest = lowest_step(bits, signed, zero_point)
        context.highest, context.to_x = highest, not x.stop_gradient
        context.rounded = _rounded(x, step * highest, bits, signed, zero_point)
        return context.rounded

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        x, step = context.saved_tensor()
        x32, gradient32, highest = x.astype("float32"), gradient.astype("float32"), context.highest
        # the ends are on the grid
        ends = np.array([context.lowest, highest], np.float32) * np.float32(step)
        low, high = (
            float(end) for end in np.nextafter(ends, np.array([-INFINITE, INFINITE], np.float32))
        )
        inside = _within(x32, gradient32, low, high)
        # on the grid: rounding error, in steps; beyond it: the number of the last step
        share = _dot(gradient32, context.rounded.astype("float32")) - _dot(inside, x32)
        scale = (x.size * highest) ** -0.5
        return _through(context, gradient, inside), share / step * scale


def _within(x: Tensor, gradient: Tensor, low: float, high: float) -> Tensor:
    """Return the gradient where low < x < high, 0 elsewhere, in one pass."""
    passed: Tensor = _C_ops.clip_grad(x, gradient, low, high)  # type: ignore[no-untyped-call]
    return passed


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of products, [1], in one pass."""
    product: Tensor = paddle.matmul(a.reshape([1, -1]), b.reshape([-1, 1]))
    return product.reshape([1])


def _through(context: Any, gradient: Tensor, passed: Tensor) -> Tensor | None:
    """Return the gradient of the activations, None if they need none."""
    return passed.astype(gradient.dtype) if context.to_x else None
