"""Facts about Paddle Lite: layers that it computes in float, tensors that need a copy."""

from __future__ import annotations

from core.graph.operators import names_of, only
from core.graph.program import Graph
from core.targets.tensor_copies import CLIPPING, QuantizedReads

# those that we have not seen Paddle Lite compute rightly in int8
FLOAT_IN_LITE = ("conv2d_transpose", "depthwise_conv2d_transpose")


def copies_for_lite(graph: Graph, inputs: QuantizedReads) -> set[tuple[str, float]]:
    """Return the tensors, with their absmax, of which Paddle Lite must be given a copy.

    It knows one grid per tensor too. And a linear layer that returns int8, since the next layer
    reads that, adds a bias from memory that nobody has written.
    """
    behind: set[str] = set()
    for op in graph.operators:
        joined = op.type in ("elementwise_add", *CLIPPING) and only(op.inputs, "X") in behind
        if joined or op.type == "matmul_v2":
            behind.update(names_of(op.outputs))
    first: dict[str, float] = {}
    return {
        (tensor, absmax)
        for tensor, absmax in inputs
        if tensor in behind or first.setdefault(tensor, absmax) != absmax
    }
