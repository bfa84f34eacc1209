"""Groups of operators that do nothing but put channels in another order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from core.graph.operators import attribute, names_of, only
from core.graph.program import Graph

_INTEGERS = (2, 3)  # int32 and int64 as types of Paddle's variables


@dataclass(frozen=True)
class Move:
    """Operators that join maps and put their channels in another order.

    Attributes:
        sources: Names of the maps.
        order: Channel of the joined maps at each place of the result, [C].
        operators: They end with the one that makes the result; no other operator sees what is
            between them.
    """

    sources: tuple[str, ...]
    order: np.ndarray
    operators: tuple[Any, ...]


def find_moves(graph: Graph) -> list[Move]:
    """Return the channel shuffles of a graph, and the selections of channels in their place.

    Pruned networks select the rows of maps that were made flat, in an order of their own.
    """
    finder = _Finder(graph)
    found = [finder.shuffle(op) or finder.selection(op) for op in graph.operators]
    return [move for move in found if move is not None]


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self._graph, self._read = graph, graph.readers()
        self._makers = {name: op for op in graph.operators for name in names_of(op.outputs)}

    def shuffle(self, last: Any) -> Move | None:
        """Return the reshape, transpose and reshape that end in an operator."""
        chain = [last]
        for kind in ("transpose2", "reshape2"):
            maker = self._only_maker(only(chain[0].inputs, "X"), kind)
            if last.type != "reshape2" or maker is None:
                return None
            chain.insert(0, maker)
        if any(len(names_of(op.inputs)) != 1 for op in chain):
            return None
        source, (first, turn, _) = only(chain[0].inputs, "X"), chain
        before, after = self._graph.shape(source), self._graph.shape(only(last.outputs, "Out"))
        parts = self._graph.shape(only(first.outputs, "Out"))
        turned = attribute(turn, "axis") == [0, 2, 1, 3, 4] and len(parts) == 5
        if not turned or len(before) != 4 or min(before[1:]) < 1:
            return None
        kept = parts[3:] == before[2:] and after[1:] == before[1:]
        if not kept or parts[1] * parts[2] != before[1]:
            return None
        order = np.arange(before[1]).reshape(parts[1], parts[2]).T.ravel()
        return Move((source,), order, tuple(chain))

    def selection(self, last: Any) -> Move | None:
        """Return the flattening, joining and selecting that end in an operator.

        Where one map is selected from, nothing is joined.
        """
        chosen = self._only_maker(only(last.inputs, "X"), "index_select")
        if last.type != "reshape2" or chosen is None or attribute(chosen, "dim") != 1:
            return None
        rows, order = only(chosen.inputs, "X"), self._constant(only(chosen.inputs, "Index"))
        join = self._only_maker(rows, "concat")
        if order is None or (join is not None and attribute(join, "axis") != 1):
            return None
        names = names_of(join.inputs) if join is not None else [rows]
        flat = [self._only_maker(name, "flatten_contiguous_range") for name in names]
        sources = [only(op.inputs, "X") for op in flat if op is not None]
        size = self._graph.shape(only(last.outputs, "Out"))[2:]
        maps = [self._graph.shape(name) for name in sources]
        whole = all(attribute(op, "start_axis") == 2 for op in flat if op is not None)
        if None in flat or not whole or len(size) != 2 or min(size) < 1:
            return None
        if any(len(each) != 4 or each[2:] != size for each in maps):
            return None
        between = [join, chosen] if join is not None else [chosen]
        return Move(tuple(sources), order, (*flat, *between, last))

    def _only_maker(self, name: str, kind: str) -> Any | None:
        """Return the operator of a kind that makes a tensor which is read once."""
        maker = self._makers.get(name)
        alone = self._read[name] == 1 and name not in self._graph.outputs
        return maker if alone and maker is not None and maker.type == kind else None

    def _constant(self, name: str) -> np.ndarray | None:
        """Return whole numbers that are written in the graph."""
        if name in self._graph.weights:
            return self._graph.weights[name].astype(np.int64)
        maker = self._makers.get(name)
        while maker is not None and maker.type == "cast":
            if attribute(maker, "out_dtype") not in _INTEGERS:
                return None
            maker = self._makers.get(only(maker.inputs, "X"))
        if maker is None or maker.type != "assign_value":
            return None
        values = next((each.scalars for each in maker.attrs if each.name == "values"), ())
        return np.array([each.i for each in values], np.int64) if values else None
