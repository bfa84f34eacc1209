"""Select channels of a map by a convolution of zeros and ones.

Where pruning has left no regular shuffle, channels are selected from rows, [N, C, H x W]. Runtimes
lay maps out in blocks of channels, or with channels last: OpenVINO turns each map around in front
of the rows and back behind them, which takes a fifth of the time of a pruned Lite-HRNet. A
convolution reads the map as it lies. Its sums have one term that is not zero, so finite values
stay what they are.

Only float graphs are for this, since others have grids in between. A weight has the square of the
channels, so many channels stay rows: they belong to small maps, where little is moved.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.graph.channel_moves import Move, find_moves
from core.graph.operators import only, operator, variable
from core.graph.program import Graph

MOST = 64  # channels to select from


def select_by_convolutions(graph: Graph) -> Graph:
    """Return a graph that selects channels by convolutions; the given one stays as it is.

    Args:
        graph: Float graph.
    """
    moves = {id(move.operators[-1]): move for move in find_moves(graph) if _pays(graph, move)}
    made = graph.replaced(
        lambda op: id(op) in moves, lambda into, op: _write(into, op, moves[id(op)])
    )
    if made is not graph:
        made.drop_unused()
    return made


def _pays(graph: Graph, move: Move) -> bool:
    """Tell whether few channels are selected from."""
    selects = move.operators[-2].type == "index_select"
    floats = all(graph.dtype(name) == np.float32 for name in move.sources)
    return selects and floats and 0 < _channels(graph, move) <= MOST


def _channels(graph: Graph, move: Move) -> int:
    return sum(graph.shape(name)[1] for name in move.sources)


def _write(graph: Graph, last: Any, move: Move) -> None:
    name, count = only(last.outputs, "Out"), _channels(graph, move)
    (source, *others), size = move.sources, graph.shape(move.sources[0])
    if others:
        joined = f"{name}@joined"
        graph.variables[joined] = variable(joined, (size[0], count, *size[2:]), graph.dtype(source))
        join = operator("concat", {}, {"Out": joined}, {"axis": 1})
        join.inputs.add(parameter="X", arguments=move.sources)
        graph.operators.append(join)
        source = joined
    weight, filters = np.eye(count, dtype=np.float32)[move.order], f"{name}@choice"
    graph.weights[filters] = weight[:, :, None, None]
    graph.variables[filters] = variable(
        filters, graph.weights[filters].shape, weight.dtype, persistable=True
    )
    reads = {"Input": source, "Filter": filters}
    how = {"strides": [1, 1], "paddings": [0, 0], "dilations": [1, 1], "groups": 1}
    words = {"data_format": "NCHW", "padding_algorithm": "EXPLICIT"}
    graph.operators.append(operator("conv2d", reads, {"Output": name}, {**how, **words}))
