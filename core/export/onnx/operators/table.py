"""All operators that can be written, by their kind in Paddle."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from core.export.onnx.operators import (
    activations,
    arithmetic,
    choices,
    convolutions,
    normalization,
    padding,
    parts,
    pooling,
    products,
    quantization,
    reductions,
    resizing,
    shapes,
    values,
)
from core.export.onnx.operators.kinds import Write

OPERATORS: Mapping[str, Write] = MappingProxyType(
    {
        **activations.TABLE,
        **arithmetic.TABLE,
        **choices.TABLE,
        **convolutions.TABLE,
        **normalization.TABLE,
        **padding.TABLE,
        **parts.TABLE,
        **pooling.TABLE,
        **products.TABLE,
        **quantization.TABLE,
        **reductions.TABLE,
        **resizing.TABLE,
        **shapes.TABLE,
        **values.TABLE,
    }
)
