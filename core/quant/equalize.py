"""Cross-layer equalization: even out the ranges of a layer's channels without changing the model.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
section 4.1. Where nothing but a function with f(c x) = c f(x) for all c > 0 is between two layers,
channel i of the first may be divided by s_i and what the second makes of it multiplied by s_i.
With s_i = sqrt(r1_i / r2_i), r being the largest magnitudes of the weights of that channel on
either side, both become the geometric mean, and one grid for a whole weight fits all channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from paddle.nn import Layer
from paddle.static import InputSpec

from core.graph.operators import attribute, names_of, only
from core.graph.program import Graph
from core.graph.trace import trace

# slots of input, weight and output
SLOTS = MappingProxyType(
    {
        "conv2d": ("Input", "Filter", "Output"),
        "depthwise_conv2d": ("Input", "Filter", "Output"),
        "conv2d_transpose": ("Input", "Filter", "Output"),
        "depthwise_conv2d_transpose": ("Input", "Filter", "Output"),
        "matmul_v2": ("X", "Y", "Out"),
    }
)
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
        scales: What each channel was divided by in the first and multiplied by in the second.
    """

    first: str
    second: str
    scales: np.ndarray


@dataclass(frozen=True)
class LinearOperator:
    """A layer in the graph with its bias and batch norm; empty strings for what it does not have.

    Attributes:
        op: The operator of the product or convolution.
        weight: Name of its weight.
        bias: Name of the bias that is added.
        norm: The batch norm behind.
        end: The variable behind all that.
        made: All variables that it makes, `end` among them.
    """

    op: Any
    weight: str
    bias: str
    norm: Any | None
    end: str
    made: frozenset[str]


