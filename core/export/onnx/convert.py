"""From a graph of Paddle's operators to an ONNX file: written, tidied and checked."""

from __future__ import annotations

import onnx

from core.errors import ExportError
from core.export.onnx.cleanup import clean_up
from core.export.onnx.model_writer import write_onnx
from core.graph.program import Graph

OPSET = 13  # the first with per-channel DequantizeLinear, which int8 export needs


def convert_to_onnx(graph: Graph, opset: int = OPSET) -> bytes:
    """Write a graph as an ONNX file; names of inputs, outputs and weights are kept.

    Free dimensions are called `batch`, if they come first, or by their input and place.

    Args:
        graph: Operators of Paddle's old IR; it stays as it is.
        opset: At least 13; raised where an operator needs a newer one.

    Raises:
        ExportError: An operator without counterpart, or the result does not pass ONNX's checker.
    """
    if opset < OPSET:
        raise ExportError(f"opset: expected {OPSET} or more, got {opset}")
    proto = write_onnx(graph, opset)
    clean_up(proto.graph)
    _name_free_dimensions(proto.graph)
    proto.producer_name = "trislim"
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"onnx: the converted model is not valid: {reason}") from error
    result: bytes = proto.SerializeToString(deterministic=True)
    return result


def _name_free_dimensions(graph: onnx.GraphProto) -> None:
    for port in (*graph.input, *graph.output):
        for index, dimension in enumerate(port.type.tensor_type.shape.dim):
            if dimension.HasField("dim_param") or dimension.dim_value <= 0:
                name = "batch" if index == 0 else f"{port.name}_{index}"
                dimension.dim_param = name
