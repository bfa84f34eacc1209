"""Numbers that operators hold in attributes, as weights.

Paddle 3 writes them as scalars of any type, which paddle2onnx does not read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.graph.operators import attribute, names_of, only, variable
from core.graph.program import Graph


def values_as_weights(graph: Graph) -> Graph:
    """Return a graph whose constants and assigned numbers are weights; the given one stays."""
    return graph.replaced(_holds_numbers, _write)


def _holds_numbers(op: Any) -> bool:
    if op.type not in ("assign_value", "set_value") or not attribute(op, "values"):
        return False
    return not any(names_of([each]) for each in op.inputs if each.parameter == "ValueTensor")


def _write(graph: Graph, op: Any) -> None:
    """Write a weight in the place of a constant, or a `set_value` that reads one."""
    output = only(op.outputs, "Out")
    if op.type == "assign_value":
        _add(graph, output, graph.dtype(output), op)
        return
    name = f"{output}@value"
    _add(graph, name, graph.dtype(only(op.inputs, "Input")), op)
    reading = type(op)()
    reading.CopyFrom(op)
    slots = [each for each in reading.inputs if each.parameter == "ValueTensor"]
    slot = slots[0] if slots else reading.inputs.add(parameter="ValueTensor")
    slot.arguments[:] = [name]
    graph.operators.append(reading)


def _add(graph: Graph, name: str, dtype: np.dtype, op: Any) -> None:
    array = np.array(attribute(op, "values"), dtype).reshape(attribute(op, "shape") or ())
    graph.weights[name] = array
    graph.variables[name] = variable(name, array.shape, dtype, persistable=True)
