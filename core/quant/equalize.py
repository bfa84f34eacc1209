"""Cross-layer equalization: even out the ranges of a layer's channels without changing the model.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
section 4.1. Where nothing but a function with f(c x) = c f(x) for all c > 0 is between two layers,
channel i of the first may be divided by s_i and what the second makes of it multiplied by s_i.
With s_i = sqrt(r1_i / r2_i), r being the largest magnitudes of the weights of that channel on
either side, both become the geometric mean, and one grid for a whole weight fits all channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from paddle.nn import Layer
from paddle.static import InputSpec

from core.graph.layer_patterns import LayerPattern, is_nchw, layer_patterns
from core.graph.linear_layers import LAYER_SLOTS
from core.graph.operators import attribute, only
from core.graph.program import Graph
from core.graph.trace import trace

# Functions of each channel alone that are positively homogeneous. Those that bend at a fixed value
# (relu6, hard_swish, hard_sigmoid, swish, gelu, sigmoid) are not.
HOMOGENEOUS = frozenset(
    {
        "relu",
        "leaky_relu",
        "prelu",
        "assign",
        "dropout",
        "pool2d",
        "nearest_interp_v2",
        "bilinear_interp_v2",
    }
)
_FLATTENING = ("flatten_contiguous_range", "reshape2", "squeeze2")
_ENOUGH = 0.01  # a sweep that changes all scales by less than 1 % was the last
_MOST_SWEEPS = 50


@dataclass(frozen=True)
class Equalized:
    """Two layers whose common channels were rescaled.

    Attributes:
        first: Path of the weight of the layer that writes the channels.
        second: Path of the weight of the layer that reads them.
        scales: Factor of each channel, which divides it in the first layer and multiplies it in the
            second.
    """

    first: str
    second: str
    scales: np.ndarray


def equalize(model: Layer, specs: Sequence[InputSpec], limit: float = 32.0) -> list[Equalized]:
    """Rescale the channels between all pairs of layers where that changes no output, in place.

    Pairs are found in the graph. The tensors between must have one reader each, in training as
    well, and the layers must be used once. A depthwise convolution in the middle is the second of
    one pair and the first of the next; all pairs are gone through until nothing changes. Where a
    batch norm follows the first layer, its scale and shift are divided instead of weights. Ranges
    are those of the weights with the batch norms folded in, as they are quantized. Channels with
    weights that are zero on either side stay as they are.

    Args:
        model: Float model; its parameters are changed in place.
        specs: Inputs of the model, named, to trace it with.
        limit: The largest factor up or down that a channel may get. A channel whose weights are
            almost zero but whose shift is not would else get an output beyond all others.

    Returns:
        What was rescaled, in the order of the graph.

    Raises:
        ExportError: The model cannot be traced.
    """
    traced = trace(model, specs)
    graph = Graph.from_trace(traced)
    training = Graph.from_trace(trace(model, specs, training=True))
    # a head for training may read what has one reader in evaluation
    allowed = {(one.weight, other.weight) for one, other in _pairs(training)}
    pairs = [pair for pair in _pairs(graph) if (pair[0].weight, pair[1].weight) in allowed]
    scales = _solve(graph, pairs, limit)
    results = []
    for (first, second), scale in zip(pairs, scales):
        divide_output(graph, first, scale)
        multiply_input(graph, second, scale)
        results.append(Equalized(first.weight, second.weight, scale))
    for name in {name for pair in pairs for layer in pair for name in edited_weights(layer)}:
        tensor = traced.weights[name]
        tensor.set_value(graph.weights[name].astype(tensor.numpy().dtype))
    return results


def rescalable_layers(graph: Graph) -> dict[str, LayerPattern]:
    """Return the layers whose parameters no other operator reads, by the name of the weight."""
    consumers = graph.consumers()
    return {
        each.weight: each
        for each in layer_patterns(graph)
        if all(
            len(consumers[name]) == 1 and name not in graph.outputs for name in edited_weights(each)
        )
    }


def _pairs(graph: Graph) -> list[tuple[LayerPattern, LayerPattern]]:
    """Return the pairs of layers that can be rescaled: the second reads the output of the first."""
    consumers, layers = graph.consumers(), rescalable_layers(graph)
    pairs = []
    for first in layers.values():
        weight = _next_weight(graph, first, consumers)
        if weight in layers and weight != first.weight:
            pairs.append((first, layers[weight]))
    return pairs


def _next_weight(graph: Graph, first: LayerPattern, consumers: Mapping[str, list[Any]]) -> str:
    """Follow a layer's output to the layer that reads it; return that one's weight, or ''."""
    if first.norm is not None and not only(first.norm.inputs, "Scale"):
        return ""  # a norm without parameters leaves nothing to divide
    name = first.end
    while True:
        reading = consumers.get(name, [])
        if len(reading) != 1 or name in graph.outputs:
            return ""
        (op,) = reading
        if op.type in LAYER_SLOTS:
            slots = LAYER_SLOTS[op.type]
            return only(op.inputs, slots.weight) if only(op.inputs, slots.source) == name else ""
        if only(op.inputs, "X") != name or not _passes(graph, op):
            return ""
        name = only(op.outputs, "Out")


def _passes(graph: Graph, op: Any) -> bool:
    """Tell whether an operator is positively homogeneous and keeps channels where they are."""
    if op.type == "scale":
        return not attribute(op, "bias", 0.0)
    if op.type in _FLATTENING:
        before, after = graph.shape(only(op.inputs, "X")), graph.shape(only(op.outputs, "Out"))
        return len(after) == 2 and before[1:] == (after[1], *[1] * (len(before) - 2))
    return op.type in HOMOGENEOUS and is_nchw(op)


def _norm_weights(norm: Any | None) -> list[str]:
    """Return the names of a norm's scale and shift, those it has."""
    if norm is None:
        return []
    return [name for name in (only(norm.inputs, slot) for slot in ("Scale", "Bias")) if name]


