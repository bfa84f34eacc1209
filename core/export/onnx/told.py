"""Sizes, axes and bounds that an operator of Paddle has in attributes or reads from tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.paddle_operator import PaddleOperator

Told = list[int] | str  # numbers, or the name of a vector of int64 that only a run computes


def told(op: PaddleOperator, to: NodeWriter, slots: Sequence[str], attribute: str) -> Told:
    """Return numbers that an operator is told; tensors are preferred to the attribute.

    Args:
        op: The operator.
        to: Writer of the graph.
        slots: Input slots of one tensor with all numbers, or of a tensor for each.
        attribute: Attribute to read if the slots are empty.
    """
    for slot in slots:
        names = op.sources(slot)
        if not names:
            continue
        known = [to.constants[name] for name in names if name in to.constants]
        if len(known) == len(names):
            return [int(each) for value in known for each in value.ravel()]
        parts = [_vector(op, to, name) for name in names]
        return parts[0] if len(parts) == 1 else to.add("Concat", parts, axis=0)
    return op.integers(attribute)


def named(to: NodeWriter, numbers: Told) -> str:
    """Return the name of a vector of int64 with the numbers."""
    return numbers if isinstance(numbers, str) else to.sizes(numbers)


def told_axis(op: PaddleOperator, to: NodeWriter, slot: str, attribute: str, default: int) -> int:
    """Return an axis that must be known.

    Raises:
        ExportError: Only a run computes it.
    """
    numbers = told(op, to, [slot], attribute)
    if isinstance(numbers, str):
        raise op.refusal("its axis is computed while it runs")
    return numbers[0] if numbers else default


def _vector(op: PaddleOperator, to: NodeWriter, name: str) -> str:
    vector = name if op.dtype(name) == np.int64 else to.cast(name, np.dtype(np.int64))
    return vector if op.rank(name) == 1 else to.reshape(vector, [-1])
