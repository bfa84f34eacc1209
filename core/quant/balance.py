"""Even out the ranges of the channels of activations, across additions, splits and shuffles.

A tensor has one grid. If one of its channels reaches a hundred times as far as the others, these
round to a few steps. Channels may be scaled without changing the model: the layers that write them
divide and the layers that read them multiply. Operators in between must be positively homogeneous
(ReLU, pooling, upsampling) or only move channels (split, concatenation, shuffle). Additions tie the
channels that they add. The idea is that of Nagel et al., ICCV 2019 (`equalize`), with
the magnitudes of activations as in SmoothQuant (Xiao et al., ICML 2023), and groups of channels in
the place of pairs of layers.

Factors are powers of two, so the float model answers as before, to the last bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from paddle import Tensor, nn
from paddle.nn import Layer
from paddle.static import InputSpec

from core.graph.program import Graph
from core.graph.trace import trace
from core.quant.calibration import run_through
from core.quant.channel_groups import FIXED, ChannelGroups
from core.quant.equalize import (
    divide_output,
    edited_weights,
    fold_factors,
    in_groups,
    multiply_input,
)

_MOST_OCTAVES = 12  # most octaves that a channel is scaled by
_SHARPNESS = 16  # exponent of the norm that stands for the maximum, which has no slope
_STEPS, _RATE = 400, 0.1  # steps of the descent, and its rate in octaves
# steps of weights are of 127 to the largest; those of activations of 127, or 255 where none is
# negative
_OF_WEIGHTS = 2.0


def balance(
    model: Layer,
    graph: Graph,
    specs: Sequence[InputSpec],
    batches: Iterable[Sequence[Tensor]],
    kept: Collection[str] = (),
) -> int:
    """Rescale channels so that those of a tensor reach about as far, in place.

    Args:
        model: In float; its weights and the scales and shifts of norms are edited.
        graph: The model in evaluation mode; weights may have been edited since.
        specs: Inputs of the model, named, to trace it in training mode with.
        batches: Inputs of the model, to see how far channels reach; [N, C, H, W] for images.
        kept: Paths of layers whose outputs stay as they are.

    Returns:
        How many groups of channels were rescaled.

    Raises:
        ExportError: The model cannot be traced.
        DataError: No batches.
    """
    reach = channel_reach(model, batches)
    groups = ChannelGroups()
    groups.add(graph, kept)
    # a head that only training has may read what is rescaled
    traced = trace(model, specs, training=True)
    in_training = Graph.from_trace(traced)
    groups.add(in_training, kept)
    for weight in groups.layers.keys() - in_training.weights.keys():
        groups.leave(weight)
    factors = _factors(in_training, groups, reach)
    for path, layer in groups.layers.items():
        divide_output(in_training, layer, factors[groups.side(path, "out")])
        multiply_input(in_training, layer, factors[groups.side(path, "in")])
    for name in {name for layer in groups.layers.values() for name in edited_weights(layer)}:
        tensor = traced.weights[name]
        tensor.set_value(in_training.weights[name].astype(tensor.numpy().dtype))
    return int((factors != 1).sum())


@dataclass(frozen=True)
class Reach:
    """How far the channels go that a layer reads, [C] each.

    Attributes:
        largest: Mean over the images of the largest magnitude.
        power: Mean of the squares.
    """

    largest: np.ndarray
    power: np.ndarray


def channel_reach(model: Layer, batches: Iterable[Sequence[Tensor]]) -> dict[str, Reach]:
    """Measure the channels that each layer reads, [C], by the path of the weight.

    Args:
        model: Runs in evaluation mode.
        batches: Inputs of the model, [N, C, H, W] for images.

    Raises:
        DataError: No batches.
    """
    sums: dict[str, np.ndarray] = {}
    rows: Counter[str] = Counter()
    handles = []

    def listen(path: str, linear: bool) -> None:
        def note(_layer: Layer, inputs: Sequence[Tensor]) -> None:
            x = inputs[0].astype("float32").numpy()  # NumPy takes a fraction of Paddle's time here
            places = tuple(range(1, x.ndim - 1) if linear else range(2, x.ndim))
            far, square = np.abs(x).max(places), np.square(x).mean(places)
            sums[path] = sums.get(path, 0.0) + np.stack([far, square]).sum(1, dtype=np.float64)
            rows[path] += len(x)

        handles.append(layer.register_forward_pre_hook(note))

    for path, layer in model.named_sublayers():
        if isinstance(layer, (nn.Conv2D, nn.Conv2DTranspose, nn.Linear)):
            listen(f"{path}.weight", isinstance(layer, nn.Linear))
    try:
        run_through(model, batches)
    finally:
        for handle in handles:
            handle.remove()
    return {path: Reach(*(found / rows[path])) for path, found in sums.items()}


def _factors(graph: Graph, groups: ChannelGroups, reach: Mapping[str, Reach]) -> np.ndarray:
    """Return the divisor of each group of channels, a power of two."""
    noise = _Noise(graph, groups, reach)
    octaves = np.zeros(len(groups))
    if noise.members.size:
        octaves = noise.least().clip(-_MOST_OCTAVES, _MOST_OCTAVES)
    octaves[FIXED] = 0
    return np.asarray(2.0 ** np.rint(octaves))


class _Noise:
    """Noise that rounding adds to the outputs of layers, as a share of their power, summed up.

    With channels divided by s, a layer reads x / s on a grid whose step is as the largest of them,
    and multiplies by w s. So its inputs add noise of max(x / s)^2 sum(w^2 s^2), and its weights,
    whose steps in a row are as the largest of w s, of max(w s)^2 sum(x^2 / s^2), where each weight
    counts as a share of the largest in its row.

    Attributes:
        members: Group of each channel that each layer reads, one layer after the other.
    """

    def __init__(self, graph: Graph, groups: ChannelGroups, reach: Mapping[str, Reach]) -> None:
        rows: list[tuple[np.ndarray, ...]] = []
        for path, layer in groups.layers.items():
            if path not in reach or path not in graph.weights:
                continue
            weight = in_groups(layer.op, graph.weights[path]).astype(np.float64)
            weight = weight * fold_factors(graph, layer)[..., None]
            squares = (weight**2).sum(axis=(1, 3)).ravel()
            sizes = np.abs(weight).max(axis=3)
            largest = sizes.max(axis=2, keepdims=True)
            share = (sizes / np.where(largest > 0, largest, 1)).max(axis=1).ravel()
            far, power = reach[path].largest, reach[path].power
            total = float(squares @ power)
            if total > 0:
                # each place of the kernel has a step as the largest one
                steps = float((largest**2).sum()) * weight.shape[3] / total
                members = groups.side(path, "in")
                one = sizes.shape[2] == 1  # each row of a depthwise convolution has one channel
                rows.append(
                    (members, far, squares / total, share * (not one), power * steps * _OF_WEIGHTS)
                )
        columns = list(zip(*rows)) or [()] * 5
        self.members, self._far, self._squares, self._share, self._power = (
            np.concatenate([*column, []]) for column in columns
        )
        self.members = self.members.astype(np.int64)
        self._starts = np.cumsum([0, *(len(row[0]) for row in rows)])[:-1]
        self._sizes = np.array([len(row[0]) for row in rows], np.int64)
        self._count = len(groups)

    def least(self) -> np.ndarray:
        """Return octaves for each group that make the noise least (Kingma and Ba, ICLR 2015)."""
        octaves, mean, square = (np.zeros(self._count) for _ in range(3))
        for step in range(1, _STEPS + 1):
            slope = self._slope(octaves)
            slope[FIXED] = 0
            mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
            size = _RATE * (1 - step / _STEPS) / (np.sqrt(square / (1 - 0.99**step)) + 1e-12)
            octaves -= size * mean / (1 - 0.9**step)
        return octaves

    def _slope(self, octaves: np.ndarray) -> np.ndarray:
        """Return how the noise grows by octave of each group."""
        scale = 2.0 ** octaves[self.members]
        inputs, of_inputs = self._product(self._far / scale, self._squares * scale**2)
        weights, of_weights = self._product(self._share * scale, self._power / scale**2)
        change = np.repeat(inputs, self._sizes) * of_inputs
        change -= np.repeat(weights, self._sizes) * of_weights
        slope = np.zeros(self._count)
        np.add.at(slope, self.members, change)
        return slope

    def _product(self, ends: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return max(ends)^2 sum(sums) of each layer, and of each channel its slope over that.

        The slope is that of sums growing with the square of a scale that the ends shrink with.
        """
        powers = (ends / np.repeat(self._largest(ends), self._sizes)) ** _SHARPNESS
        totals = np.add.reduceat(powers, self._starts), np.add.reduceat(sums, self._starts)
        of_end, of_sum = (
            each / np.repeat(np.maximum(total, 1e-300), self._sizes)
            for each, total in zip((powers, sums), totals)
        )
        value = self._largest(ends) ** 2 * totals[0] ** (2 / _SHARPNESS) * totals[1]
        return value, 2 * (of_sum - of_end)

    def _largest(self, values: np.ndarray) -> np.ndarray:
        largest: np.ndarray = np.maximum.reduceat(values, self._starts)
        floored: np.ndarray = np.maximum(largest, 1e-150)
        return floored
