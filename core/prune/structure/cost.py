"""Cost of a model as a function of the channels that are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.errors import ExportError
from core.graph.cost import CONVOLUTIONS, PRODUCTS, TRANSPOSED
from core.prune.structure.graph import ModelGraph, Operator
from core.prune.structure.labels import Array

AxisLabels = Mapping[str, Mapping[int, Array]]


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one operator: a constant times the sizes of these axes."""

    operator: Operator
    constant: float
    axes: tuple[int, ...]  # positions in `NetworkCost`


class NetworkCost:
    """Multiply-accumulates and parameters, the definitions being those of `core.graph.cost`.

    Args:
        work: Per operator.
        weights: Constant and axes of every parameter.
        axes: Labels of each axis that they name.
    """

    def __init__(
        self,
        work: Sequence[Work],
        weights: Mapping[str, tuple[float, tuple[int, ...]]],
        axes: Sequence[Array],
    ) -> None:
        self.work, self.weights = list(work), dict(weights)
        self._flat = np.concatenate(axes) if axes else np.zeros(0, np.int64)
        ends = np.cumsum([len(axis) for axis in axes])
        self._starts = np.concatenate([[0], ends[:-1]]).astype(np.int64) if axes else ends
        self._work = _Products([(w.constant, w.axes) for w in self.work], len(axes))
        self._weights = _Products(list(self.weights.values()), len(axes))

    def sizes(self, keep: Array) -> Array:
        """Return the lengths [axes] when the channels of a mask [labels] are kept."""
        kept = keep[self._flat].astype(np.int64)
        return np.add.reduceat(kept, self._starts) if kept.size else kept

    def macs(self, keep: Array) -> int:
        """Return the multiply-accumulates of one input when a mask [labels] is kept."""
        return int(self.macs_by_operator(keep).sum())

    def macs_by_operator(self, keep: Array) -> Array:
        """Return the multiply-accumulates [work] of each operator when a mask [labels] is kept."""
        return self._work(self.sizes(keep))

    def parameters(self, keep: Array) -> int:
        """Return the number of parameters when a mask [labels] is kept."""
        return int(self._weights(self.sizes(keep)).sum())


class _Products:
    """Constants times sizes of axes, all at once; a plan is tried hundreds of times."""

    def __init__(self, factors: Sequence[tuple[float, tuple[int, ...]]], count: int) -> None:
        most = max((len(axes) for _, axes in factors), default=0)
        self._constants = np.array([constant for constant, _ in factors], np.int64)
        padded = [[*axes, *[count] * (most - len(axes))] for _, axes in factors]
        self._axes = np.array(padded, np.int64).reshape(len(factors), most)

    def __call__(self, sizes: Array) -> Array:
        """Return the products for these sizes; the place after the last one stands for 1."""
        extended = np.append(sizes, 1)
        return np.asarray(self._constants * extended[self._axes].prod(axis=1))


def measure_cost(
    graph: ModelGraph,
    activations: AxisLabels,
    weights: AxisLabels,
    parameters: Mapping[str, Sequence[int]],
) -> NetworkCost:
    """Count what each operator of a graph costs.

    Args:
        graph: Graph in evaluation mode.
        activations: Labels of its variables.
        weights: Labels of parameters and buffers.
        parameters: Shapes of those to count.

    Raises:
        ExportError: The cost of an operator depends on values.
    """
    sizes, work = _Sizes({**activations, **weights}), []
    for op in _used(graph):
        constant, places = 1.0, []
        for name, dimensions in _dimensions(op, graph):
            if -1 in graph.shapes[name]:
                raise ExportError(
                    f"{op.layer or op.type}: the shape of this {op.type} depends on values, "
                    "not on shapes"
                )
            part, found = sizes.factors(name, dimensions, graph.shapes[name])
            constant *= part
            places += found
        if places or constant != 1.0:
            work.append(Work(op, constant, tuple(places)))
    counted = {}
    for name, shape in parameters.items():
        constant, found = sizes.factors(name, range(len(shape)), shape)
        counted[name] = (constant, tuple(found))
    return NetworkCost(work, counted, sizes.axes)


class _Sizes:
    """Sizes of axes: those that pruning leaves alone as numbers, the others by their labels.

    Attributes:
        axes: Labels [channels] of each axis that pruning may change.
    """

    def __init__(self, labels: AxisLabels) -> None:
        self._labels = labels
        self._known: dict[tuple[str, int], int] = {}
        self.axes: list[Array] = []

    def factors(
        self, name: str, dimensions: Sequence[int], shape: Sequence[int]
    ) -> tuple[float, list[int]]:
        """Return the product of the fixed sizes of an array, and the places of its other axes."""
        labelled = self._labels.get(name, {})
        constant, found = 1.0, []
        for axis in dimensions:
            if axis not in labelled:
                constant *= shape[axis]
                continue
            if (name, axis) not in self._known:
                self._known[name, axis] = len(self.axes)
                self.axes.append(labelled[axis])
            found.append(self._known[name, axis])
        return constant, found


def _used(graph: ModelGraph) -> list[Operator]:
    """Leave out operators that no output needs: a deployed model does not run them."""
    needed, used = set(graph.outputs.values()), []
    for op in reversed(graph.operators):
        if any(not needed.isdisjoint(names) for names in op.outputs.values()):
            needed.update(name for names in op.inputs.values() for name in names)
            used.append(op)
    return used[::-1]


def _dimensions(op: Operator, graph: ModelGraph) -> list[tuple[str, Sequence[int]]]:
    """Return the axes whose sizes, multiplied, are the multiply-accumulates of an operator."""
    if op.type in CONVOLUTIONS:
        out, kernel = op.output("Output"), op.input("Filter")
        inner = range(1, len(graph.shapes[kernel]))
        return [(out, range(len(graph.shapes[out]))), (kernel, inner)]
    if op.type in TRANSPOSED:
        x, kernel = op.input("Input"), op.input("Filter")
        inner = range(1, len(graph.shapes[kernel]))
        return [(x, range(len(graph.shapes[x]))), (kernel, inner)]
    if op.type in PRODUCTS:
        x, out = op.input("X"), op.output("Out")
        across = bool(op.attribute(PRODUCTS[op.type])) if PRODUCTS[op.type] else False
        rank = len(graph.shapes[x])
        inner_axis = rank - (2 if across and rank > 1 else 1)
        return [(out, range(len(graph.shapes[out]))), (x, [inner_axis])]
    return []
