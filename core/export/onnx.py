"""From Paddle's files to ONNX: weights as initializers under their names, free dimensions named."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import onnx

from core.errors import ExportError
from core.export.tidy import tidy

OPSET = 13  # the first with per-channel DequantizeLinear, which int8 export needs


def convert(model: Path, params: Path, opset: int = OPSET) -> bytes:
    """Convert a `.pdmodel` with its parameters; names of inputs, outputs and weights are kept.

    Args:
        model: Program of Paddle's old IR.
        params: Its weights.
        opset: At least 13; raised where an operator needs a newer one.

    Raises:
        ExportError: An operator without counterpart, or the result does not pass ONNX's checker.
    """
    if opset < OPSET:
        raise ExportError(f"opset: expected {OPSET} or more, got {opset}")
    converter = importlib.import_module("paddle2onnx")
    try:
        content = converter.export(
            str(model),
            str(params),
            opset_version=opset,
            verbose=False,
            enable_onnx_checker=False,
            enable_optimize=False,  # see `tidy`
        )
        proto = onnx.load_model_from_string(content)
        tidy(proto.graph)
        _name_free_dimensions(proto.graph)
        proto.producer_name, proto.producer_version = "trislim", ""
        onnx.checker.check_model(proto)
    except (RuntimeError, ValueError, TypeError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"onnx: the model cannot be converted: {reason}") from error
    result: bytes = proto.SerializeToString(deterministic=True)
    return result


def _name_free_dimensions(graph: Any) -> None:
    """Call the first free dimension of inputs `batch`; leave out the converter's counted names."""
    for port in (*graph.input, *graph.output):
        for index, dimension in enumerate(port.type.tensor_type.shape.dim):
            if dimension.HasField("dim_param") or dimension.dim_value <= 0:
                name = "batch" if index == 0 else f"{port.name}_{index}"
                dimension.dim_param = name
