"""Numbers that operators hold in attributes, as weights.

Paddle 3 writes them as scalars of any type, which the converter to ONNX does not read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from core.graph.operators import attribute, names_of, only, variable
from core.graph.program import Graph


def values_as_weights(graph: Graph) -> Graph:
    """Return a graph whose constants and assigned numbers are weights; the given one stays."""
    made = replace(graph, variables=dict(graph.variables), weights=dict(graph.weights))
    made.operators = []
    for op in graph.operators:
        values = attribute(op, "values") if op.type in ("assign_value", "set_value") else None
        output = only(op.outputs, "Out")
        if not values:
            made.operators.append(op)
        elif op.type == "assign_value":
            _add(made, output, graph.dtype(output), op, values)
        else:
            made.operators.append(_with_tensor(made, op, values))
    return made


def _with_tensor(graph: Graph, op: Any, values: list[Any]) -> Any:
    """Return a `set_value` that reads its numbers from a weight."""
    if any(names_of([each]) for each in op.inputs if each.parameter == "ValueTensor"):
        return op
    name, source = f"{only(op.outputs, 'Out')}@value", only(op.inputs, "Input")
    _add(graph, name, graph.dtype(source), op, values)
    reading = type(op)()
    reading.CopyFrom(op)
    slots = [each for each in reading.inputs if each.parameter == "ValueTensor"]
    slot = slots[0] if slots else reading.inputs.add(parameter="ValueTensor")
    slot.arguments[:] = [name]
    return reading


def _add(graph: Graph, name: str, dtype: np.dtype, op: Any, values: list[Any]) -> None:
    array = np.array(values, dtype).reshape(attribute(op, "shape") or ())
    graph.weights[name] = array
    graph.variables[name] = variable(name, array.shape, dtype, persistable=True)
