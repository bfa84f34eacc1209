"""A small quantized network whose layers cost what a test says."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import paddle
from paddle import nn

from core.quant.apply import apply_quantization
from core.quant.grid_plan import GridPlan
from core.quant.layers import quantized_layers
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.task import Task
from core.training.measurements import Meter

FOUR_BITS = Rounding(activation_type="fixed", weight_bits=4, activation_bits=4)


def network() -> nn.Layer:
    """Six layers in a row; the third has channels of very different size."""
    paddle.seed(0)
    layers = [nn.Conv2D(3, 8, 3), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2D(8, 8, 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 4))
    model.eval()
    model[4].weight.set_value(
        model[4].weight * paddle.to_tensor([30.0] + [1.0] * 7).reshape([1, -1, 1, 1])
    )
    return model


def images(count: int = 2) -> list[list[paddle.Tensor]]:
    rng = np.random.default_rng(0)
    return [
        [paddle.to_tensor(rng.normal(size=(3, 3, 8, 8)).astype("float32"))] for _ in range(count)
    ]


def quantized(model: nn.Layer, chosen: list[str] | None = None) -> nn.Layer:
    choice = select_layers(model, FOUR_BITS, ["Conv2D", "Linear"], [])
    if chosen is not None:
        choice = dataclasses.replace(choice, layers=tuple(chosen))
    apply_quantization(model, choice, FOUR_BITS, images(), "abs_max", GridPlan())
    return model


class Outputs:
    """As much of a task as the errors of outputs need."""

    def __init__(self, higher_is_better: bool = True) -> None:
        self.higher_is_better = higher_is_better

    def name_outputs(self, raw: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return {"y": raw, "decided": raw.argmax(1)}

    def build_metric(self) -> Outputs:
        return self


def meter(costs: dict[str, float], calls: list[list[str]] | None = None) -> Meter:
    """A metric of 0.9, from which each layer that rounds takes its cost."""

    def value(model: nn.Layer) -> float:
        layers = quantized_layers(model)
        on = [path for path, layer in layers.items() if not layer.bypassed]
        if calls is not None:
            calls.append(on)
        return 0.9 - sum(costs.get(path, 0.0) for path in on)

    return Meter("score", True, value, "none")


@contextlib.contextmanager
def scripted(milliseconds: Callable[[frozenset[str]], float]) -> Iterator[Any]:
    yield lambda choices: [milliseconds(choice) for choice in choices]


def toy(task: Task) -> nn.Layer:
    paddle.seed(0)
    model = task.build_model()
    choice = select_layers(model, FOUR_BITS, ["Conv2D", "Linear"], [])
    eight = Rounding(activation_type="fixed")
    rng = np.random.default_rng(0)
    batches = [[paddle.to_tensor(rng.random((4, 3, 8, 8)).astype("float32"))]]
    apply_quantization(model, choice, eight, batches, "abs_max", GridPlan())
    model.eval()
    return model
