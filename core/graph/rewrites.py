"""Exact rewriting of a graph that is to be exported: same results, fewer and cheaper operators."""

from __future__ import annotations

import logging
from collections.abc import Collection

from core.graph.channel_moves import find_moves
from core.graph.channel_shuffles import dissolve_shuffles
from core.graph.program import Graph
from core.graph.resized_outputs import multiply_resized_outputs
from core.graph.selected_channels import select_by_convolutions
from core.graph.upsampled_sums import nest_upsampled_sums

_log = logging.getLogger(__name__)


def rewrite(graph: Graph, kept: Collection[str] = (), *, for_int8: bool = False) -> Graph:
    """Return a graph that computes the same with less; the given one stays as it is.

    Args:
        graph: Float graph with folded batch norms.
        kept: Tensors that are rounded in int8 files: they keep their names and their values, with
            their channels in any order.
        for_int8: Whether layers are quantized in it later on.
    """
    nested = nest_upsampled_sums(graph, kept)
    if nested is not graph:
        _log.info("rewrote sums of maps of several resolutions")
    resized = multiply_resized_outputs(nested, kept)
    if resized is not nested:
        _log.info("rewrote the resizing of outputs as products of matrices")
    made = dissolve_shuffles(resized, kept)
    if made is not resized:
        before, after = len(find_moves(resized)), len(find_moves(made))
        _log.info(
            "rewrote %d channel shuffles as %d, %d splits as %d, %d concatenations as %d",
            *(before, after, _count(resized, "split"), _count(made, "split")),
            *(_count(resized, "concat"), _count(made, "concat")),
        )
    return made if for_int8 else select_by_convolutions(made)


def _count(graph: Graph, kind: str) -> int:
    return sum(op.type == kind for op in graph.operators)
