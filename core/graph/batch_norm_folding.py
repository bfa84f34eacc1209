"""Fold batch normalization into the weights of the layer before it: W' = W g / s, and a bias.

In evaluation mode batch normalization is `(x - mean) g / s + b` with `s = sqrt(variance + eps)`,
a fixed linear map per channel, so a convolution or linear layer in front can do its work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from core.graph.operators import attribute, names_of, only, operator, variable
from core.graph.program import Graph

COPY = re.compile(r"@\d+$")  # of a shared weight, as `fold_batch_norms` names it

# slots of input, weight and output of what can take a normalization in
_LINEAR = MappingProxyType(
    {
        "conv2d": ("Input", "Filter", "Output"),
        "depthwise_conv2d": ("Input", "Filter", "Output"),
        "conv2d_transpose": ("Input", "Filter", "Output"),
        "depthwise_conv2d_transpose": ("Input", "Filter", "Output"),
        "matmul_v2": ("X", "Y", "Out"),
    }
)
_TRANSPOSED = ("conv2d_transpose", "depthwise_conv2d_transpose")


@dataclass(frozen=True)
class _Pattern:
    """A layer, perhaps the addition of its bias, and the normalization behind."""

    linear: Any
    weight: str
    add: Any | None
    bias: str
    norm: Any


def fold_batch_norms(graph: Graph) -> int:
    """Fold every normalization that can be folded; the graph is changed in place.

    It can be if it is the only reader of what the layer before it computes. Weights keep their
    names; a bias that comes into being takes the name of the normalization's. A weight or bias
    that serves other layers as well is copied, to `name@2` and so on. (Paddle Inference, which
    folds what is left, scales a shared weight twice.)

    Returns:
        How many were folded.
    """
    _flatten_biases(graph)
    readers = graph.readers()
    writers = _single_writers(graph)
    folded = 0
    gone: set[int] = set()
    behind: dict[int, Any] = {}
    for norm in graph.operators:
        pattern = _find(graph, norm, writers, readers)
        if pattern is None:
            continue
        behind[id(norm)] = _fold(graph, pattern, readers)
        if pattern.add is not None:
            gone.add(id(pattern.add))
        folded += 1
    graph.operators = [behind.get(id(op), op) for op in graph.operators if id(op) not in gone]
    graph.drop_unused()
    return folded


def folded_norms(graph: Graph) -> dict[str, str]:
    """Return the scale of the normalization that folding puts into each weight, by the weight.

    The graph itself is not folded.
    """
    _flatten_biases(graph)
    readers, writers = graph.readers(), _single_writers(graph)
    patterns = [_find(graph, op, writers, readers) for op in graph.operators]
    return {p.weight: only(p.norm.inputs, "Scale") for p in patterns if p is not None}


def _flatten_biases(graph: Graph) -> None:
    """Add a bias per channel as it is, where the graph reshapes it to [1, C, 1, 1] first."""
    writers = _single_writers(graph)
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


def _single_writers(graph: Graph) -> dict[str, Any]:
    writers: dict[str, Any] = {}
    repeated = set()
    for op in graph.operators:
        for name in names_of(op.outputs):
            if name in writers:
                repeated.add(name)
            writers[name] = op
    return {name: op for name, op in writers.items() if name not in repeated}


def _find(
    graph: Graph, norm: Any, writers: Mapping[str, Any], readers: Mapping[str, int]
) -> _Pattern | None:
    if norm.type != "batch_norm" or attribute(norm, "data_layout", "NCHW") != "NCHW":
        return None
    if not only(norm.inputs, "Scale") or not only(norm.inputs, "Bias"):
        return None  # a norm without weights of its own
    frozen = attribute(norm, "is_test", False) and not attribute(
        norm, "trainable_statistics", False
    )
    before = only(norm.inputs, "X")
    if not frozen or readers[before] != 1 or before not in writers:
        return None
    op, add, bias = writers[before], None, ""
    if op.type == "elementwise_add":
        add, before, bias = op, only(op.inputs, "X"), only(op.inputs, "Y")
        if bias not in graph.weights or readers[before] != 1 or before not in writers:
            return None
        op = writers[before]
    if op.type not in _LINEAR:
        return None
    source, slot, _ = _LINEAR[op.type]
    weight = only(op.inputs, slot)
    if weight not in graph.weights or only(op.inputs, "Bias"):
        return None
    pattern = _Pattern(op, weight, add, bias, norm)
    channels = graph.weights[only(norm.inputs, "Scale")].size
    if op.type == "matmul_v2":
        fits = _is_linear(graph, op, only(op.inputs, source))
    else:
        fits = attribute(op, "data_format", "NCHW") in ("NCHW", "AnyLayout")
    if add is not None:
        fits = fits and _adds_per_channel(graph, pattern, channels)
    return pattern if fits else None


def _is_linear(graph: Graph, op: Any, source: str) -> bool:
    """Tell whether the last dimension is the one that is normalized."""
    if attribute(op, "trans_x", False) or attribute(op, "trans_y", False):
        return False
    return len(graph.shape(source)) == 2 and graph.weights[only(op.inputs, "Y")].ndim == 2


def _adds_per_channel(graph: Graph, pattern: _Pattern, channels: int) -> bool:
    bias, axis = graph.weights[pattern.bias], attribute(pattern.add, "axis", -1)
    if pattern.linear.type == "matmul_v2":
        return bias.shape == (channels,) and axis in (-1, 1)
    return (bias.shape == (channels,) and axis == 1) or bias.shape == (1, channels, 1, 1)


def _fold(graph: Graph, pattern: _Pattern, readers: Mapping[str, int]) -> Any:
    """Change the weights; return the addition of the bias that takes the normalization's place."""
    norm = pattern.norm
    scale, shift, mean, variance = (
        graph.weights[only(norm.inputs, slot)].astype(np.float64)
        for slot in ("Scale", "Bias", "Mean", "Variance")
    )
    factor = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    old_bias = graph.weights[pattern.bias].astype(np.float64).reshape(-1) if pattern.bias else 0.0
    weight = graph.weights[pattern.weight]
    scaled = _scaled(pattern.linear, weight, factor).astype(weight.dtype)
    name = _put(graph, pattern.weight, scaled, readers)
    graph.folded[name] = only(norm.inputs, "Scale").rpartition(".")[0], pattern.bias
    for slot in pattern.linear.inputs:
        slot.arguments[:] = [name if each == pattern.weight else each for each in slot.arguments]
    bias = (shift + (old_bias - mean) * factor).astype(weight.dtype)
    name = _put(graph, pattern.bias or only(norm.inputs, "Bias"), bias, readers)
    output = only(pattern.linear.outputs, _LINEAR[pattern.linear.type][2])
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
