"""An operator of a Paddle program as the functions that write ONNX read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from core.errors import ExportError
from core.graph.operators import DTYPES, attribute, only
from core.graph.program import Graph

WAYS_OUT = (
    "cut the model in front of it (--ending with the path of a layer), or export with "
    "--format paddle"
)


@dataclass(frozen=True)
class PaddleOperator:
    """One operator, and what its graph knows of the tensors that it reads and makes.

    Attributes:
        graph: Graph of the operator.
        description: The operator itself, of the program's protobuf messages.
    """

    graph: Graph
    description: Any

    @property
    def type(self) -> str:
        """Return the kind of operator."""
        return str(self.description.type)

    def sources(self, slot: str = "X") -> list[str]:
        """Return the names of all tensors in an input slot."""
        return _names(self.description.inputs, slot)

    def source(self, slot: str = "X") -> str:
        """Return the name of the one tensor in an input slot; empty if there is none."""
        return only(self.description.inputs, slot)

    def targets(self, slot: str = "Out") -> list[str]:
        """Return the names of all tensors in an output slot."""
        return _names(self.description.outputs, slot)

    def target(self, slot: str = "Out") -> str:
        """Return the name of the one tensor in an output slot; empty if there is none."""
        return only(self.description.outputs, slot)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the dimensions of a tensor; -1 is a free one."""
        return self.graph.shape(name)

    def rank(self, name: str) -> int:
        """Return how many dimensions a tensor has."""
        return len(self.graph.shape(name))

    def axis(self, name: str, axis: int) -> int:
        """Return an axis of a tensor, counted from the front."""
        return axis + self.rank(name) if axis < 0 else axis

    def dtype(self, name: str) -> np.dtype:
        """Return the type of a tensor's elements."""
        return self.graph.dtype(name)

    def is_read(self, name: str) -> bool:
        """Tell whether an operator reads a tensor, or it is an output."""
        return bool(name) and self.graph.readers()[name] > 0

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is a whole number."""
        return int(attribute(self.description, name, default))

    def number(self, name: str, default: float) -> float:
        """Return an attribute that is a float."""
        return float(attribute(self.description, name, default))

    def flag(self, name: str, default: bool = False) -> bool:
        """Return an attribute that is true or false."""
        return bool(attribute(self.description, name, default))

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is a text."""
        return str(attribute(self.description, name, default))

    def integers(self, name: str) -> list[int]:
        """Return an attribute that is whole numbers, or one; none if it is not there."""
        return [int(each) for each in np.ravel(attribute(self.description, name, []))]

    def numbers(self, name: str) -> list[float]:
        """Return an attribute that is floats, or one; none if it is not there."""
        return [float(each) for each in np.ravel(attribute(self.description, name, []))]

    def told_dtype(self, name: str, default: np.dtype) -> np.dtype:
        """Return the type of elements that an attribute tells; -1 is the default."""
        kind = self.integer(name, -1)
        return DTYPES.get(kind, default) if kind >= 0 else default

    def refusal(self, why: str) -> ExportError:
        """Return the error that says what of this operator cannot be written."""
        slots = [name for slot in self.description.outputs for name in slot.arguments]
        return ExportError(
            f"onnx: the model cannot be converted: operator {self.type}, which makes "
            f"{slots[0] if slots else 'nothing'}: {why}; {WAYS_OUT}"
        )


def _names(slots: Any, parameter: str) -> list[str]:
    return [str(name) for slot in slots if slot.parameter == parameter for name in slot.arguments]
