"""Plan which additions Paddle Inference fuses with an int8 convolution.

Left alone, Paddle Inference fuses every addition that reads the output of a convolution. If the
other operand has a grid, it reads that operand in int8, which is correct only if the model rounds
it too, and gives the result the sign of that operand. Without a grid it computes the convolution in
float. This fusion is therefore allowed only if the model quantizes both the operand and the result
for every consumer, and both grids are signed or both unsigned. Other additions are written as
`sum`, which Paddle Inference does not fuse.

The output of an int8 convolution is rounded for all its readers if one of them computes in int8;
otherwise the convolution returns floats. The output of any other operator is rounded only in front
of readers that compute in int8.
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
    """Plan of the additions of a graph; each is named by its result.

    Attributes:
        fused: Additions that are fused with a convolution.
        apart: Additions that Paddle Inference would fuse, but must not.
        rounded: Tensors that are rounded for all their readers.
    """

    fused: frozenset[str] = frozenset()
    apart: frozenset[str] = frozenset()
    rounded: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Addition:
    """An addition: its output, the operand that is not fused, and its result behind a ReLU."""

    out: str
    other: str
    result: str


def plan_sums(graph: Graph, layers: Layers, grids: Mapping[str, Hashable]) -> Sums:
    """Plan the additions of a graph.

    Args:
        graph: Float graph with folded batch norms.
        layers: Input of each int8 convolution and its grid, by identity of the operator.
        grids: Grids of the tensors that the model rounds for all their readers.
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
    """Return the additions that may be fused, and the outputs of all that Paddle would fuse.

    Args:
        graph: Float graph with folded batch norms.
        layers: See `plan_sums`.
        wanted: Tensors that can be rounded for all their readers.
        ends: Outputs of the int8 convolutions, bias included.
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
            inside = result not in graph.outputs  # outputs of the graph are not rounded
            alone = inside and _read_on_one_grid(readers.get(result, []), layers)
            on_one_grid = result in wanted or alone
            if alike and other in wanted and on_one_grid:
                fused.append(_Addition(out, other, result))
    return fused, apart


def _ends(graph: Graph, readers: Mapping[str, list[Any]], layers: Layers) -> Iterator[str]:
    """Yield the outputs of the int8 convolutions, bias included."""
    for op in graph.operators:
        if id(op) in layers:
            (name,) = names_of(op.outputs)
            reading = readers.get(name, [])
            biased = len(reading) == 1 and reading[0].type == "elementwise_add"
            if biased and only(reading[0].inputs, "Y") in graph.weights:
                name = only(reading[0].outputs, "Out")
            yield name


def _clipped(name: str, readers: Mapping[str, list[Any]]) -> str:
    """Return the output of the ReLU that alone reads a tensor, or the tensor itself."""
    reading = readers.get(name, [])
    alone = len(reading) == 1 and reading[0].type in CLIPPING
    return only(reading[0].outputs, "Out") if alone else name


def _read_on_one_grid(reading: Iterable[Any], layers: Layers) -> bool:
    """Tell whether only int8 convolutions read a tensor, all on one grid."""
    grids = {layers[id(op)][1] if id(op) in layers else None for op in reading}
    return len(grids) == 1 and None not in grids


def summed(op: Any) -> Any:
    """Return an addition as the operator that Paddle Inference computes with nothing else."""
    out = {"Out": only(op.outputs, "Out")}
    made = operator("sum", {"X": only(op.inputs, "X")}, out, {})
    made.inputs[0].arguments.append(only(op.inputs, "Y"))
    return made