def edited_weights(layer: LayerPattern) -> list[str]:
    """Return the names of the parameters that rescaling a layer may change."""
    return [name for name in (layer.weight, layer.bias, *_norm_weights(layer.norm)) if name]


def _solve(
    graph: Graph, pairs: Sequence[tuple[LayerPattern, LayerPattern]], limit: float
) -> list[np.ndarray]:
    """Return the scales of each pair, found by going through the pairs again and again."""
    # rows of magnitudes [O, I / groups] suffice, as rescaling multiplies whole kernels
    sizes = {
        layer.weight: np.abs(in_groups(layer.op, graph.weights[layer.weight]))
        .max(axis=-1)
        .astype(np.float64)
        * fold_factors(graph, layer)
        for pair in pairs
        for layer in pair
    }
    totals: list[np.ndarray] = [
        np.ones(sizes[second.weight].shape[0] * sizes[second.weight].shape[2])
        for _, second in pairs
    ]
    for _ in range(_MOST_SWEEPS):
        change = 0.0
        for index, (first, second) in enumerate(pairs):
            out, into = sizes[first.weight], sizes[second.weight]
            r1, r2 = out.max(axis=2).ravel(), into.max(axis=1).ravel()
            usable = (r1 > 0) & (r2 > 0)
            wanted = np.sqrt(np.where(usable, r1, 1) / np.where(usable, r2, 1))
            total = np.clip(totals[index] * wanted, 1 / limit, limit)
            scale = total / totals[index]
            totals[index] = total
            out /= scale.reshape(*out.shape[:2], 1)
            into *= scale.reshape(into.shape[0], 1, -1)
            change = max(change, float(np.abs(np.log(scale)).max()))
        if change < _ENOUGH:
            break
    return totals


def fold_factors(graph: Graph, layer: LayerPattern) -> np.ndarray:
    """Return the magnitude of the factor that folding gives each output channel, [groups, O, 1]."""
    groups = _groups(layer.op)
    if layer.norm is None:
        return np.ones((groups, 1, 1))
    variance = graph.weights[only(layer.norm.inputs, "Variance")].astype(np.float64)
    scale = graph.weights.get(only(layer.norm.inputs, "Scale"), np.ones_like(variance))
    factor = np.abs(scale) / np.sqrt(variance + attribute(layer.norm, "epsilon", 1e-5))
    return np.asarray(factor.reshape(groups, -1, 1))


def _groups(op: Any) -> int:
    return int(attribute(op, "groups", 1) or 1)


def in_groups(op: Any, weight: np.ndarray) -> np.ndarray:
    """View a contiguous weight as [groups, outputs of a group, inputs of a group, kernel]."""
    groups = _groups(op)
    if op.type == "matmul_v2":
        return np.reshape(weight.T, (1, *weight.T.shape, 1))
    if op.type.endswith("_transpose"):  # [I, O / groups, h, w]
        inputs, outputs = weight.shape[:2]
        return weight.reshape(groups, inputs // groups, outputs, -1).swapaxes(1, 2)
    outputs, inputs = weight.shape[:2]
    return weight.reshape(groups, outputs // groups, inputs, -1)


def divide_output(graph: Graph, layer: LayerPattern, scale: np.ndarray) -> None:
    """Divide the output channels of a layer by a scale [C], in the weights of the graph."""
    if layer.norm is not None:
        for name in _norm_weights(layer.norm):
            graph.weights[name] = graph.weights[name] / scale
        return
    weight = graph.weights[layer.weight].astype(np.float64, "C")
    view = in_groups(layer.op, weight)
    view /= scale.reshape(*view.shape[:2], 1, 1)
    graph.weights[layer.weight] = weight  # changed through its view
    if layer.bias:
        bias = graph.weights[layer.bias]
        graph.weights[layer.bias] = bias / scale.reshape(bias.shape)


def multiply_input(graph: Graph, layer: LayerPattern, scale: np.ndarray) -> None:
    """Multiply the weights of each input channel of a layer by a scale [C], in the graph."""
    weight = graph.weights[layer.weight].astype(np.float64, "C")
    view = in_groups(layer.op, weight)
    view *= scale.reshape(view.shape[0], 1, -1, 1)
    graph.weights[layer.weight] = weight
