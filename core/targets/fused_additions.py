"""Which additions Paddle Inference computes together with an int8 convolution, and which apart.

By itself it does so with every addition of what a convolution makes. Then it reads the other
operand in int8 if that has a grid, which is right only if that was meant to be rounded, and it
writes the result with the sign of that operand; without a grid it computes the convolution in
float. So it is let do so only where the model rounds that operand for whoever reads it, the result
as well, and both have a sign or neither. Other additions are written as `sum`, which it leaves
alone.

What an int8 convolution makes is rounded for whoever reads it if one of those computes in int8. If
none does, it makes floats. What others make is rounded in front of those that compute in int8, and
nowhere else.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.graph.operators import names_of, only, operator
from core.graph.program import Graph
from core.targets.tensor_copies import CLIPPING, clipped_tensors

Layers = Mapping[int, tuple[str, Hashable]]


@dataclass(frozen=True)
class Sums:
    """How the additions of a graph are computed.

    Attributes:
        fused: What additions make that are computed with a convolution.
        apart: What those make that would be, but must not.
        rounded: Tensors that are rounded for whoever reads them.
    """

    fused: frozenset[str] = frozenset()
    apart: frozenset[str] = frozenset()
    rounded: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Addition:
    """An addition; `result` is what it makes, behind the ReLU if there is one."""

    out: str
    other: str
    result: str


def plan_sums(graph: Graph, layers: Layers, grids: Mapping[str, Hashable]) -> Sums:
    """Decide on the additions of a graph.

    Args:
        graph: In float, batch norms folded.
        layers: Of the convolutions in int8, by the identity of the operator: what each reads, and
            its grid.
        grids: Of tensors that the model rounds for whoever reads them.
    """
    readers = graph.consumers()
    wanted = {
        name
        for name, grid in grids.items()
        if all(layers.get(id(op), (name, grid))[1] == grid for op in readers.get(name, []))
    }
    ends = set(_ends(graph, readers, layers))
    made_in_int8 = {_clipped(end, readers) for end in ends}
    fused, apart = _candidates(graph, layers, wanted, ends)
    while True:
        outs, results = {each.out for each in fused}, {each.result for each in fused}

        def in_int8(op: Any, outs: set[str] = outs) -> bool:
            return id(op) in layers or only(op.outputs, "Out") in outs

        rounded = {name for each in fused for name in (each.other, each.result) if name in wanted}
        lost = {name for name in rounded if not any(in_int8(op) for op in readers[name])}
        for name in rounded - results - made_in_int8:
            if not all(in_int8(op) for op in readers[name]):
                lost.add(name)
        if not lost:
            return Sums(frozenset(outs), frozenset(apart - outs), frozenset(rounded))
        fused = [each for each in fused if lost.isdisjoint((each.other, each.result))]


def _candidates(
    graph: Graph, layers: Layers, wanted: Container[str], ends: Container[str]
) -> tuple[list[_Addition], set[str]]:
    """Return the additions that may be fused, and what all make that Paddle would fuse.

    Args:
        graph: In float, batch norms folded.
        layers: See `plan_sums`.
        wanted: Tensors that can be rounded for whoever reads them.
        ends: What the int8 convolutions make, bias included.
    """
    readers, unsigned = graph.consumers(), clipped_tensors(graph)
    fused, apart = [], set()
    for op in graph.operators:
        operands = only(op.inputs, "X"), only(op.inputs, "Y")
        own = [name for name in operands if name in ends and len(readers[name]) == 1]
        if op.type != "elementwise_add" or not graph.weights.keys().isdisjoint(operands) or not own:
            continue
        if graph.shape(operands[0]) != graph.shape(operands[1]):
            continue
        out = only(op.outputs, "Out")
        result = _clipped(out, readers)
        apart.add(out)
        if len(own) == 1 and operands[0] != operands[1]:
            (other,) = set(operands) - set(own)
            alike = (other in unsigned) == (result in unsigned)
            inside = result not in graph.outputs  # what is put out is not rounded
            alone = inside and _read_on_one_grid(readers.get(result, []), layers)
            on_one_grid = result in wanted or alone
            if alike and other in wanted and on_one_grid:
                fused.append(_Addition(out, other, result))
    return fused, apart


def _ends(graph: Graph, readers: Mapping[str, list[Any]], layers: Layers) -> Iterator[str]:
    """Return what the int8 convolutions make, bias included."""
    for op in graph.operators:
        if id(op) in layers:
            (name,) = names_of(op.outputs)
            reading = readers.get(name, [])
            biased = len(reading) == 1 and reading[0].type == "elementwise_add"
            if biased and only(reading[0].inputs, "Y") in graph.weights:
                name = only(reading[0].outputs, "Out")
            yield name


def _clipped(name: str, readers: Mapping[str, list[Any]]) -> str:
    """Return what a tensor becomes in the ReLU that alone reads it, else its own name."""
    reading = readers.get(name, [])
    alone = len(reading) == 1 and reading[0].type in CLIPPING
    return only(reading[0].outputs, "Out") if alone else name


def _read_on_one_grid(reading: Iterable[Any], layers: Layers) -> bool:
    """Say whether int8 convolutions alone read a tensor, all on one grid."""
    grids = {layers[id(op)][1] if id(op) in layers else None for op in reading}
    return len(grids) == 1 and None not in grids


def summed(op: Any) -> Any:
    """Return an addition as the operator that Paddle Inference computes with nothing else."""
    out = {"Out": only(op.outputs, "Out")}
    made = operator("sum", {"X": only(op.inputs, "X")}, out, {})
    made.inputs[0].arguments.append(only(op.inputs, "Y"))
    return made
