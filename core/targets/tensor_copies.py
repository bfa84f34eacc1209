"""Tensors of which a copy must be quantized, since a runtime knows one grid per tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from core.graph.operators import names_of, only
from core.graph.program import Graph, makers_of

QuantizedReads = Sequence[tuple[str, float]]  # inputs of layers, each with the absmax of its grid
UNSIGNED = ("relu", "relu6")  # behind which Paddle Inference takes unsigned grids
CLIPPING = (*UNSIGNED, "clip")  # activations that Paddle computes with the layer in front
_SCALING = ("scale", "dropout")
# through which Paddle Inference carries grids
_CARRYING = (
    *("concat", "transpose2", "reshape2", "pool2d", "slice"),
    *("nearest_interp", "nearest_interp_v2"),
)


def clipped_tensors(graph: Graph) -> set[str]:
    """Return the tensors that Paddle Inference rounds to grids from zero on."""
    return {name for name, kind in makers_of(graph).items() if kind in UNSIGNED}


def copies_for_paddle(graph: Graph, inputs: QuantizedReads) -> set[tuple[str, float]]:
    """Return the tensors, with their absmax, of which Paddle Inference must be given a copy.

    Why, is said at the top of `core.export.int8.paddle_writer`.
    """
    makers, group = makers_of(graph), _carried_together(graph)
    rounding, read = Counter(tensor for tensor, _ in inputs), graph.readers()
    wanted = dict.fromkeys(inputs)
    grids: dict[str, set[float]] = {}
    for tensor, absmax in wanted:
        grids.setdefault(group.get(tensor, tensor), set()).add(absmax)
    plain = _made_in_float(graph)
    scaled = {group.get(name, name) for name, kind in makers.items() if kind in _SCALING}
    copies, seen = set(), set()
    for tensor, absmax in wanted:
        maker, root = makers.get(tensor), group.get(tensor, tensor)
        ambiguous = maker in _CARRYING and (len(grids[root]) > 1 or root in scaled)
        others = tensor not in plain and read[tensor] > rounding[tensor]
        if tensor in seen or ambiguous or others or maker in _SCALING:
            copies.add((tensor, absmax))
        seen.add(tensor)
    return copies


def _made_in_float(graph: Graph) -> set[str]:
    """Return the sums and products of activations, also behind a ReLU.

    Paddle Inference computes these in float, and rounds them for those that read int8 alone.
    """
    made: set[str] = set()
    for op in graph.operators:
        pair = only(op.inputs, "X"), only(op.inputs, "Y")
        if op.type in ("elementwise_add", "elementwise_mul"):
            joined = graph.weights.keys().isdisjoint(pair)
        else:
            joined = op.type in CLIPPING and pair[0] in made
        if joined:
            made.update(names_of(op.outputs))
    return made


def _carried_together(graph: Graph) -> dict[str, str]:
    """Name, for each tensor that Paddle Inference carries grids to or from, one of its group."""
    members: dict[str, set[str]] = {}
    for op in graph.operators:
        if op.type in _CARRYING:
            names = names_of(op.inputs) + names_of(op.outputs)
            joined = set(names).union(*(members.get(name, set()) for name in names))
            members.update(dict.fromkeys(joined, joined))
    return {name: min(joined) for name, joined in members.items()}
