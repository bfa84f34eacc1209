"""Paddle programs of few operators, in the form of Paddle's quantized models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from paddle.base.proto import framework_pb2

from core.graph.operators import operator, variable
from core.graph.program import Graph

PLAIN = {"strides": [1, 1], "paddings": [0, 0], "dilations": [1, 1]}


class Builder:
    """Collects operators and weights of a program with one input, `x`, [N, *shape]."""

    def __init__(self, *shape: int) -> None:
        self.operators: list[object] = []
        self.weights: dict[str, np.ndarray] = {}
        self.variables = {"x": variable("x", (-1, *shape), np.dtype("float32"))}

    def constant(self, name: str, value: np.ndarray) -> str:
        self.weights[name] = value
        self.variables[name] = variable(name, value.shape, value.dtype, persistable=True)
        return name

    def add(
        self,
        kind: str,
        inputs: dict[str, str],
        shape: Sequence[int],
        slot: str = "Out",
        dtype: str = "float32",
        **attributes: object,
    ) -> str:
        out = f"t{len(self.operators)}"
        self.variables[out] = variable(out, (-1, *shape), np.dtype(dtype))
        self.operators.append(operator(kind, inputs, {slot: out}, attributes))
        return out

    def dims(self, name: str) -> tuple[int, ...]:
        return tuple(self.variables[name].type.dense_tensor.tensor.dims)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.dims(name)[1:]

    def unary(self, kind: str, source: str = "x", shape: Sequence[int] = (), **more: object) -> str:
        return self.add(kind, {"X": source}, shape or self.shape(source), **more)

    def linear(self, kind: str, source: str, absmax: np.ndarray, axis: int, dtype: str) -> str:
        stem = f"{source}.{kind[0]}"
        scale = self.constant(f"{stem}.scale", np.asarray(absmax, np.float32))
        zero = self.constant(f"{stem}.zero", np.zeros(np.shape(absmax), np.int32))
        out = self.add(
            kind,
            {"X": source, "Scale": scale, "ZeroPoint": zero},
            self.shape(source),
            "Y",
            dtype,
            bit_length=8,
            is_test=True,
            only_observer=False,
            qmax=127,
            qmin=-128,
            quant_axis=axis,
            round_type=0,
        )
        self.variables[out] = variable(out, self.dims(source), np.dtype(dtype))
        return out

    def rounded(self, source: str, absmax: float) -> str:
        steps = self.linear("quantize_linear", source, [absmax], -1, "int8")
        return self.linear("dequantize_linear", steps, [absmax], -1, "float32")

    def weight(self, steps: np.ndarray, absmax: Sequence[float] = (), name: str = "w") -> str:
        """Store steps whose 127 stands for absmax, 127 if it is not given."""
        stored = self.constant(name, steps)
        ends = np.asarray(absmax or [127.0] * len(steps), np.float32)
        return self.linear("dequantize_linear", stored, ends, 0, "float32")

    def convolution(self, data: str, weight: str, groups: int = 1, kind: str = "conv2d") -> str:
        outputs, _, *kernel = self.dims(weight)
        _, *size = self.shape(data)
        shape = outputs, *(whole - part + 1 for whole, part in zip(size, kernel))
        inputs = {"Input": data, "Filter": weight}
        return self.add(kind, inputs, shape, "Output", groups=groups, **PLAIN)

    def graph(self, out: str) -> Graph:
        return Graph(
            operators=self.operators,
            variables=self.variables,
            weights=self.weights,
            inputs=["x"],
            outputs=[out],
            version=0,
            operator_versions=framework_pb2.ProgramDesc().op_version_map,
        )
