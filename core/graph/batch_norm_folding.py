"""Fold batch normalization into the weights of the layer before it: W' = W g / s, and a bias.

In evaluation mode batch normalization is `(x - mean) g / s + b` with `s = sqrt(variance + eps)`,
a fixed linear map per channel, so a convolution or linear layer in front can do its work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from paddle.nn import Layer
from paddle.static import InputSpec

from core.graph.free_batch import trace_graph
from core.graph.layer_patterns import LayerPattern, is_nchw, layer_patterns
from core.graph.linear_layers import LAYER_SLOTS
from core.graph.operators import attribute, names_of, only, operator, variable
from core.graph.program import Graph

COPY = re.compile(r"@\d+$")  # name of a copy of a shared weight, see `fold_batch_norms`

_FLATTENING = ("flatten_contiguous_range", "reshape2")
_TRANSPOSED = ("conv2d_transpose", "depthwise_conv2d_transpose")


def trace_folded(layer: Layer, specs: Sequence[InputSpec], model: Layer | None = None) -> Graph:
    """Trace a layer in evaluation mode and fold its batch norms, as for files in float.

    Args:
        layer: Layer to trace, see `core.graph.trace.trace`.
        specs: Its inputs.
        model: Part of the layer that paths start from; None: the layer itself.

    Raises:
        ExportError: The layer cannot be traced, or a weight holds values that are not finite.
    """
    graph = trace_graph(layer, specs, model)
    fold_finite(graph)
    return graph


def fold_finite(graph: Graph) -> int:
    """Fold batch norms, and refuse weights that are not finite, before or after that.

    Returns:
        How many were folded.

    Raises:
        ExportError: A weight holds values that are not finite.
    """
    graph.check_finite()
    folded = fold_batch_norms(graph)
    graph.check_finite()
    return folded


def fold_batch_norms(graph: Graph) -> int:
    """Fold every normalization that can be folded; the graph is changed in place.

    Those of flattened vectors, as LeViT has them, become a product and a sum where the vectors are
    not flattened: OpenVINO 2025.0 does not load an int8 file with a scale between two reshapes.

    It can be if it alone reads the output of the layer before it. Weights keep their
    names; a bias that comes into being takes the name of the normalization's. A weight or bias
    that serves other layers as well is copied, to `name@2` and so on. (Paddle Inference, which
    folds what is left, scales a shared weight twice.)

    Returns:
        How many were folded.
    """
    _unflatten_norms(graph)
    patterns, readers = _foldable(graph), graph.readers()
    additions = {
        id(norm): _fold(graph, patterns[id(norm)], readers)
        for norm in graph.operators
        if id(norm) in patterns
    }
    gone = {id(pattern.add) for pattern in patterns.values() if pattern.add is not None}
    graph.operators = [additions.get(id(op), op) for op in graph.operators if id(op) not in gone]
    graph.drop_unused()
    return len(patterns)


def folded_norms(graph: Graph) -> dict[str, str]:
    """Return the scale of the normalization that folding puts into each weight, by the weight.

    The graph itself is not folded.
    """
    return {each.weight: only(each.norm.inputs, "Scale") for each in _foldable(graph).values()}


def _foldable(graph: Graph) -> dict[int, LayerPattern]:
    """Return the layers that a normalization can be folded into, by the identity of its operator.

    The graph gets biases of one axis where it had reshaped ones.
    """
    _flatten_biases(graph)
    found = {}
    for pattern in layer_patterns(graph):
        norm = pattern.norm
        if norm is not None and _is_fixed(norm):
            found[id(norm)] = pattern
    return found


def _is_fixed(norm: Any) -> bool:
    """Tell whether a normalization is a fixed linear map, with weights of its own."""
    frozen = attribute(norm, "is_test", False) and not attribute(
        norm, "trainable_statistics", False
    )
    return bool(frozen and only(norm.inputs, "Scale") and only(norm.inputs, "Bias"))


def _flatten_biases(graph: Graph) -> None:
    """Add a bias per channel as it is, where the graph reshapes it to [1, C, 1, 1] first."""
    writers = {name: op for op in graph.operators for name in names_of(op.outputs)}
    for op in graph.operators:
        reshape = writers.get(only(op.inputs, "Y")) if op.type == "elementwise_add" else None
        if reshape is None or reshape.type != "reshape2":
            continue
        bias = only(reshape.inputs, "X")
        rank = len(graph.shape(only(op.inputs, "X")))
        if bias not in graph.weights or graph.weights[bias].ndim != 1 or rank != 4:
            continue
        if attribute(reshape, "shape") == [1, graph.weights[bias].size, 1, 1]:
            added = {"X": only(op.inputs, "X"), "Y": bias}
            op.CopyFrom(operator(op.type, added, {"Out": only(op.outputs, "Out")}, {"axis": 1}))
    graph.drop_unused()


def _unflatten_norms(graph: Graph) -> None:
    """Scale and shift [N, ..., C] where it is flattened to [M, C], normalized and shaped back."""
    writers = {name: op for op in graph.operators for name in names_of(op.outputs)}
    consumers, readers = graph.consumers(), graph.readers()
    instead: dict[int, Any] = {}
    for norm in graph.operators:
        if norm.type != "batch_norm" or not _is_fixed(norm) or not is_nchw(norm):
            continue
        flat, end = only(norm.inputs, "X"), only(norm.outputs, "Y")
        flatten, back = writers.get(flat), next(iter(consumers.get(end, [])), None)
        seen = len(consumers[flat]), len(consumers.get(end, [])), {flat, end} & {*graph.outputs}
        if flatten is None or back is None or seen != (1, 1, set()):
            continue
        if flatten.type not in _FLATTENING or back.type != "reshape2":
            continue
        source, out = only(flatten.inputs, "X"), only(back.outputs, "Out")
        shape, whole = graph.shape(source), graph.shape(flat)
        if len(whole) != 2 or shape[-1] != whole[-1] or graph.shape(out) != shape:
            continue
        kind = graph.weights[only(norm.inputs, "Scale")].dtype
        factor, shift = (each.astype(kind) for each in _as_map(graph, norm))
        scale = _put(graph, only(norm.inputs, "Scale"), factor, readers)
        bias = _put(graph, only(norm.inputs, "Bias"), shift, readers)
        graph.variables[end] = variable(end, shape, kind)
        last = {"axis": len(shape) - 1}
        scaled, shifted = {"X": source, "Y": scale}, {"X": end, "Y": bias}
        instead[id(norm)] = operator("elementwise_mul", scaled, {"Out": end}, last)
        instead[id(back)] = operator("elementwise_add", shifted, {"Out": out}, last)
    if instead:
        graph.operators = [instead.get(id(op), op) for op in graph.operators]
        graph.drop_unused()


def _as_map(graph: Graph, norm: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the factor of each channel, and what is added to it then [C], in float64."""
    scale, shift, mean, variance = (
        graph.weights[only(norm.inputs, slot)].astype(np.float64)
        for slot in ("Scale", "Bias", "Mean", "Variance")
    )
    factor = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    return factor, shift - mean * factor


