"""The files of others that `benchmarks.measure.whole_chain` sets beside ours.

paddle2onnx converts the float network; others quantize it (`benchmarks.peers.after_training`) on
the images that ours is quantized on.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from benchmarks.measure.rewrites import convert_with_paddle2onnx
from benchmarks.peers.after_training import quantize_with_peers
from benchmarks.peers.int8 import install_nncf
from core.export.package import export
from core.quant.calibration import training_images
from core.runtimes.description import write_description
from core.targets.names import Backend
from core.training import checkpoint

CONVERTED = "float, by paddle2onnx"
Row = dict[str, Any]
Files = dict[str, dict[Backend, str]]  # folders by row and runtime


def export_peers(
    run: Path, folder: Path, count: int, work_dir: Path
) -> tuple[dict[str, Row], Files]:
    """Make the files; return their sizes by row and runtime, and their folders.

    A row tells under `fails` what failed.

    Args:
        run: Folder with the `best_model` of the float network.
        folder: New folder for the files.
        count: Images to quantize with.
        work_dir: Folder for NNCF's environment.
    """
    task, model = checkpoint.restore(run / "best_model")
    described = export(task, model, folder / "float", ("onnx",)).description
    spec = task.input_spec()[0]
    converted = folder / "paddle2onnx"
    shape = [side if side and side > 0 else -1 for side in spec.shape]
    convert_with_paddle2onnx(task, model, shape, converted)
    _name_outputs(converted / "model.onnx", [port.name for port in described.outputs])
    write_description(described, converted)
    size = (converted / "model.onnx").stat().st_size
    rows: dict[str, Row] = {CONVERTED: {"bytes": {"onnxruntime": size, "openvino": size}}}
    files: Files = {CONVERTED: {"onnxruntime": str(converted), "openvino": str(converted)}}
    python = install_nncf(work_dir, importlib.metadata.version("openvino"))
    source = run / "best_model", folder / "float", training_images(task, count)
    for label, made in quantize_with_peers(*source, folder / "peers", python):
        rows[label] = {"bytes": {}, "fails": made.fails}
        files[label] = {}
        if made.folder is not None:
            rows[label]["bytes"][made.backend] = made.bytes
            files[label][made.backend] = str(made.folder)
    return rows, files


def _name_outputs(file: Path, names: Sequence[str]) -> None:
    """Give the outputs of an ONNX file other names, by which `deploy.yml` calls them."""
    model = onnx.load(file)
    for port, name in zip(model.graph.output, names, strict=True):
        model.graph.node.append(onnx.helper.make_node("Identity", [port.name], [name]))
        port.name = name
    onnx.save(model, file)
