"""Values that quantization settings may take; the command line lists them without Paddle."""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, get_args

from core.settings.hints import ObserverKind, QuantHints

LayerType = Literal["Conv2D", "Conv2DTranspose", "Linear"]
WeightType = Literal["channel_wise_abs_max", "abs_max"]

WEIGHT_TYPES: tuple[WeightType, ...] = get_args(WeightType)
OBSERVERS: tuple[ObserverKind, ...] = get_args(ObserverKind)
OBSERVER = QuantHints().observer  # by default
STEPS = MappingProxyType(  # before, in and after calibration, each asked for by its name
    {
        "zero_points": "use zero points for activations that may be negative",
        "equalize": "rescale channels first, so that their weights have similar ranges",
        "balance": "rescale channels first, so that their activations have similar ranges",
        "reestimate_bn": "first estimate mean and variance of batch norms on the images",
        "reconstruct": "at the end, fit weights and biases of each layer to its output in float",
        "bias_correction": "at the end, correct biases: the mean output of each layer stays",
    }
)
HINTED = tuple(name for name in STEPS if hasattr(QuantHints(), name))  # that a task may hint at
