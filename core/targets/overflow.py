"""Prove from an int8 file whether it is computed right on x86 processors without VNNI.

What can overflow there, and how, is said at `core.targets.pair_sums`; which layers runtimes compute
in int8, at `core.targets.onnx_layers` and `core.targets.program_layers`. A layer that is `EXACT` is
computed right by every kernel that adds up products in pairs, whichever they are. A layer that
`OVERFLOW` is said of has two weights and data, see `LayerCheck.witness`, whose sum is lost where a
kernel makes a pair of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from core.errors import ExportError
from core.graph.program import Graph
from core.targets import onnx_layers, program_layers
from core.targets.pair_sums import LayerCheck, Verdict, check_layer


def check_onnx(model: ModelProto) -> tuple[LayerCheck, ...]:
    """Check the layers of an ONNX model, for ONNX Runtime and OpenVINO, in the order they run.

    Args:
        model: Model in QDQ or QOperator form; a float model has no layers to check.

    Raises:
        ExportError: The graph is not valid.
    """
    try:
        layers = onnx_layers.find_layers(model)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"onnx: the graph is not valid: {reason}") from error
    return tuple(map(check_layer, layers))


def check_program(graph: Graph) -> tuple[LayerCheck, ...]:
    """Check the layers of a Paddle program, for Paddle Inference, in the order they run.

    Args:
        graph: Graph with `quantize_linear` and `dequantize_linear`; a float graph has no layers to
            check.
    """
    return tuple(map(check_layer, program_layers.find_layers(graph)))


def check_files(files: Sequence[Path]) -> tuple[LayerCheck, ...]:
    """Check the layers of a model in files: ONNX, or program and parameters of Paddle's old IR.

    Raises:
        ExportError: They cannot be read, or are no such model; the message begins with the file.
    """
    file = files[0]
    if file.suffix == ".json":
        raise ExportError(f"{file}: programs of PIR are not checked, only those of the old IR")
    if file.suffix == ".xml":
        raise ExportError(f"{file}: a file of OpenVINO is not checked, only ONNX and programs are")
    if file.suffix != ".onnx":
        return check_program(Graph.from_files(file, files[1]))
    try:
        model = onnx.load(str(file))
    except OSError as error:
        raise ExportError(f"{file}: cannot be read: {error.strerror or error}") from error
    except onnx.checker.ValidationError as error:  # of weights that lie in files of their own
        raise ExportError(f"{file}: {' '.join(str(error).split())}") from error
    except (DecodeError, ValueError) as error:
        raise ExportError(f"{file}: not an ONNX model") from error
    if not model.graph.node:
        raise ExportError(f"{file}: not an ONNX model")
    try:
        return check_onnx(model)
    except ExportError as error:
        raise ExportError(f"{file}: {error}") from error


def summary(checks: Sequence[LayerCheck]) -> str:
    """Summarise the checks of a file in one line."""
    if not checks:
        return "nothing is quantized"
    over = [check for check in checks if check.verdict is Verdict.OVERFLOW]
    rounded = sum(check.verdict is Verdict.ROUNDED for check in checks)
    text = f"{len(over) or 'none'} of {len(checks)} layers may overflow on processors without VNNI"
    if over:
        worst = max(over, key=lambda check: abs(check.pair.total))
        text += f", worst {worst.layer}: {abs(worst.pair.total)} of {abs(worst.pair.limit)}"
    if rounded:
        text += f"; {rounded} are rounded again there"
    return text
