"""Grids of int8 weights that no processor overflows on, and none rounds again.

The steps of an output channel (or of a whole weight) are multiples of absmax / 127. A limit says
which of them a weight may take; each is as tight as its rule allows:

- `none`: -127 to 127, and absmax is the largest magnitude. x86 processors with VNNI and ARM
  processors compute such files exactly.
- `pair_sum`: the two largest positive steps of an output channel add up to at most 128, and so do
  the magnitudes of its two most negative ones. x86 processors without VNNI multiply unsigned by
  signed bytes in pairs and add each pair in 16 bits with saturation (`vpmaddubsw`):
  255 x 128 = 32640 is below 32768, whichever two weights of a channel a kernel makes a pair of. A
  single product always fits, and products of opposite signs cancel.
- `even`: even steps, and 127 for the largest magnitude. oneDNN in Paddle Inference scales each
  output channel to a largest magnitude of 127 when it loads a file. Without VNNI it then halves the
  weights of layers that read signed bytes, and rounds half to even: even steps stay what they are,
  and 63.5 becomes 64, so that 127 stands for 128. With VNNI it halves nothing. What 127 stands for
  is the only thing in which processors differ. The largest magnitude is put in between, at
  `MIDDLE`, so that either is half a step off; rounding to even steps moves the other weights by up
  to a whole one.

Weights of fewer than 8 bits need no limit: 63 + 63 is below 128, and files do not hold them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np
import paddle
from paddle import Tensor

from core.targets.processors import HIGHEST, MIDDLE, PAIR, Limit

LIMITS: tuple[Limit, ...] = get_args(Limit)

_MOST_EVEN = 63  # even steps to either side, beside the largest magnitude
# Of the sum of a pair in absmax: a sum below 128, in float32 too, is never rounded to more than 128
_PAIR_SHARE = np.float32(HIGHEST / PAIR * (1 + 1e-6))
_BLOCK = 64  # weights of which the largest is found first


def quantize_weight(
    weight: np.ndarray, axis: int | None, limit: Limit = "none", per_channel: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Round a weight to int8, half to even.

    Args:
        weight: Float, of any shape.
        axis: Axis of the output channels; None if no axis counts them.
        limit: Limit on the steps that the weight may take.
        per_channel: Whether each output channel has a scale; it needs an axis. Paddle Inference
            gives each one in any case, so `even` rounds a weight with one scale once more.

    Returns:
        Steps, int8 in [-127, 127] of the weight's shape, and the value of step 127, float32
        [channels] or [1]; 1 where all weights are 0.
    """
    if limit == "even" and not per_channel:
        steps, absmax = quantize_weight(weight, axis, per_channel=False)
        return quantize_weight(steps * (absmax / np.float32(HIGHEST)), axis, limit)
    rows = weight.reshape(1, -1)
    if axis is not None:
        rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    absmax = np.abs(rows).max(1).astype(np.float32)
    if limit == "pair_sum":
        pairs = np.maximum(_pair_sums(rows), _pair_sums(-rows)).astype(np.float32)
        absmax = np.maximum(absmax, pairs * _PAIR_SHARE)
    if not per_channel:
        absmax = absmax.max(keepdims=True)
    absmax[absmax == 0] = 1
    scales = broadcast(absmax, weight.ndim, axis).astype(np.float64)
    if limit == "even":
        steps = np.clip(2 * np.rint(weight * (MIDDLE / 2) / scales), -HIGHEST, HIGHEST)
        return steps.astype(np.int8), _survive_loading(absmax * np.float32(HIGHEST / MIDDLE))
    return np.rint(weight.astype(np.float64) * HIGHEST / scales).astype(np.int8), absmax


def limit_weight(
    weight: Tensor,
    axis: int | None,
    limit: Limit,
    per_channel: bool = True,
    largest: float = MIDDLE,
) -> Tensor:
    """Return the values of `quantize_weight` in eager mode, without a gradient.

    Args:
        weight: Float32, of any shape.
        axis: Axis of the output channels; None if no axis counts them.
        limit: Limit on the steps that the weight may take.
        per_channel: Whether each output channel has a scale; it needs an axis.
        largest: Value of step 127 of an even grid: 128 where the processor halves weights, 127
            where it does not; in between for both.
    """
    if limit == "even" and not per_channel:
        weight = limit_weight(weight, axis, "none", per_channel=False)
        return limit_weight(weight, axis, limit, largest=largest)
    rows = weight.reshape([1, -1])
    if axis is not None:
        order = [axis, *(other for other in range(weight.ndim) if other != axis)]
        rows = weight.transpose(order).reshape([weight.shape[axis], -1])
    absmax = paddle.maximum(rows.max(1), -rows.min(1))
    if limit == "pair_sum":
        pairs = paddle.maximum(_two_largest(rows), _two_largest(-rows))
        absmax = paddle.maximum(absmax, pairs * float(_PAIR_SHARE))
    if not per_channel:
        absmax = absmax.max(keepdim=True)
    absmax = paddle.where(absmax == 0, paddle.ones_like(absmax), absmax)
    absmax = absmax.reshape([-1 if each == axis else 1 for each in range(weight.ndim)])
    count = MIDDLE / 2 if limit == "even" else HIGHEST
    steps = paddle.round(weight * (count / absmax))  # half to even
    if limit == "even":
        steps = steps.clip(-largest / 2, largest / 2)
    limited: Tensor = steps * (absmax / count)
    return limited


