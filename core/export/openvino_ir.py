"""OpenVINO's own files `model.xml` and `model.bin`, made of ONNX by OpenVINO itself.

Weights stay in float32, so that OpenVINO computes the same numbers from these files as from the
ONNX file. By default it stores them in float16, which the comparison with the model refuses.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from core.errors import ExportError
from core.runtimes.formats import is_installed
from core.runtimes.openvino_models import openvino_core


def check_installed() -> None:
    """Refuse to write OpenVINO's files without it.

    Raises:
        ExportError: It is not installed.
    """
    if not is_installed("openvino"):
        raise ExportError("format: openvino is not installed; run: pip install openvino")


def convert(onnx: bytes, model: Path) -> None:
    """Write an ONNX model as OpenVINO's files.

    Args:
        onnx: Content of the file.
        model: File to write the graph to, `.xml`; weights go to `.bin` beside it.

    Raises:
        ExportError: OpenVINO cannot read it.
    """
    try:
        graph = openvino_core().read_model(onnx)
    except RuntimeError as error:
        reason = str(error).strip().rpartition("\n")[2]
        raise ExportError(f"openvino: the model cannot be converted: {reason}") from error
    for number, node in enumerate(graph.get_ordered_ops()):
        kind = node.get_type_name()  # nodes without a name are counted by all models of a process
        if re.fullmatch(rf"{kind}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}_{number}")
    importlib.import_module("openvino").save_model(graph, str(model), compress_to_fp16=False)
