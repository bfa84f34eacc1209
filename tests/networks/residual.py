"""A network with residual additions, quantized with its outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.nn import Layer

from core.quant.apply import apply_quantization
from core.quant.grid_plan import plan_grids, trace_float
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.targets.names import Processors, RoundedOutputs
from core.task import Task

KEY = "output_quantizer"


class Residual(Layer):
    """A block whose addition no layer of its own computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(8, 8, 3, padding=1, bias_attr=False)
        self.norm1 = nn.BatchNorm2D(8)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2D(8, 8, 3, padding=1, bias_attr=False)
        self.norm2 = nn.BatchNorm2D(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + x)


class Network(Layer):
    """Two blocks behind a hard-swish, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2D(8)
        self.act = nn.Hardswish()
        self.blocks = nn.Sequential(Residual(), Residual())
        self.gate = nn.Conv2D(8, 8, 1)
        self.head = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.act(self.norm(self.stem(x))))
        y = y * F.sigmoid(self.gate(y))
        return self.head(y.mean([2, 3]))


# who rounds its output, and which quantized layers read it
RESIDUAL = {
    "act": ("blocks.0.conv1",),
    "blocks.0": ("blocks.1.conv1",),
    "blocks.1": ("gate",),
}


ALL = RESIDUAL | {"norm": (), "gate": (), "blocks.0.norm2": (), "blocks.1.norm2": ()}


def network() -> Layer:
    paddle.seed(0)
    model = Network()
    for each in model.sublayers():
        if isinstance(each, nn.BatchNorm2D):
            each._mean.set_value(paddle.randn([8]) * 0.1)
            each._variance.set_value(paddle.rand([8]) + 0.5)
    model.eval()
    return model


def batches(count: int = 3) -> list[list[Tensor]]:
    rng = np.random.default_rng(0)
    return [[paddle.to_tensor(rng.random((4, 3, 8, 8), np.float32) * 2 - 1)] for _ in range(count)]


def quantized(
    task: Task,
    outputs: RoundedOutputs = "all",
    target: Any = "onnxruntime",
    processors: Processors = "any",
    model: Layer | None = None,
    **rounding: Any,
) -> Layer:
    model, how = model or network(), Rounding(**rounding, processors=processors)
    choice = select_layers(model, how, ("Conv2D", "Linear"), ())
    layout = plan_grids(
        trace_float(task, model), model, target, choice.layers, outputs, processors=processors
    )
    apply_quantization(model, choice, how, batches(), "abs_max", layout)
    return model
