"""Whole ONNX files of our own: networks, names, int8 programs, what cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ExportError
from core.export.onnx import convert
from core.export.onnx.convert import convert_to_onnx
from core.export.onnx.model_writer import write_onnx
from core.graph.operators import operator, variable
from core.graph.program import Graph
from core.task import build_task
from tests.networks.converted import (
    HAS_CONVERTER,
    answers_of_file,
    answers_of_program,
    assert_same,
    converted_file,
    graph_of,
)

IMAGE = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype("float32")
NETWORKS: dict[str, dict[str, Any]] = {
    "cls": {"model": {"name": "MobileNetV3_small_x0_35", "num_classes": 4}},
    "seg": {"model": {"num_classes": 3}},
    "keypoint": {"model": {"name": "lite_hrnet_18"}, "data": {"input_size": [64, 64]}},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_answer_as_in_paddle(name: str) -> None:
    graph = _graph_of_network(name)
    file = convert_to_onnx(graph)
    assert_same(answers_of_file(file, graph, [IMAGE]), answers_of_program(graph, [IMAGE]))
    assert file == convert_to_onnx(graph)
    stored = {tensor.name for tensor in onnx.load_model_from_string(file).graph.initializer}
    assert graph.weights.keys() <= stored


@pytest.mark.skipif(not HAS_CONVERTER, reason="there is no build of paddle2onnx for Python 3.13")
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_answer_as_paddle2onnx_has_them(name: str, tmp_path: Path) -> None:
    graph = _graph_of_network(name)
    found = answers_of_file(convert_to_onnx(graph), graph, [IMAGE])
    assert_same(found, answers_of_file(converted_file(graph, tmp_path), graph, [IMAGE]))


def _graph_of_network(name: str) -> Graph:
    model = NETWORKS[name]
    settings = {**model, "data": {"root": "nowhere", **model.get("data", {})}}
    paddle.seed(0)
    return graph_of(build_task(name, settings).build_model(), [IMAGE])


def test_an_unknown_operator_is_named_with_what_to_do() -> None:
    graph = graph_of(lambda x: paddle.histogram(x, 8), [IMAGE])
    with pytest.raises(ExportError, match=r"^onnx: .*operator histogram; cut .*--ending.*--format"):
        write_onnx(graph, 13)


def test_what_an_operator_cannot_be_told_is_named() -> None:
    graph = graph_of(lambda x: F.adaptive_max_pool2d(x, 3), [IMAGE], free=(0, 2, 3))
    with pytest.raises(
        ExportError, match=r"^onnx: .*operator .*pool2d.*, which makes .*: it makes \[3, 3\] bins"
    ):
        write_onnx(graph, 13)


def test_an_opset_that_onnx_does_not_know() -> None:
    newest = onnx.defs.onnx_opset_version()
    with pytest.raises(ExportError, match=rf"^opset: .* up to {newest}, got {newest + 1}$"):
        write_onnx(graph_of(F.relu, [IMAGE]), newest + 1)


def test_the_opset_is_raised_where_an_operator_needs_it() -> None:
    for function, wanted in ((F.relu, 13), (F.hardswish, 14), (paddle.tril, 14)):
        proto = onnx.load_model_from_string(convert_to_onnx(graph_of(function, [IMAGE])))
        assert [each.version for each in proto.opset_import] == [wanted]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_axes_of_operators_of_two_tensors(data: st.DataObject) -> None:
    """The one of lower rank may lie anywhere in the other."""
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axis = data.draw(st.integers(0, len(shape) - 1))
    end = data.draw(st.integers(axis + 1, len(shape)))
    kind = data.draw(st.sampled_from(["elementwise_add", "elementwise_sub", "elementwise_mul"]))
    rng, floats = np.random.default_rng(0), np.dtype("float32")
    arrays = [rng.normal(size=each).astype(floats) for each in (shape, shape[axis:end])]
    graph = graph_of(lambda x, y: x + y.sum(), arrays, free=())
    graph.operators = [operator(kind, dict(zip("XY", graph.inputs)), {"Out": "z"}, {"axis": axis})]
    graph.variables |= {"z": variable("z", shape, floats)}
    graph.outputs = ["z"]
    found = answers_of_file(convert_to_onnx(graph), graph, arrays)
    assert_same(found, answers_of_program(graph, arrays))


@pytest.mark.parametrize("per_channel", [False, True])
def test_int8_programs(per_channel: bool) -> None:
    """Steps of int8 with a grid for all, or one for each channel, and back to floats."""
    floats, whole = np.dtype("float32"), np.dtype("int8")
    graph: Graph = graph_of(F.relu, [IMAGE], free=())
    (name,), axis = graph.inputs, 1 if per_channel else -1
    scale = np.float32([1.0, 2.0, 3.0] if per_channel else [2.5])
    graph.weights = {"scale": scale, "zero": np.zeros(scale.shape, np.int32)}
    for key, value in graph.weights.items():
        graph.variables[key] = variable(key, value.shape, value.dtype, persistable=True)
    graph.variables["steps"] = variable("steps", IMAGE.shape, whole)
    graph.variables["back"] = variable("back", IMAGE.shape, floats)
    grid = {"Scale": "scale", "ZeroPoint": "zero"}
    attributes = {"quant_axis": axis, "bit_length": 8, "round_type": 0}
    attributes |= {"qmin": -128, "qmax": 127, "is_test": True, "only_observer": False}
    graph.operators = [
        operator("quantize_linear", {"X": name, **grid}, {"Y": "steps"}, attributes),
        operator("dequantize_linear", {"X": "steps", **grid}, {"Y": "back"}, attributes),
    ]
    graph.outputs = ["back"]
    found = answers_of_file(convert_to_onnx(graph), graph, [IMAGE])
    assert_same(found, answers_of_program(graph, [IMAGE]))


def test_what_is_not_valid_onnx_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(F.relu, [IMAGE])
    proto = write_onnx(graph, 13)
    proto.graph.node[0].op_type = "Rectify"
    monkeypatch.setattr(convert, "write_onnx", lambda *_: proto)
    with pytest.raises(ExportError, match=r"^onnx: the converted model is not valid: .*Rectify"):
        convert_to_onnx(graph)