def _fold(graph: Graph, pattern: LayerPattern, readers: Mapping[str, int]) -> Any:
    """Change the weights; return the addition of the bias that takes the normalization's place."""
    norm = pattern.norm
    factor, shift = _as_map(graph, norm)
    old_bias = graph.weights[pattern.bias].astype(np.float64).reshape(-1) if pattern.bias else 0.0
    weight = graph.weights[pattern.weight]
    scaled = _scaled(pattern.op, weight, factor).astype(weight.dtype)
    name = _put(graph, pattern.weight, scaled, readers)
    graph.folded[name] = only(norm.inputs, "Scale").rpartition(".")[0], pattern.bias
    for slot in pattern.op.inputs:
        slot.arguments[:] = [name if each == pattern.weight else each for each in slot.arguments]
    bias = (old_bias * factor + shift).astype(weight.dtype)
    name = _put(graph, pattern.bias or only(norm.inputs, "Bias"), bias, readers)
    output = only(pattern.op.outputs, LAYER_SLOTS[pattern.op.type].output)
    return operator(
        "elementwise_add", {"X": output, "Y": name}, {"Out": only(norm.outputs, "Y")}, {"axis": 1}
    )


def _put(graph: Graph, name: str, value: np.ndarray, readers: Mapping[str, int]) -> str:
    """Change a weight that has one reader; give a copy to one of several."""
    if readers[name] > 1:
        number = 2
        while f"{name}@{number}" in graph.weights:
            number += 1
        name = f"{name}@{number}"
    graph.weights[name] = value
    graph.variables[name] = variable(name, value.shape, value.dtype, persistable=True)
    return name


def _scaled(op: Any, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    if op.type in _TRANSPOSED:
        # [in, out / groups, h, w]: group g of the inputs makes the g-th part of the outputs
        groups = attribute(op, "groups", 1)
        parts = weight.reshape(groups, -1, *weight.shape[1:])
        scaled = (parts * factor.reshape(groups, 1, -1, 1, 1)).reshape(weight.shape)
    elif op.type == "matmul_v2":
        scaled = weight * factor
    else:
        scaled = weight * factor.reshape(-1, 1, 1, 1)
    return np.asarray(scaled)
