"""Facts about Paddle Inference: layers that it computes in int8, tensors and grids it rounds."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping

from core.graph.batch_norm_folding import COPY
from core.graph.linear_layers import layers_of
from core.graph.program import Graph
from core.targets.fused_additions import plan_sums
from core.targets.linear_as_conv import linear_as_convolutions
from core.targets.tensor_copies import clipped_tensors

# layers that it runs in float
FLOAT_IN_PADDLE = ("matmul_v2", "conv2d_transpose", "depthwise_conv2d_transpose")


def rounded_for_all(
    graph: Graph, layers: Mapping[str, Hashable], outputs: Mapping[str, Hashable]
) -> frozenset[str]:
    """Return the tensors that Paddle Inference rounds for all their readers.

    Args:
        graph: Float graph with folded batch norms.
        layers: Grids of the inputs of quantized layers, by name of their weight.
        outputs: Grids of the tensors that the model rounds.
    """
    graph = with_linear_as_convolutions(graph, layers)
    found = {
        id(op): (source, layers[COPY.sub("", weight)])
        for op, source, weight in layers_of(graph)
        if op.type not in FLOAT_IN_PADDLE and COPY.sub("", weight) in layers
    }
    return plan_sums(graph, found, outputs).rounded


def unsigned_inputs(graph: Graph) -> set[str]:
    """Return the weights of the layers whose inputs Paddle Inference rounds to unsigned grids.

    Those behind a ReLU are: the grid of the same absmax from zero on, in 255 steps. One that runs
    several times must read what is behind a ReLU each time; otherwise it is given copies.
    """
    clipped = clipped_tensors(graph)
    return {weight for weight, sources in computed_in_int8(graph).items() if sources <= clipped}


def computed_in_int8(graph: Graph) -> dict[str, set[str]]:
    """Return the weights of the layers that Paddle Inference can compute in int8.

    It rounds their weights per channel when it loads them. Weights with a grid per channel do not
    change by that; a weight with one grid is rounded twice.

    Returns:
        Names of the inputs of each layer, by name of its weight.
    """
    weights = {weight for _, _, weight in layers_of(graph)}
    found: dict[str, set[str]] = {}
    for op, source, weight in layers_of(with_linear_as_convolutions(graph, weights)):
        if op.type not in FLOAT_IN_PADDLE:
            found.setdefault(COPY.sub("", weight), set()).add(source)
    return found


def with_linear_as_convolutions(graph: Graph, weights: Collection[str]) -> Graph:
    """Return a graph with the linear layers of these weights as convolutions of one pixel."""
    return linear_as_convolutions(graph, layers_of(graph), weights)
