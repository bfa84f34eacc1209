"""A graph with a free batch, of a layer whose code computes with the size of the batch.

Where the batch is free, `x.shape[0]` is -1 while a layer is traced, and what code makes of it means
something else to the operators: `token.expand([-1, -1, -1])` keeps one token for all images, and
`reshape([int(-1 / windows), ...])` copies a size. Such a layer is traced with batches of two sizes
instead. What differs between the two graphs follows from the batch, and is freed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ExportError
from core.graph.operators import attribute, only, operator, variable
from core.graph.program import Graph
from core.graph.trace import trace

_SIZES = 2, 3  # batch sizes to trace with: no common factor, and few layers have such sizes
_INT32 = 2  # in attributes called dtype
_COUNT = "batch.size"  # variable [1] with the number of images

Free = Callable[["_Batch", Any, str, list[int], list[int]], None]


def trace_graph(layer: Layer, specs: Sequence[InputSpec], model: Layer | None = None) -> Graph:
    """Trace a layer in evaluation mode as a graph; a batch that is free stays free.

    Args:
        layer: See `core.graph.trace.trace`.
        specs: One per argument; None or -1 marks a free dimension.
        model: See `core.graph.trace.trace`.

    Raises:
        ExportError: The layer cannot be traced, or computes with the size of the batch in a way
            that leaves it no free one; the message begins with the layer.
    """
    if specs[0].shape[0] not in (None, -1):
        return Graph.from_trace(trace(layer, specs, model))
    failure: ExportError | None = None
    try:
        graph = Graph.from_trace(trace(layer, specs, model))
        if not any(_may_hold_batch(graph, op) for op in graph.operators):
            return graph
    except ExportError as error:
        failure = error
    try:
        one, other = (Graph.from_trace(trace(layer, _sized(specs, n), model)) for n in _SIZES)
    except ExportError as error:
        raise failure or error from None
    name = type(model or layer).__name__
    return _Batch(name, one, other).free()


def _sized(specs: Sequence[InputSpec], size: int) -> list[InputSpec]:
    return [InputSpec([size, *spec.shape[1:]], spec.dtype, spec.name) for spec in specs]


def _may_hold_batch(graph: Graph, op: Any) -> bool:
    """Tell whether an attribute may come from the -1 of a free batch and mean something else."""
    if op.type in ("fill_constant", "tile", "assign_value"):
        name = {"fill_constant": "shape", "tile": "repeat_times"}.get(op.type, "values")
        least = 1 if op.type == "fill_constant" else 0
        return any(each < least for each in attribute(op, name) or ())
    if op.type not in ("reshape2", "expand_v2", "slice"):
        return False
    before = graph.shape(only(op.inputs, "X") or only(op.inputs, "Input"))
    if op.type == "slice":
        return 0 in attribute(op, "axes") and before[:1] == (-1,)
    told = attribute(op, "shape") or []
    if op.type == "expand_v2":
        own = [1] * (len(told) - len(before)) + list(before)
        return any(size == -1 and old == 1 for size, old in zip(told, own))
    if before[:1] != (-1,):
        return -1 in before
    passes = told[:1] == [0] or (told[:1] == [-1] and _product(told[1:]) == _product(before[1:]))
    return not passes


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for size in sizes:
        product *= size if size > 0 else 0
    return product


class _Batch:
    """Two graphs of a layer, traced with batches of `_SIZES`."""

    def __init__(self, name: str, one: Graph, other: Graph) -> None:
        self.name, self.graph, self._other = name, one, other
        self.graphs = one, other
        self._made: list[Any] = []  # operators to put in front of the one at work
        self._counts: dict[int, str] = {}  # factor -> variable with so many times the batch

    def free(self) -> Graph:
        """Return the first graph with a free batch.

        Raises:
            ExportError: The graphs differ in other ways than by sizes that follow from the batch.
        """
        graph, pairs = self.graph, list(zip(self.graph.operators, self._other.operators))
        kinds = [[op.type for op in each.operators] for each in (graph, self._other)]
        if kinds[0] != kinds[1]:
            raise self.refusal("it runs other operators for another size")
        operators = []
        for op, other in pairs:
            for name in sorted({each.name for each in op.attrs}):
                values = attribute(op, name), attribute(other, name)
                if values[0] != values[1]:
                    self._free(op, name, *values)
            operators += [*self._made, op]
            self._made = []
        for name, var in graph.variables.items():
            dims = var.type.dense_tensor.tensor.dims
            sizes = zip(dims, self._other.shape(name), strict=True)
            dims[:] = [size if size == different else -1 for size, different in sizes]
        graph.operators = operators
        return graph

    def _free(self, op: Any, name: str, one: Any, other: Any) -> None:
        rule = _RULES.get((op.type, name))
        if rule is None or not isinstance(one, list) or len(one) != len(other):
            raise self.refusal(f"{name} of an operator {op.type}")
        rule(self, op, name, one, other)

    def refusal(self, why: str) -> ExportError:
        """Return the error that names the fixed size."""
        sizes = ",".join(map(str, self.graph.shape(self.graph.inputs[0])[1:]))
        return ExportError(
            f"{self.name}: its code computes with the size of the batch ({why}), which cannot be "
            f"free then; export for one image at a time, with --input_shape 1,{sizes}"
        )

    def factor(self, one: int, other: int) -> int:
        """Return how many times the batch two sizes are."""
        factor = one // _SIZES[0]
        if (factor * _SIZES[0], factor * _SIZES[1]) != (one, other):
            raise self.refusal(f"{one} for {_SIZES[0]} images and {other} for {_SIZES[1]}")
        return factor

    def shapes(self, name: str) -> list[tuple[int, int]]:
        """Return the sizes of a variable in both graphs."""
        return list(zip(self.graph.shape(name), self._other.shape(name)))

    def times(self, factor: int) -> str:
        """Return a variable [1], int32, that holds so many times the size of the batch."""
        if not self._counts:
            (whole, count) = ("batch.shape", _COUNT)
            rank = len(self.graph.shape(self.graph.inputs[0]))
            self._make("shape", {"Input": self.graph.inputs[0]}, whole, rank, {})
            cut = {"axes": [0], "starts": [0], "ends": [1], "infer_flags": [1]}
            self._make("slice", {"Input": whole}, count, 1, cut)
            self._counts[1] = count
        if factor not in self._counts:
            own = f"{_COUNT}.{factor}"
            scaled = {"scale": float(factor), "bias": 0.0, "bias_after_scale": True}
            self._make("scale", {"X": _COUNT}, own, 1, scaled)
            self._counts[factor] = own
        return self._counts[factor]

    def constant(self, size: int) -> str:
        """Return a variable [1], int32, that holds a size."""
        name = f"batch.fixed.{size}"
        if name not in self.graph.variables:
            fixed = {"shape": [1], "value": float(size), "str_value": str(size), "dtype": _INT32}
            self._make("fill_constant", {}, name, 1, fixed)
        return name

    def _make(
        self, kind: str, inputs: dict[str, str], name: str, size: int, attributes: Mapping[str, Any]
    ) -> None:
        self._made.append(operator(kind, inputs, {"Out": name}, attributes))
        for graph in self.graphs:
            graph.variables[name] = variable(name, [size], np.dtype("int32"))


def _reshape(batch: _Batch, op: Any, _name: str, one: list[int], other: list[int]) -> None:
    """One size may be left to the operator, and sizes that stay where they are may be copied."""
    before, after = (
        batch.shapes(only(slots, slot)) for slots, slot in ((op.inputs, "X"), (op.outputs, "Out"))
    )
    told = [size if size == different else 0 for size, different in zip(one, other)]
    moved = [place for place, sizes in enumerate(zip(one, other)) if sizes[0] != sizes[1]]
    if -1 in told and len({*after[told.index(-1)]}) == 1:
        told[told.index(-1)] = after[told.index(-1)][0]  # it does not follow from the batch
    for place in moved:
        batch.factor(one[place], other[place])
        copied = place < len(before) and before[place] == (one[place], other[place])
        if not copied and -1 in told:
            raise batch.refusal(f"it reshapes to {one} for {_SIZES[0]} images")
        if not copied:
            told[place] = -1
    _set(op, "shape", told)


def _told_by_tensors(slot: str) -> Free:
    """Return a rule for operators that take sizes from tensors as well, one for each size."""

    def rule(batch: _Batch, op: Any, name: str, one: list[int], other: list[int]) -> None:
        # ONNX knows no size that means as before, so the result's own are told
        sizes = (
            list(zip(one, other)) if op.type == "tile" else batch.shapes(only(op.outputs, "Out"))
        )
        names = [batch.constant(a) if a == b else batch.times(batch.factor(a, b)) for a, b in sizes]
        held = next((each for each in op.inputs if each.parameter == slot), None)
        held = op.inputs.add(parameter=slot) if held is None else held
        held.arguments[:] = names
        _set(op, name, [a if a == b else -1 for a, b in sizes])

    return rule


def _assign(batch: _Batch, op: Any, _name: str, one: list[int], other: list[int]) -> None:
    """A number that code made a tensor of; it becomes one [1], which is as good."""
    if len(one) != 1:
        raise batch.refusal("it makes a tensor of several sizes")
    name, kind = only(op.outputs, "Out"), attribute(op, "dtype")
    source = batch.times(batch.factor(one[0], other[0]))
    op.CopyFrom(
        operator("cast", {"X": source}, {"Out": name}, {"in_dtype": _INT32, "out_dtype": kind})
    )
    for graph in batch.graphs:
        graph.variables[name].type.dense_tensor.tensor.dims[:] = [1]


def _set(op: Any, name: str, values: Sequence[int]) -> None:
    (entry,) = (each for each in op.attrs if each.name == name)
    field = entry.longs if entry.longs else entry.ints
    field[:] = values


_RULES: Mapping[tuple[str, str], Free] = MappingProxyType(
    {
        ("reshape2", "shape"): _reshape,
        ("expand_v2", "shape"): _told_by_tensors("expand_shapes_tensor"),
        ("fill_constant", "shape"): _told_by_tensors("ShapeTensorList"),
        ("assign_value", "values"): _assign,
        ("tile", "repeat_times"): _told_by_tensors("repeat_times_tensor"),
    }
)
