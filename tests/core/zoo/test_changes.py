"""What a compression has changed, read from the files that were exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from core.errors import ExportError
from core.runtimes.description import DeployDescription, Port, Report, write_description
from core.zoo.changes import LayerChange, read_changes


def exported(folder: Path, channels: int, in_int8: tuple[str, ...], macs: int | None) -> Path:
    """Write an export of two convolutions, a transposed one and two products with a matrix."""
    folder.mkdir()
    shapes = {
        "stem.conv.weight": (channels, 3, 3, 3),
        "up.weight": (channels, 2, 2, 2),
        "fc.weight": (4, 7),
        "last.weight": (5, 7),
    }
    layers = (
        ("Conv", "stem.conv.weight", {}),
        ("ConvTranspose", "up.weight", {"group": 2}),
        ("MatMul", "fc.weight", {}),
        ("Gemm", "last.weight", {"transB": 1}),
        ("MatMul", "", {}),  # of two tensors: no layer
    )
    nodes, stored = [], []
    for number, (kind, weight, settings) in enumerate(layers):
        read = weight or "other"
        if weight:
            dtype = "int8" if weight in in_int8 else "float32"
            stored.append(numpy_helper.from_array(np.ones(shapes[weight], dtype), weight))
        if weight in in_int8:
            read = f"{weight}@float"
            nodes.append(helper.make_node("DequantizeLinear", [weight, "step"], [read]))
        nodes.append(helper.make_node(kind, ["x", read], [f"y{number}"], **settings))
    nodes.append(helper.make_node("Relu", ["y0"], ["y"]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], stored)
    onnx.save(helper.make_model(graph), folder / "model.onnx")
    report = None if macs is None else Report(1.0, 10 * macs, macs, ((1, 3, 8, 8),))
    port = (Port("x", (-1, 3, 8, 8), "float32"),)
    write_description(DeployDescription(inputs=port, outputs=port, report=report), folder)
    return folder


@pytest.fixture
def training(tmp_path: Path) -> Path:
    folder = tmp_path / "training"
    folder.mkdir()
    text = "slim: {epochs: 2, strategies: [{kind: prune, target_ratio: 0.5}, {kind: qat}]}\n"
    (folder / "config.yml").write_text(text)
    return folder


def test_layers_costs_and_strategies(training: Path, tmp_path: Path) -> None:
    before = exported(tmp_path / "before", 8, (), 900)
    after = exported(tmp_path / "after", 6, ("stem.conv.weight", "fc.weight"), 400)
    found = read_changes(training, before, after)
    assert found.strategies == ({"kind": "prune", "target_ratio": 0.5}, {"kind": "qat"})
    assert (found.parameters, found.macs) == ((9000, 4000), (900, 400))
    assert found.layers == (
        LayerChange("stem.conv", "Conv", 8, 6, True),
        LayerChange("up", "ConvTranspose", 4, 4, False),
        LayerChange("fc", "MatMul", 7, 7, True),
        LayerChange("last", "Gemm", 5, 5, False),
    )
    assert (found.in_int8, found.cut) == (2, 1)


def test_what_is_not_known_is_left_out(training: Path, tmp_path: Path) -> None:
    (training / "config.yml").write_text("train: {epochs: 1}\n")
    before = exported(tmp_path / "before", 8, (), None)
    found = read_changes(training, before, exported(tmp_path / "after", 8, (), 400))
    assert found.strategies == ()
    assert (found.parameters, found.macs) == ((None, None), (None, None))
    assert found.cut == 0


def test_a_folder_without_a_file_that_can_be_read(training: Path, tmp_path: Path) -> None:
    before = exported(tmp_path / "before", 8, (), 900)
    (tmp_path / "after").mkdir()
    file = tmp_path / "after" / "model.onnx"
    with pytest.raises(ExportError, match=rf"^{file}: cannot be read"):
        read_changes(training, before, tmp_path / "after")
    file.write_bytes(b"no model")
    with pytest.raises(ExportError, match=rf"^{file}: cannot be read"):
        read_changes(training, before, tmp_path / "after")
