"""Maps that are resized by no whole factor are the same in Paddle Inference and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import paddle
import pytest
from paddle import Tensor, nn
from paddle.nn import functional as F
from paddle.static import InputSpec

from core.export.onnx.convert import convert_to_onnx
from core.graph.free_batch import trace_graph
from core.graph.uneven_resizing import gather_uneven_resizing


class Resized(nn.Layer):
    """A map of 16 channels, which oneDNN keeps in blocks, resized."""

    def __init__(self, resize: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.resize = nn.Conv2D(3, 16, 3, padding=1), resize

    def forward(self, image: Tensor) -> Tensor:
        return self.resize(self.conv(image))


@pytest.mark.parametrize(
    ("resize", "gathered"),
    [
        (lambda x: F.interpolate(x, size=(4, 4)), 2),
        (lambda x: F.interpolate(x, size=(10, 7)), 1),
        (lambda x: F.interpolate(x, scale_factor=1.5), 2),
        (lambda x: F.interpolate(x, size=(14, 7)), 0),
        (lambda x: F.interpolate(x, size=(3, 3), mode="bilinear"), 0),
    ],
)
def test_runtimes_take_the_places_that_paddle_takes(
    resize: Callable[[Tensor], Tensor], gathered: int, tmp_path: Path
) -> None:
    layer = Resized(resize)
    layer.eval()
    graph = trace_graph(layer, [InputSpec([None, 3, 7, 7], "float32", "image")])
    made = gather_uneven_resizing(graph)
    assert sum(op.type == "gather" for op in made.operators) == gathered
    files = tmp_path / "model.pdmodel", tmp_path / "model.pdiparams"
    made.write(*files)
    image = np.random.default_rng(0).normal(size=(2, 3, 7, 7)).astype("float32")
    wanted = layer(paddle.to_tensor(image)).numpy()
    session = onnxruntime.InferenceSession(convert_to_onnx(made))
    np.testing.assert_allclose(session.run(None, {"image": image})[0], wanted, atol=1e-5)
    config = paddle.inference.Config(*map(str, files))
    config.disable_glog_info()
    predictor = paddle.inference.create_predictor(config)
    predictor.get_input_handle("image").copy_from_cpu(image)
    predictor.run()
    found = predictor.get_output_handle("output").copy_to_cpu()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
