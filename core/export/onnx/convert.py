"""From Paddle's files to ONNX: weights as initializers under their names, free dimensions named."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import onnx

from core.errors import ExportError
from core.export.onnx.cleanup import clean_up
from core.export.onnx.model_writer import write_onnx
from core.graph.program import Graph
from core.settings.files import scratch
from core.settings.processes import last_words, lines_of, run_module

PACKAGE = "paddle2onnx"
OPSET = 13  # the first with per-channel DequantizeLinear, which int8 export needs


def convert_to_onnx(model: Path, params: Path, opset: int = OPSET) -> bytes:
    """Convert a `.pdmodel` with its parameters; names of inputs, outputs and weights are kept.

    paddle2onnx converts it where it is installed, `core.export.onnx.model_writer` where it is not:
    there is no build of it for Python 3.13.

    Args:
        model: Program of Paddle's old IR.
        params: Its weights.
        opset: At least 13; raised where an operator needs a newer one.

    Raises:
        ExportError: An operator without counterpart, or the result does not pass ONNX's checker.
    """
    if opset < OPSET:
        raise ExportError(f"opset: expected {OPSET} or more, got {opset}")
    if importlib.util.find_spec(PACKAGE) is not None:
        proto = _run_converter(model, params, opset)
    else:
        proto = write_onnx(Graph.from_files(model, params), opset)
    return finished(proto)


def finished(proto: onnx.ModelProto) -> bytes:
    """Tidy a converted model, name its free dimensions and check it.

    Raises:
        ExportError: It does not pass ONNX's checker.
    """
    clean_up(proto.graph)
    _name_free_dimensions(proto.graph)
    proto.producer_name, proto.producer_version = "trislim", ""
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"onnx: the converted model is not valid: {reason}") from error
    result: bytes = proto.SerializeToString(deterministic=True)
    return result


def _run_converter(model: Path, params: Path, opset: int) -> Any:
    with scratch() as folder:
        output = Path(folder, "model.onnx")
        files = [str(path.resolve()) for path in (model, params)]
        done = run_module("core.export.onnx.converter_process", *files, str(opset), str(output))
        if done.returncode == 0 and output.is_file():
            return onnx.load(output)
    said = lines_of(done)
    named = [line for line in said if line.startswith("[Paddle2ONNX]") and "support" in line]
    spoken = named or [line for line in said if line.startswith("[ERROR]")]
    reason = spoken[-1] if spoken else last_words(done)
    raise ExportError(f"onnx: the model cannot be converted: {reason.rstrip(' ,')}")


def _name_free_dimensions(graph: Any) -> None:
    """Call the first free dimension of inputs `batch`; leave out the converter's counted names."""
    for port in (*graph.input, *graph.output):
        for index, dimension in enumerate(port.type.tensor_type.shape.dim):
            if dimension.HasField("dim_param") or dimension.dim_value <= 0:
                name = "batch" if index == 0 else f"{port.name}_{index}"
                dimension.dim_param = name
