"""Sums of maps of several resolutions, added up where they are coarse.

Where a network adds up maps that were scaled up to one resolution, as those with several branches
do, a map is scaled up to the next finer one only, and added there: scaling up to the nearest pixel
by 4 is scaling by 2 twice. Most additions and copies are then of small maps. The terms are the same
ones in another order, so sums may differ in their last bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from paddle.base.proto import framework_pb2

from core.graph.layer_patterns import is_nchw
from core.graph.operators import attribute, names_of, only, operator, variable
from core.graph.program import Graph

_UPSAMPLING = "nearest_interp_v2"
_FACTORS = (2, 4, 8, 16, 32)  # factors whose inverse is exact


def nest_upsampled_sums(graph: Graph, kept: Collection[str] = ()) -> Graph:
    """Return a graph that adds up maps at the resolution they have; the given one stays as it is.

    Args:
        graph: Float graph.
        kept: Tensors that keep their names and values.
    """
    finder = _SumFinder(graph, kept)
    sums = {id(root): found for root in graph.operators if (found := finder.sum_at(root))}
    if not sums:
        return graph
    gone = {id(op) for found in sums.values() for op in found.spared}
    made = replace(graph, operators=[], variables=dict(graph.variables))
    for op in graph.operators:
        if id(op) in sums:
            _write(made, sums[id(op)], only(op.outputs, "Out"))
        elif id(op) not in gone:
            made.operators.append(op)
    made.drop_unused()
    return made


@dataclass
class _Sum:
    """Terms of a sum.

    Attributes:
        terms: Names of those that have the resolution of the sum.
        scaled: Operators that scale others up, each with its factor.
        spared: Operators that the sum is computed with.
    """

    terms: list[str]
    scaled: list[tuple[int, Any]]
    spared: list[Any]


class _SumFinder:
    """Finds the sums of a graph that are worth rewriting."""

    def __init__(self, graph: Graph, kept: Collection[str]) -> None:
        self._graph = graph
        self._makers = {name: op for op in graph.operators for name in names_of(op.outputs)}
        self._read: Counter[str] = graph.readers()
        self._fixed = {*kept, *graph.outputs}
        self._inside: set[int] = set()  # additions that are parts of another sum
        for op in graph.operators:
            for name in names_of(op.inputs) if self._adds(op) else ():
                if self._is_part(name):
                    self._inside.add(id(self._makers[name]))

    def sum_at(self, root: Any) -> _Sum | None:
        """Return the sum that ends in an addition; None if there is nothing to win."""
        if not self._adds(root) or id(root) in self._inside:
            return None
        found = _Sum([], [], [root])
        self._collect(root, found)
        factors = sorted({factor for factor, _ in found.scaled})
        return found if len(factors) > 1 else None

    def _collect(self, addition: Any, found: _Sum) -> None:
        for slot in ("X", "Y"):
            name = only(addition.inputs, slot)
            maker = self._makers.get(name)
            if self._is_part(name):
                found.spared.append(maker)
                self._collect(maker, found)
                continue
            factor = self._factor(name)
            if factor:
                found.scaled.append((factor, maker))
                found.spared.append(maker)
            else:
                found.terms.append(name)

    def _adds(self, op: Any) -> bool:
        """Tell whether an operator adds two maps of one known size."""
        if op.type != "elementwise_add":
            return False
        pair = [only(op.inputs, slot) for slot in ("X", "Y")]
        shapes = {self._graph.shape(name) for name in pair}
        activations = self._graph.weights.keys().isdisjoint(pair)
        return activations and len(shapes) == 1 and len(next(iter(shapes))) == 4

    def _alone(self, name: str) -> bool:
        return self._read[name] == 1 and name not in self._fixed and name in self._makers

    def _is_part(self, name: str) -> bool:
        return self._alone(name) and self._adds(self._makers[name])

    def _factor(self, name: str) -> int:
        """Return by what a term is scaled up to the nearest pixel; 0 if it is not."""
        op = self._makers.get(name)
        if op is None or op.type != _UPSAMPLING or not self._alone(name):
            return 0
        scale = attribute(op, "scale") or []
        plain = len(names_of(op.inputs)) == 1 and is_nchw(op)
        sized = max(attribute(op, "out_h", -1), attribute(op, "out_w", -1)) > 0
        if not plain or sized or attribute(op, "align_corners", False) or len(scale) != 2:
            return 0
        alike = scale[0] == scale[1] and scale[0] in _FACTORS
        return int(scale[0]) if alike else 0


def _write(graph: Graph, found: _Sum, out: str) -> None:
    """Write a sum from the coarsest resolution to its own."""
    by_factor: dict[int, list[Any]] = {}
    for factor, op in found.scaled:
        by_factor.setdefault(factor, []).append(op)
    factors = sorted(by_factor, reverse=True)
    total = ""
    for factor, finer in zip(factors, [*factors[1:], 1]):
        terms = [only(op.inputs, "X") for op in by_factor[factor]]
        total = _add_up(graph, [*terms, *([total] if total else [])], f"{out}@{factor}th")
        total = _scale_up(graph, by_factor[factor][0], total, factor // finer, f"{out}@to{finer}")
    *others, last = [*found.terms, total]
    if others:
        first = _add_up(graph, others, f"{out}@terms")
        graph.operators.append(_addition(first, last, out))
    else:
        graph.operators.append(operator("assign", {"X": last}, {"Out": out}, {}))


def _add_up(graph: Graph, terms: list[str], stem: str) -> str:
    """Add terms up one after another; return the name of the sum."""
    total, *others = terms
    for number, term in enumerate(others):
        made = f"{stem}{number}"
        graph.variables[made] = variable(made, graph.shape(total), graph.dtype(total))
        graph.operators.append(_addition(total, term, made))
        total = made
    return total


def _scale_up(graph: Graph, like: Any, source: str, factor: int, name: str) -> str:
    batch, channels, *size = graph.shape(source)
    shape = [batch, channels, *(factor * each if each > 0 else each for each in size)]
    graph.variables[name] = variable(name, shape, graph.dtype(source))
    op = framework_pb2.OpDesc()
    op.CopyFrom(like)
    for slot in op.inputs:
        slot.arguments[:] = [source] if slot.parameter == "X" else []
    for slot in op.outputs:
        slot.arguments[:] = [name]
    for each in op.attrs:
        if each.name == "scale":
            each.floats[:] = [float(factor)] * 2
    graph.operators.append(op)
    return name


def _addition(first: str, second: str, out: str) -> Any:
    return operator("elementwise_add", {"X": first, "Y": second}, {"Out": out}, {"axis": -1})
