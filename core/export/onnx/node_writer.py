"""Collect the nodes and the constants of an ONNX graph, and name what has no name in Paddle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from onnx import NodeProto, TensorProto, helper

AXES_AS_INPUT_OPSET = 18

Attribute: TypeAlias = int | float | str | Sequence[int] | TensorProto


@dataclass
class NodeWriter:
    """Collects nodes and constants.

    Tensors between the nodes of one operator are called `Add.7`, so that
    `core.export.onnx.cleanup` tells them from those of Paddle.

    Attributes:
        opset: The opset that was asked for, or a newer one that an operator needs.
        taken: Names of the tensors of the Paddle graph.
        nodes: Nodes in the order in which they run.
        constants: Constants by name, the weights among them.
    """

    opset: int
    taken: Container[str]
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)
    _nodes: Counter[str] = field(default_factory=Counter)
    _known: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)

    def add(
        self, kind: str, inputs: Sequence[str], output: str = "", /, **attributes: Attribute
    ) -> str:
        """Add a node with one output.

        Args:
            kind: Operator of ONNX.
            inputs: Names; an empty one is an input that is left out.
            output: Name of what it makes; a new name if it is empty.
            attributes: Attributes of the operator.

        Returns:
            The name of what it makes.
        """
        made = output or self.new_name(kind)
        self.add_several(kind, inputs, [made], **attributes)
        return made

    def add_several(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], /, **attributes: Attribute
    ) -> list[str]:
        """Add a node with several outputs; return their names, new ones where they are empty."""
        made = [name or self.new_name(kind) for name in outputs]
        name = f"{kind}.{self._nodes[kind]}"
        self._nodes[kind] += 1
        self.nodes.append(helper.make_node(kind, inputs, made, name=name, **attributes))
        return made

    def constant(self, values: ArrayLike, dtype: DTypeLike) -> str:
        """Return the name of a constant; equal ones are stored once."""
        array = np.asarray(values, np.dtype(dtype))
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._known:
            self._known[key] = self.new_name("Constant")
            self.constants[self._known[key]] = array
        return self._known[key]

    def sizes(self, values: Sequence[int]) -> str:
        """Return the name of a constant vector of int64, as shapes and axes are told."""
        return self.constant(list(values), np.int64)

    def number(self, value: float, dtype: np.dtype) -> str:
        """Return the name of a constant scalar."""
        return self.constant(value, dtype)

    def require(self, opset: int) -> None:
        """Raise the opset to the first that has an operator.

        Nodes that are written already must mean the same there: below 18 all that are written
        here do.
        """
        self.opset = max(self.opset, opset)

    # nodes that many operators need

    def reshape(self, source: str, shape: Sequence[int], output: str = "") -> str:
        """Add a Reshape; 0 copies a size, -1 is what is left."""
        return self.add("Reshape", [source, self.sizes(shape)], output)

    def cast(self, source: str, dtype: np.dtype, output: str = "") -> str:
        """Add a Cast."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.add("Cast", [source], output, to=int(kind))

    def transpose(self, source: str, order: Sequence[int], output: str = "") -> str:
        """Add a Transpose."""
        return self.add("Transpose", [source], output, perm=list(order))

    def unsqueeze(self, source: str, axes: Sequence[int], output: str = "") -> str:
        """Add an Unsqueeze; the axes are those of the result."""
        return self.add("Unsqueeze", [source, self.sizes(axes)], output)

    def squeeze(self, source: str, axes: Sequence[int], output: str = "") -> str:
        """Add a Squeeze, or nothing but a name where there are no axes."""
        if not axes:
            return self.add("Identity", [source], output)
        return self.add("Squeeze", [source, self.sizes(axes)], output)

    def slice(
        self, source: str, axis: int, start: int, end: int, output: str = "", step: int = 1
    ) -> str:
        """Add a Slice along one axis."""
        bounds = [self.sizes([each]) for each in (start, end, axis, step)]
        return self.add("Slice", [source, *bounds], output)

    def reduce(
        self, kind: str, source: str, axes: Sequence[int], keep: bool, output: str = ""
    ) -> str:
        """Add a reduction along axes, which are an input since opset 18, of sums since 13.

        Axes are dropped by an operator of their own. Where a graph is quantized anywhere, OpenVINO
        moves factors of channels behind a reduction; behind one that drops axes, it multiplies
        other channels by them.
        """
        if not axes:  # of a scalar
            return self.add("Identity", [source], output)
        inputs, options = [source], {"axes": list(axes)}
        if self.opset >= AXES_AS_INPUT_OPSET or kind == "ReduceSum":
            inputs, options = [source, self.sizes(axes)], {}
        if keep:
            return self.add(kind, inputs, output, keepdims=1, **options)
        return self.squeeze(self.add(kind, inputs, keepdims=1, **options), axes, output)

    def new_name(self, kind: str) -> str:
        """Return a name that no tensor has."""
        while True:
            name = f"{kind}.{self._counts[kind]}"
            self._counts[kind] += 1
            if name not in self.taken:
                return name
