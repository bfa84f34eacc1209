"""Exported models for the tests of runtimes."""

from __future__ import annotations

import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from core.export.onnx.convert import convert_to_onnx
from core.export.package import export
from core.graph.program import Graph
from core.graph.trace import trace
from core.task import build_task

BOTH = ("paddle", "onnx")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """An exported toy model, in all formats."""
    folder = tmp_path_factory.mktemp("toy")
    task = build_task("outside.toy", {"data": {"root": str(folder / "data")}})
    paddle.seed(0)
    export(task, task.build_model(), folder / "out", BOTH)
    return folder / "out"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A model without deploy.yml, with two inputs, and its eager layer."""
    folder = tmp_path_factory.mktemp("bare")
    layer = Weighted()
    specs = [InputSpec([None, 3], "float32", "left"), InputSpec([None, 3], "float32", "right")]
    graph = Graph.from_trace(trace(layer, specs))
    graph.write(folder / "model.pdmodel", folder / "model.pdiparams")
    (folder / "model.onnx").write_bytes(convert_to_onnx(graph))
    return folder


class Weighted(nn.Layer):
    def forward(self, left, right):
        return {"sum": left + right, "difference": left - right}
