"""Presets of int8 files: the layout that each runtime needs to be right and fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from core.targets.names import RoundedOutputs, Target

# whose int8 kernels want everything that is never negative on grids from zero on
UNSIGNED_TARGETS = ("onnxruntime", "openvino")


def check_zero_points(wanted: bool, target: Target) -> None:
    """Refuse grids with zero points where the target knows none.

    Raises:
        ValueError: Names the setting.
    """
    if wanted and target not in UNSIGNED_TARGETS:
        raise ValueError(
            f"zero_points: {target} knows none; give target: {' or '.join(UNSIGNED_TARGETS)}"
        )


# What a target is fastest with on most networks of benchmarks/measure/int8.py. Files for Paddle
# Lite have no such grids; TensorRT, not measured here, is documented to want them on what skips
# layers.
FASTEST: Mapping[Target, RoundedOutputs] = MappingProxyType(
    {
        "onnxruntime": "all",
        "openvino": "residual",
        "tensorrt": "residual",
        "lite": "none",
        "paddle": "residual",
    }
)

# targets that compute in int8 only what writes int8, too
FULL_INT8 = tuple(target for target, outputs in FASTEST.items() if outputs == "all")


@dataclass(frozen=True)
class Preset:
    """Layout of an ONNX file that a runtime computes correctly and fast.

    Attributes:
        unsigned: Whether tensors on an unsigned grid are uint8 with zero point 0; otherwise they
            are on the signed grid of the same absmax.
        zero_point: Zero point of signed grids: 0 in int8 or 128 in uint8, with equal values.
        early: Whether to quantize the inputs of a concatenation or a max pooling instead of its
            output, where all of the output is quantized; the numbers are the same.
        bias: Whether the bias of a linear layer is int32, too, in steps that the products have.
    """

    unsigned: bool
    zero_point: Literal[0, 128]
    early: bool
    bias: bool


# - OpenVINO 2026.4 answers with errors of a third of the signal where a convolution of one group
#   reads a concatenation in int8; in uint8 it is right, and as fast. Of another size where sums of
#   convolutions without a bias are added up: each is given one, so small that it changes no sum; a
#   bias of zeros is taken away again.
# - ONNX Runtime has a ReLU done by the convolution before it only if the grid ends at 0. The same
#   file should be right in OpenVINO, so its signed grids are those of OpenVINO.
#   It computes a linear layer in int8 only if its bias is int32; otherwise it multiplies in float
#   by weights that it computes anew for each image.
# - TensorRT knows no uint8 and no zero points.
PRESETS = MappingProxyType(
    {
        "openvino": Preset(unsigned=True, zero_point=128, early=True, bias=False),
        "onnxruntime": Preset(unsigned=True, zero_point=128, early=False, bias=True),
        "tensorrt": Preset(unsigned=False, zero_point=0, early=False, bias=False),
    }
)
