"""Isolated layers: the parts of an int8 file that run one quantized layer by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from core.graph.batch_norm_folding import COPY
from core.graph.channel_orders import WeightOrder

Shapes = Mapping[str, Sequence[int]]  # shapes of the inputs fed to each layer, by its path
_USE = re.compile(r"@use\d+$")  # name of a use of a shared weight, see `quantize_program`


@dataclass(frozen=True)
class Stored:
    """Values as a file stores them: steps, and the value of a step, in a shape that broadcasts."""

    steps: np.ndarray
    step: np.ndarray

    @staticmethod
    def along(steps: np.ndarray, step: np.ndarray, axis: int | None) -> Stored:
        """Pair steps with their size: a scalar, or [C] for the channels of an axis."""
        if step.ndim != steps.ndim:
            shape = [1] * steps.ndim
            if step.size > 1 and axis is not None:
                shape[axis] = step.size
            step = step.reshape(shape)
        return Stored(steps, step)

    @property
    def values(self) -> np.ndarray:
        """Return the values as float64, in the shape of the steps: any shape."""
        values: np.ndarray = self.steps * self.step.astype(np.float64)
        return values


@dataclass(frozen=True)
class Ending:
    """Output of a layer that the file rounds at once: evenly spaced values.

    Attributes:
        lowest: Lowest value, given by the grid or by a ReLU in front.
        highest: Highest value.
        step: Distance between two values.
    """

    lowest: float
    highest: float
    step: float


@dataclass(frozen=True)
class IsolatedLayer:
    """A layer of a file with an input and an output of its own.

    Attributes:
        path: Path of the layer in the eager model.
        weight: Name of its weight in the float graph; a layer that runs several times may have
            several.
        source: Name of the input.
        output: Name of what it makes, bias included, and its ending, if it has one.
        stored: The weight.
        bias: [C], None if it has none.
        bias_step: Step of a bias that is stored in int32, [C] or [].
        ending: None if it returns floats.
        input_step: Step of the grid of its input, in ONNX files.
    """

    path: str
    weight: str
    source: str
    output: str
    stored: Stored = field(repr=False)
    bias: np.ndarray | None = field(default=None, repr=False)
    bias_step: np.ndarray | None = field(default=None, repr=False)
    ending: Ending | None = None
    input_step: float = 0.0


def in_order_of_model(layer: IsolatedLayer, order: WeightOrder | None) -> IsolatedLayer:
    """Return a layer with its weight and bias as the eager model has them.

    Args:
        layer: As it is in the file.
        order: Order of its channels there; None if it is that of the model.
    """
    if order is None:
        return layer
    back = np.argsort(order.outputs)
    stored = Stored(order.undo(layer.stored.steps), _taken(layer.stored.step, back))
    bias, step = (None if x is None else _taken(x, back) for x in (layer.bias, layer.bias_step))
    return replace(layer, stored=stored, bias=bias, bias_step=step)


def _taken(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return numbers of each output channel, [O, ...], in an order; one for all stays as it is."""
    return values[order] if values.ndim and len(values) > 1 else values


def float_name(weight: str) -> str:
    """Return the name that an int8 weight of a file has in the float graph."""
    return _USE.sub("", weight)


def path_of(weight: str) -> str:
    """Return the path of the layer in the eager model, by the name of its weight in a file."""
    return COPY.sub("", float_name(weight)).rpartition(".")[0]