@dataclass(frozen=True)
class FreeSteps:
    """Which steps rows of a weight may take while their grids stay as they are.

    Attributes:
        step: Value of a step, [rows, 1].
        stride: Every so many steps is one that a value may take.
        nearest: Steps that rounding to nearest gives, [rows, K].
        held: Values that must keep these, since the grid follows from them, [rows, K].
        low: The lowest step that another value may take, in strides, [rows].
        high: The highest one.
    """

    step: np.ndarray
    stride: int
    nearest: np.ndarray
    held: np.ndarray
    low: np.ndarray
    high: np.ndarray


def free_steps(rows: np.ndarray, limit: Limit, bits: int = 8) -> FreeSteps:
    """Return which steps the rows [rows, K] of a weight with a grid for each may take.

    Args:
        rows: Float64.
        limit: Limit on the steps; of fewer than 8 bits there is none.
        bits: 2 to 8.
    """
    highest = 2 ** (bits - 1) - 1
    if bits < 8 or limit == "none":
        end = np.abs(rows).max(axis=1)
        end = np.where(end == 0, 1, end)
        nearest = np.rint(rows * (highest / end[:, None]))
        stride, most = 1, highest
    else:
        steps, ends = quantize_weight(rows, 0, limit)
        nearest, end = steps.astype(np.float64), ends.astype(np.float64)
        stride, most = (2, _MOST_EVEN) if limit == "even" else (1, HIGHEST)
        if limit == "even":
            nearest = np.where(np.abs(nearest) == HIGHEST, np.sign(nearest) * MIDDLE, nearest)
    held = np.abs(nearest) >= highest
    low, high = np.full(len(rows), -most), np.full(len(rows), most)
    if limit == "pair_sum" and bits == 8:
        high = _left_beside_largest(rows, nearest, held).clip(max=most)
        low = -_left_beside_largest(-rows, -nearest, held).clip(max=most)
    return FreeSteps(end[:, None] / highest, stride, nearest, held, low, high)


def _left_beside_largest(rows: np.ndarray, nearest: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Return how high the step of a value may be beside the largest one, which is held, [rows].

    Two whose sum is what the grid follows from are held both.
    """
    every = np.arange(len(rows))
    two = np.argpartition(rows, range(-min(2, rows.shape[1]), 0), axis=1)[:, -2:]
    largest = nearest[every, two[:, -1]].clip(min=0)
    held[every, two[:, -1]] = True
    if rows.shape[1] > 1:
        second = two[:, 0]
        held[every, second] |= largest + nearest[every, second].clip(min=0) >= PAIR
    return np.asarray(PAIR - largest)


def broadcast(scales: np.ndarray, rank: int, axis: int | None) -> np.ndarray:
    """Shape the scales of a weight, [channels] or [1], for a product with the weight."""
    shape = [1] * rank
    shape[axis or 0] = -1
    return scales.reshape(shape)


def _pair_sums(rows: np.ndarray) -> np.ndarray:
    """Return the sum of the two largest values of each row [C, K] that are positive, [C]."""
    largest = np.partition(rows, -2, axis=1)[:, -2:] if rows.shape[1] > 1 else rows
    sums: np.ndarray = largest.clip(min=0).sum(1)
    return sums


def _two_largest(rows: Tensor) -> Tensor:
    """Return the sum of the two largest values of each row [C, K] that are positive, [C].

    Long rows are looked through in blocks, which takes one pass that is vectorized: the second
    largest is the largest of another block, or in the block of the largest.
    """
    channels, length = rows.shape
    block = math.gcd(length, _BLOCK)
    if length <= _BLOCK or block < 8:
        return rows.topk(min(2, length), axis=1)[0].clip(min=0).sum(1)
    blocks = rows.reshape([channels, length // block, block])
    first, places = blocks.max(2).topk(2, axis=1)
    place = places[:, :1].unsqueeze(2).expand([channels, 1, block])
    inside = blocks.take_along_axis(place, 1).squeeze(1).topk(2, axis=1)[0]
    second = paddle.maximum(first[:, 1], inside[:, 1])
    return first[:, 0].clip(min=0) + second.clip(min=0)


def _survive_loading(absmax: np.ndarray) -> np.ndarray:
    """Move scales by last bits until oneDNN halves step 127 to 64, float32 [channels].

    It computes 127 x (1 / absmax) x absmax / 2 in float32. Where that is a bit less than 63.5, it
    would be rounded to 63.
    """
    for _ in range(1024):
        with np.errstate(over="ignore", divide="ignore"):  # channels with a weight of 1e-39
            factor = (np.float32(1) / absmax) * np.float32(HIGHEST)
            short = (factor * absmax < HIGHEST) | (absmax / (np.float32(1) / factor) < HIGHEST)
        if not short.any():
            break
        absmax = np.where(short, np.nextafter(absmax, np.float32(np.inf)), absmax)
    return absmax
