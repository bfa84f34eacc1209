"""Exact rewriting of a graph that is to be exported: same results, fewer and cheaper operators."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection

from core.graph.channel_shuffles import dissolve_shuffles
from core.graph.program import Graph

_log = logging.getLogger(__name__)


def rewrite(graph: Graph, kept: Collection[str] = ()) -> Graph:
    """Return a graph that computes the same with less; the given one stays as it is.

    Args:
        graph: Float graph with folded batch norms.
        kept: Tensors that are rounded in int8 files: they keep their names and their values, with
            their channels in any order.
    """
    made = dissolve_shuffles(graph, kept)
    if made is not graph:
        before, after = (Counter(op.type for op in each.operators) for each in (graph, made))
        _log.info(
            "rewrote %d channel shuffles as %d, with %d splits and %d concatenations",
            *(before["transpose2"], after["transpose2"], after["split"], after["concat"]),
        )
    return made
