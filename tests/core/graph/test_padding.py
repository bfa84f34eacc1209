"""Padding of any axes is the same in every runtime, and Paddle Inference survives it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import paddle
import pytest
from paddle import Tensor, nn
from paddle.nn import functional as F
from paddle.static import InputSpec

from core.export.files import MODEL, PARAMS
from core.export.onnx.convert import convert_to_onnx
from core.graph.free_batch import trace_graph
from core.graph.padding import pad_last_axes
from core.graph.program import Graph
from core.runtimes.predictor import load_predictor

IMAGE = np.random.default_rng(0).normal(size=(2, 3, 7, 9)).astype("float32")


class Padded(nn.Layer):
    """A map with its channels last, as windows of Swin transformers have them, padded."""

    def __init__(self, pads: list[int]) -> None:
        super().__init__()
        self.conv, self.pads = nn.Conv2D(3, 8, 3), pads

    def forward(self, image: Tensor) -> Tensor:
        rows = self.conv(image).transpose([0, 2, 3, 1])  # [N, 5, 7, 8]
        if len(self.pads) == 6:
            rows = rows.flatten(1, 2)
        elif len(self.pads) == 10:
            rows = rows.unsqueeze(1)
        return F.pad(rows, self.pads, value=0.5) * 2


@pytest.mark.parametrize(
    ("pads", "kinds"),
    [
        ([0, 0, 0, 2, 0, 1, 0, 0], {"unsqueeze2", "pad3d", "squeeze2"}),
        ([0, 0, 1, 0, 2, 3, 4, 5], {"unsqueeze2", "pad3d", "squeeze2"}),
        ([0, 0, 0, 3, 0, 0], {"unsqueeze2", "pad3d", "squeeze2"}),
        ([0, 0, 0, 0, 1, 2, 0, 3, 0, 0], {"pad3d"}),
        ([0, 0, 1, 2, 1, 2, 0, 0], {"unsqueeze2", "pad3d", "squeeze2"}),
        ([0, 0, 0, 0, 0, 0, 0, 0], {"pad"}),
        ([0, 0, 1, 2, 0, 0, 0, 0, 0, 0], {"pad"}),  # an axis that pad3d does not pad
    ],
)
def test_files_pad_as_the_network_does(pads: list[int], kinds: set[str], tmp_path: Path) -> None:
    graph, wanted = _traced(pads)
    made = pad_last_axes(graph)
    added = {op.type for op in made.operators} & {"pad", "pad3d", "unsqueeze2", "squeeze2"}
    assert added - ({"unsqueeze2"} if len(pads) == 10 else set()) == kinds
    files = tmp_path / MODEL, tmp_path / PARAMS
    made.write(*files)
    session = onnxruntime.InferenceSession(convert_to_onnx(made))
    np.testing.assert_allclose(session.run(None, {"image": IMAGE})[0], wanted, atol=1e-5)
    _check_paddle(tmp_path, wanted)


def test_a_file_of_another_tool_does_not_end_the_process(tmp_path: Path) -> None:
    graph, wanted = _traced([0, 0, 0, 40, 0, 30, 0, 0])
    assert "pad" in {op.type for op in graph.operators}
    graph.write(tmp_path / MODEL, tmp_path / PARAMS)
    _check_paddle(tmp_path, wanted)


def _traced(pads: list[int]) -> tuple[Graph, np.ndarray]:
    layer = Padded(pads)
    layer.eval()
    graph = trace_graph(layer, [InputSpec([None, *IMAGE.shape[1:]], "float32", "image")])
    return graph, layer(paddle.to_tensor(IMAGE)).numpy()


def _check_paddle(folder: Path, wanted: np.ndarray) -> None:
    found = load_predictor(folder, "paddle").run(IMAGE)
    np.testing.assert_allclose(found["output"], wanted, atol=1e-5)
