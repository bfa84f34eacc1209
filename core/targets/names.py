"""Names of runtimes, of formats of files, and of targets of int8 files."""

from __future__ import annotations

from typing import Literal, get_args

EXPORT_DESCRIPTION = "deploy.yml"  # in the folder of an exported model
Backend = Literal["paddle", "onnxruntime", "openvino"]
Format = Literal["paddle", "onnx", "openvino", "lite"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
FORMATS: tuple[Format, ...] = get_args(Format)
USUAL_FORMATS: tuple[Format, ...] = ("paddle", "onnx")  # what is written unless others are named

# runtimes that an ONNX file in int8 can be laid out for, see `core.targets.presets.PRESETS`
OnnxTarget = Literal["openvino", "onnxruntime", "tensorrt"]

ONNX_TARGETS: tuple[OnnxTarget, ...] = get_args(OnnxTarget)
DEFAULT_TARGET: OnnxTarget = "openvino"  # by default
Target = Literal["paddle", "lite", "tensorrt", "onnxruntime", "openvino"]
RoundedOutputs = Literal["none", "residual", "all"]
Processors = Literal["any", "vnni"]
TARGETS: tuple[Target, ...] = get_args(Target)
PROCESSORS: tuple[Processors, ...] = get_args(Processors)
