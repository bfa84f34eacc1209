"""What is told in attributes reaches ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import paddle
from paddle import nn
from paddle.static import InputSpec

from core.export.files import write_files
from core.graph.program import Graph
from core.graph.trace import trace

SPECS = [InputSpec([2, 3, 4, 4], "float32", "image")]


class Told(nn.Layer):
    """Assigns numbers to parts of a map (as Swin makes its masks), and adds constants."""

    def forward(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        mask = paddle.zeros([1, 1, 4, 4])
        mask[:, :, 1:] = 2
        mask[:, :, :, :2] = 0.5
        scale = paddle.to_tensor([1.5, -2.0, 3.0]).reshape([1, 3, 1, 1])
        return {"masked": x * mask, "scaled": x * scale}


def test_assigned_numbers_and_constants_are_converted(tmp_path: Path) -> None:
    layer = Told()
    graph = Graph.from_trace(trace(layer, SPECS))
    kinds = [op.type for op in graph.operators]
    assert {"set_value", "assign_value"} <= set(kinds)
    write_files(graph, tmp_path, ["onnx"])
    assert [op.type for op in graph.operators] == kinds
    image = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype("float32")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = dict(zip(graph.outputs, session.run(None, {"image": image})))
    for name, wanted in layer(paddle.to_tensor(image)).items():
        np.testing.assert_allclose(found[name], wanted.numpy(), rtol=1e-6)
