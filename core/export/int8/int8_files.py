"""The int8 files of a float graph and its scale tables, and the check that they do not overflow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx as onnx_format

from core.errors import RejectedError
from core.export import lite, openvino_ir
from core.export.files import LITE, MODEL, ONNX, OPENVINO, PARAMS
from core.export.int8.onnx_writer import quantize_onnx
from core.export.int8.paddle_writer import quantize_program
from core.graph.program import Graph
from core.quant.scales import LayerScales, ScaleTable
from core.runtimes.formats import find_files
from core.settings.files import scratch
from core.targets.names import Format, Processors
from core.targets.overflow import check_files, summary
from core.targets.pair_sums import LARGEST, Verdict
from core.targets.presets import Preset
from core.targets.processors import graph_for

_log = logging.getLogger(__name__)


def write_int8(
    graph: Graph,
    tables: Mapping[Format, ScaleTable],
    float_files: Path,
    folder: Path,
    preset: Preset,
    processors: Processors,
) -> None:
    """Write a float graph in int8.

    Args:
        graph: Float graph with folded batch norms.
        tables: Scales for each format to write; for OpenVINO's files ONNX must be among them.
        float_files: Folder with the same graph in float, if ONNX is wanted.
        folder: Existing folder to write to.
        preset: Layout of the ONNX file.
        processors: Processors on which the files must be right; the tables have the limits for it.

    Raises:
        ExportError: An entry of a table fits no layer, or cannot be stored in int8, or a file
            cannot be made.
    """
    if "paddle" in tables:
        for_paddle, source = tables["paddle"], graph_for(graph, "paddle", processors)
        made = quantize_program(source, for_paddle.layers, outputs=for_paddle.outputs)
        made.write(folder / MODEL, folder / PARAMS)
    if "onnx" in tables:
        proto = onnx_format.load(float_files / ONNX)
        proto = quantize_onnx(proto, tables["onnx"].layers, preset, tables["onnx"].outputs)
        content = proto.SerializeToString(deterministic=True)
        (folder / ONNX).write_bytes(content)
        if "openvino" in tables:
            openvino_ir.convert(content, folder / OPENVINO[0])
    if "lite" in tables:
        with scratch() as place:
            content = lite_converter(graph, tables["lite"].layers, place)()
        (folder / LITE).write_bytes(content)


def lite_converter(graph: Graph, table: Sequence[LayerScales], folder: Path) -> Callable[[], bytes]:
    """Write the files that Paddle Lite's converter reads; return a function that converts them.

    Args:
        graph: Float graph with folded batch norms.
        table: An entry for each layer to quantize.
        folder: Existing folder for the files that the converter reads.

    Raises:
        ExportError: An entry fits no layer. The returned function raises it where the converter
            fails or leaves all layers in float.
    """
    files = folder / "int8.pdmodel", folder / "int8.pdiparams"
    quantize_program(graph, table, "lite").write(*files)

    def convert() -> bytes:
        content = lite.convert(*files)
        count = sum(lite.int8_operators(content).values())
        if count == 0:
            raise RejectedError("lite: the converter left all layers in float")
        _log.info("lite: %d operators in int8, of %d quantized layers", count, len(table))
        return content

    return convert


def check_overflow(folder: Path, formats: Sequence[Format], processors: Processors) -> None:
    """Check in the files themselves that no processor overflows on them, or log that some do.

    Args:
        folder: Folder with int8 files.
        formats: Formats of the files.
        processors: Processors on which the files must be right.

    Raises:
        ExportError: The files are for any processor, and one would compute other numbers.
    """
    for kind in formats:
        # Lite's are for ARM processors, which add products in 32 bits; OpenVINO's are ONNX
        if kind in ("lite", "openvino"):
            continue
        files = find_files(folder, "paddle" if kind == "paddle" else "onnxruntime")
        checks = check_files(files)
        if processors == "vnni":
            _log.info("%s: %s", files[0].name, summary(checks))
            continue
        for check in checks:
            # OpenVINO halves weights that TensorRT, for which the file is, does not
            bent = check.verdict is Verdict.ROUNDED and kind == "paddle"
            if check.verdict is Verdict.OVERFLOW or (bent and check.reason != LARGEST):
                raise RejectedError(
                    f"{check.layer}: without VNNI its sums {check.verdict.value}, though "
                    f"{files[0].name} is for any processor: {summary(checks)}"
                )
