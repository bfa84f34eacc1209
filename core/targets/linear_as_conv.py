"""Linear layers as convolutions of maps of one pixel, which Paddle Inference computes rightly."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from core.graph.batch_norm_folding import COPY
from core.graph.operators import attribute, names_of, only, operator, variable
from core.graph.program import Graph

ONE_BY_ONE = MappingProxyType(
    {"strides": [1, 1], "paddings": [0, 0], "dilations": [1, 1], "groups": 1}
)


def linear_as_convolutions(
    graph: Graph, layers: Iterable[tuple[Any, str, str]], weights: Collection[str]
) -> Graph:
    """Return a graph with linear layers of [N, C] as convolutions of [N, C, 1, 1].

    Args:
        graph: Stays as it is.
        layers: Operators that can be quantized, what each reads, and its weight.
        weights: Weights of the layers to change.
    """
    read = graph.readers()
    linear = {
        id(op): (source, weight)
        for op, source, weight in layers
        if op.type == "matmul_v2"
        and COPY.sub("", weight) in weights
        and len(graph.shape(source)) == 2
        and read[weight] == 1
    }
    made = replace(
        graph, operators=[], variables=dict(graph.variables), weights=dict(graph.weights)
    )
    maps = _maps_of_one_pixel(graph)
    for op in graph.operators:
        if id(op) in linear:
            source, weight = linear[id(op)]
            _append_convolution(made, op, source, weight, maps.get(source))
        else:
            made.operators.append(op)
    made.drop_unused()
    return made


def _append_convolution(made: Graph, op: Any, source: str, weight: str, pixel: str | None) -> None:
    """Append the operators that compute a linear layer as a convolution.

    Args:
        made: Graph to append to; its weight becomes filters [K, C, 1, 1].
        op: The linear layer.
        source: Tensor [N, C] that it reads.
        weight: Name of its weight.
        pixel: Tensor [N, C, 1, 1] that the source is made of, if there is one.
    """
    value, out = made.weights[weight], only(op.outputs, "Out")
    value = value if attribute(op, "trans_y", False) else value.T
    filters = np.ascontiguousarray(value)[:, :, None, None]
    made.weights[weight] = filters
    made.variables[weight] = variable(weight, filters.shape, filters.dtype, persistable=True)
    if pixel is None:
        pixel = _add_map(made, f"{source}@pixel@{weight}", filters.shape[1])
        shaped = operator("unsqueeze2", {"X": source}, {"Out": pixel}, {"axes": [2, 3]})
        made.operators.append(shaped)
    sums = _add_map(made, f"{out}@pixel", filters.shape[0])
    made.operators += [
        operator("conv2d", {"Input": pixel, "Filter": weight}, {"Output": sums}, ONE_BY_ONE),
        operator("squeeze2", {"X": sums}, {"Out": out}, {"axes": [2, 3]}),
    ]


def _add_map(made: Graph, name: str, channels: int) -> str:
    """Add a tensor [N, channels, 1, 1] to a graph; return its name."""
    made.variables[name] = variable(name, (-1, channels, 1, 1), np.dtype("float32"))
    return name


def _maps_of_one_pixel(graph: Graph) -> dict[str, str]:
    """Return the tensor [N, C, 1, 1] that each vector [N, C] is made of, if it is one."""
    kinds = ("flatten_contiguous_range", "flatten2", "reshape2", "squeeze2")
    found = {}
    for op in graph.operators:
        source, out = only(op.inputs, "X"), only(op.outputs, "Out")
        if op.type in kinds and len(names_of(op.inputs)) == 1 and len(graph.shape(out)) == 2:
            shape = graph.shape(source)
            if len(shape) == 4 and shape[2:] == (1, 1) and graph.shape(out)[1] == shape[1]:
                found[out] = source
    return found