def equalize(model: Layer, specs: Sequence[InputSpec], limit: float = 32.0) -> list[Equalized]:
    """Rescale the channels between all pairs of layers where that changes no output, in place.

    Pairs are found in the graph. The tensors between must have one reader each, in training as
    well, and the layers must be used once. A depthwise convolution in the middle is the second of
    one pair and the first of the next; all pairs are gone through until nothing changes. Where a
    batch norm follows the first layer, its scale and shift are divided instead of weights. Ranges
    are those of the weights with the batch norms folded in, as they are quantized. Channels with
    weights that are zero on either side stay as they are.

    Args:
        model: In float; its parameters are edited.
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


def linear_operators(graph: Graph) -> dict[str, LinearOperator]:
    """Return the layers of a graph whose parts serve them alone, by the path of the weight."""
    writers = {name: op for op in graph.operators for name in names_of(op.outputs)}
    readers = _readers(graph)
    layers: dict[str, LinearOperator] = {}
    for op in graph.operators:
        found = _layer(graph, op, writers, readers)
        if found is not None:
            layers[found.weight] = found
    return layers


def _readers(graph: Graph) -> dict[str, list[Any]]:
    readers: dict[str, list[Any]] = {}
    for op in graph.operators:
        for name in names_of(op.inputs):
            readers.setdefault(name, []).append(op)
    for name in graph.outputs:
        readers.setdefault(name, []).extend([None, None])  # whoever takes it reads it as well
    return readers


def _pairs(graph: Graph) -> list[tuple[LinearOperator, LinearOperator]]:
    layers, readers = linear_operators(graph), _readers(graph)
    pairs = []
    for first in layers.values():
        weight = _next_weight(graph, first, readers)
        if weight in layers and weight != first.weight:
            pairs.append((first, layers[weight]))
    return pairs


def _layer(
    graph: Graph, op: Any, writers: dict[str, Any], readers: dict[str, list[Any]]
) -> LinearOperator | None:
    """Describe a layer; None if an operator is none, or one whose parts serve others too."""
    if op.type not in SLOTS:
        return None
    source, slot, target = SLOTS[op.type]
    weight, end = only(op.inputs, slot), only(op.outputs, target)
    if weight not in graph.weights or only(op.inputs, "Bias"):
        return None
    if op.type == "matmul_v2":
        plain = not (attribute(op, "trans_x", False) or attribute(op, "trans_y", False))
        fits = plain and len(graph.shape(only(op.inputs, source))) == graph.weights[weight].ndim
        fits = fits and graph.weights[weight].ndim == 2
    else:
        fits = is_nchw(op)
    if not fits:
        return None
    bias, norm = "", None
    channels, made = graph.shape(end)[1], {end}
    behind = _reader(readers, end)
    if behind is not None and behind.type == "elementwise_add" and only(behind.inputs, "X") == end:
        bias = _bias(graph, behind, channels, writers, readers)
        if bias:
            end = only(behind.outputs, "Out")
            made |= {end, only(behind.inputs, "Y")}
            behind = _reader(readers, end)
    if behind is not None and behind.type == "batch_norm" and is_nchw(behind):
        norm, end = behind, only(behind.outputs, "Y")
        made |= set(names_of(behind.outputs))
    found = LinearOperator(op, weight, bias, norm, end, frozenset(made))
    own = {weight, bias, *_norm_weights(norm)} - {""}
    return found if all(len(readers[name]) == 1 for name in own) else None


def _bias(
    graph: Graph,
    add: Any,
    channels: int,
    writers: dict[str, Any],
    readers: dict[str, list[Any]],
) -> str:
    """Return the name of the weight that is added to each channel; an empty string if none is."""
    name, axis = only(add.inputs, "Y"), attribute(add, "axis", -1)
    reshape = writers.get(name)
    if reshape is not None and reshape.type == "reshape2" and len(readers[name]) == 1:
        name = only(reshape.inputs, "X")
        shape = attribute(reshape, "shape")
    else:
        shape = list(graph.weights[name].shape) if name in graph.weights else None
    if name not in graph.weights or graph.weights[name].size != channels:
        return ""
    rank = len(graph.shape(only(add.outputs, "Out")))
    along = axis % rank if axis >= 0 else rank - len(shape or ())
    # seen with all axes, it must be [1, C, 1, ...]
    full = [1] * along + list(shape or ())
    full += [1] * (rank - len(full))
    return name if full == [1, channels] + [1] * (rank - 2) else ""


def _next_weight(graph: Graph, first: LinearOperator, readers: dict[str, list[Any]]) -> str:
    """Follow a layer's output to the layer that reads it; return that one's weight, or ''."""
    if first.norm is not None and not only(first.norm.inputs, "Scale"):
        return ""  # a norm without parameters leaves nothing to divide
    name = first.end
    while True:
        op = _reader(readers, name)
        if op is None:
            return ""
        if op.type in SLOTS:
            source, slot, _ = SLOTS[op.type]
            return only(op.inputs, slot) if only(op.inputs, source) == name else ""
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


def _reader(readers: dict[str, list[Any]], name: str) -> Any | None:
    found = readers.get(name, [])
    return found[0] if len(found) == 1 else None


def is_nchw(op: Any) -> bool:
    """Return whether the axis behind the images is that of the channels."""
    layout = attribute(op, "data_format") or attribute(op, "data_layout") or "NCHW"
    return layout in ("NCHW", "AnyLayout")


def _norm_weights(norm: Any | None) -> list[str]:
    """Return the names of a norm's scale and shift, those it has."""
    if norm is None:
        return []
    return [name for name in (only(norm.inputs, slot) for slot in ("Scale", "Bias")) if name]


def edited_weights(layer: LinearOperator) -> list[str]:
    """Return the names of what rescaling a layer may change."""
    return [name for name in (layer.weight, layer.bias, *_norm_weights(layer.norm)) if name]


def _solve(
    graph: Graph, pairs: Sequence[tuple[LinearOperator, LinearOperator]], limit: float
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


def fold_factors(graph: Graph, layer: LinearOperator) -> np.ndarray:
    """Return the magnitude of what folding multiplies each output channel by, [groups, O, 1]."""
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
        return weight.T.reshape(1, *weight.T.shape, 1)
    if op.type.endswith("_transpose"):  # [I, O / groups, h, w]
        inputs, outputs = weight.shape[:2]
        return weight.reshape(groups, inputs // groups, outputs, -1).swapaxes(1, 2)
    outputs, inputs = weight.shape[:2]
    return weight.reshape(groups, outputs // groups, inputs, -1)


def divide_output(graph: Graph, layer: LinearOperator, scale: np.ndarray) -> None:
    """Divide what a layer makes, [C], in the weights of the graph."""
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


def multiply_input(graph: Graph, layer: LinearOperator, scale: np.ndarray) -> None:
    """Multiply what a layer reads, [C], in the weights of the graph."""
    weight = graph.weights[layer.weight].astype(np.float64, "C")
    view = in_groups(layer.op, weight)
    view *= scale.reshape(view.shape[0], 1, -1, 1)
    graph.weights[layer.weight] = weight
