"""Values that quantization settings may take; the command line lists them without Paddle."""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, get_args

from core.settings.hints import ObserverKind, PtqHints

LayerType = Literal["Conv2D", "Conv2DTranspose", "Linear"]
WeightType = Literal["channel_wise_abs_max", "abs_max"]

WEIGHT_TYPES: tuple[WeightType, ...] = get_args(WeightType)
OBSERVERS: tuple[ObserverKind, ...] = get_args(ObserverKind)
OBSERVER = PtqHints().observer  # by default
STEPS = MappingProxyType(  # before, in and after calibration, each asked for by its name
    {
        "zero_points": "grids with a zero point where activations may be negative",
        "equalize": "even out channels of weights first",
        "balance": "even out channels of activations first, across additions and shuffles",
        "reestimate_bn": "estimate batch norms anew first",
        "reconstruct": "fit weights and biases layer by layer at the end",
        "bias_correction": "mend the means of layers at the end",
    }
)
HINTED = tuple(name for name in STEPS if hasattr(PtqHints(), name))  # steps that a task may hint at
