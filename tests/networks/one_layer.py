"""Models of one int8 layer, drawn so that one pair of weights decides, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from core.targets.overflow import check_onnx
from core.targets.pair_sums import LayerCheck

KINDS = ("Conv 1x1", "Conv 3x3", "grouped", "depthwise", "MatMul", "Gemm", "Gemm transB")
GRIDS = (("uint8", 0), ("uint8", 128), ("uint8", 45), ("int8", 0), ("int8", -100))


class Builder:
    """Collects nodes and constants of a graph with one input, `x`."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray | np.generic, name: str = "") -> str:
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **more: object):
        number = len(self.nodes)
        names = [f"t{number}"] if outputs == 1 else [f"t{number}.{i}" for i in range(outputs)]
        made = helper.make_node(kind, inputs, names, name=f"n{number}", domain=domain, **more)
        self.nodes.append(made)
        return names[0] if outputs == 1 else names

    def rounded(self, name: str, scale: float = 1.0, zero: np.generic | None = None) -> str:
        grid = (
            self.constant(np.float32(scale)),
            self.constant(np.uint8(0) if zero is None else zero),
        )
        return self.node("DequantizeLinear", self.node("QuantizeLinear", name, *grid), *grid)

    def weight(self, steps: np.ndarray, axis: int | None = 0, zero: int = 0, name: str = "w"):
        shape = () if axis is None else (steps.shape[axis],)
        inputs = [
            self.constant(steps, name),
            self.constant(np.ones(shape, np.float32)),
            self.constant(np.full(shape, zero, steps.dtype)),
        ]
        return self.node("DequantizeLinear", *inputs, **({} if axis is None else {"axis": axis}))

    def model(self, shape: tuple[int, ...], out: str, version: int = 13) -> onnx.ModelProto:
        ends = (
            helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info(out, TensorProto.FLOAT, None),
        )
        graph = helper.make_graph(self.nodes, "g", [ends[0]], [ends[1]], self.constants)
        domains = [helper.make_opsetid("", version), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=domains)
        model.ir_version = 8
        return onnx.shape_inference.infer_shapes(model)


@dataclass(frozen=True)
class Drawn:
    """A layer.

    Attributes:
        kind: Of `KINDS`.
        steps: Weights, [outputs, inputs of a group, *kernel], int8.
        groups: Of channels.
        dtype: Of the data.
        zero: Its zero point.
        highest: Step at which a Clip ends in front; None: there is none.
    """

    kind: str
    steps: np.ndarray
    groups: int
    dtype: str
    zero: int
    highest: int | None

    @property
    def shift(self) -> int:
        return 128 if self.dtype == "int8" else 0

    def model(self) -> onnx.ModelProto:
        make, steps = Builder(), self.steps
        shape = (1, steps.shape[1] * self.groups, *steps.shape[2:])
        source = "x"
        if self.highest is not None:
            top = make.constant(np.float32(self.highest - self.shift - self.zero))
            source = make.node("Clip", source, "", top)
        data = make.rounded(source, zero=np.dtype(self.dtype).type(self.zero))
        if self.kind in ("MatMul", "Gemm"):
            out = make.node(self.kind, data, make.weight(np.ascontiguousarray(steps.T), 1))
        elif self.kind == "Gemm transB":
            out = make.node("Gemm", data, make.weight(steps), transB=1)
        else:
            out = make.node("Conv", data, make.weight(steps), group=self.groups)
        return make.model(shape, out)

    def data(self, patch: np.ndarray, channel: int) -> np.ndarray:
        """Return what the model is fed with so that an output channel reads a patch of steps."""
        steps = np.full((self.groups, *self.steps.shape[1:]), patch.min(), np.int64)
        steps[channel // (len(self.steps) // self.groups)] = patch
        values = steps - self.shift - self.zero
        return values.reshape(1, -1, *self.steps.shape[2:]).astype(np.float32)

    def answers(self, data: np.ndarray) -> np.ndarray:
        """Return what each output channel is, computed in whole numbers."""
        grouped = data.astype(np.int64).reshape(self.groups, -1)
        rows = self.steps.astype(np.int64).reshape(self.groups, -1, grouped.shape[1])
        return np.einsum("gn,gon->go", grouped, rows).ravel()


def draw(rng: np.random.Generator) -> Drawn:
    """Draw a layer whose largest pair is of neighbouring inputs, and close to the limit."""
    kind = str(rng.choice(KINDS))
    dtype, zero = GRIDS[int(rng.integers(len(GRIDS)))]
    kernel = {"Conv 1x1": (1, 1), "Conv 3x3": (3, 3), "grouped": (3, 3), "depthwise": (3, 3)}
    size = kernel.get(kind, ())
    groups = {"grouped": 2, "depthwise": 8}.get(kind, 1)
    inputs = 1 if kind == "depthwise" else 4 * int(rng.integers(1, 7))
    shape = (8 if groups == 8 else 16, inputs, *size)
    info, shift = np.iinfo(dtype), 128 if dtype == "int8" else 0
    highest, limit = None, 128
    if rng.integers(3) == 0:
        highest = int(rng.integers(zero + shift + 1, info.max + shift + 1))
        limit = min(32767 // highest, 252)
    # half of them at the last sum that fits, or one above
    near = int(rng.integers(2)) if rng.integers(2) else int(rng.integers(-60, 40))
    total = min(limit + near, 254)
    first = int(rng.integers(max(0, total - 127), min(total, 127) + 1))
    largest = min(first, total - first) // 2
    steps = rng.integers(-largest, largest + 1, shape)
    place, tap = (
        2 * int(rng.integers((inputs + 1) // 2)),
        tuple(rng.integers(0, 3, len(size)) % size),
    )
    channel, sign = int(rng.integers(shape[0])), int(rng.choice((-1, 1)))
    if kind == "depthwise":
        steps[channel, 0, 0, :2] = sign * first, sign * (total - first)
    else:
        steps[(channel, slice(place, place + 2), *tap)] = sign * first, sign * (total - first)
    return Drawn(kind, steps.astype(np.int8), groups, dtype, zero, highest)


def only(model: onnx.ModelProto) -> LayerCheck:
    (check,) = check_onnx(model)
    return check


def integers(kind: str, top: int, dtype: type[np.generic] = np.uint8) -> onnx.ModelProto:
    """Return a stranger's model in QOperator form, whose weights are all `top`."""
    make = Builder()
    one, zero = make.constant(np.float32(1)), make.constant(dtype(0))
    shape = (1, 4, 3, 3) if "Conv" in kind else (3, 4)
    wide = np.full((2, 4, 3, 3), top, np.int8) if "Conv" in kind else np.full((4, 2), top, np.int8)
    weight, none = make.constant(wide, "w"), make.constant(np.int8(0))
    ends = one, zero
    if kind in ("QLinearConv", "QLinearMatMul", "QGemm"):
        data = make.node("QuantizeLinear", "x", *ends)
        bias = [make.constant(np.zeros(2, np.int32))] if kind == "QGemm" else []
        domain = "com.microsoft" if kind == "QGemm" else ""
        inputs = data, *ends, weight, one, none, *bias, *ends
        made = make.node(kind, *inputs, domain=domain)
        return make.model(shape, make.node("DequantizeLinear", made, *ends))
    data, _, ground = make.node("DynamicQuantizeLinear", "x", outputs=3)
    made = make.node(kind, data, weight, ground, none)
    return make.model(shape, make.node("Cast", made, to=TensorProto.FLOAT))
