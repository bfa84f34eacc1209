"""Layers whose code computes with the size of the batch are exported with a free one."""

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

from core.errors import ExportError
from core.export.onnx.convert import convert_to_onnx
from core.graph import free_batch
from core.graph.free_batch import trace_graph

SPECS = [InputSpec([None, 3, 8, 8], "float32", "image")]


class Code(nn.Layer):
    """Runs a function of a map [N, 4, 4, 4] and of a token [1, 1, 4]."""

    def __init__(self, run: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.run = nn.Conv2D(3, 4, 2, stride=2), run
        self.token = self.create_parameter([1, 1, 4], default_initializer=nn.initializer.Normal())

    def forward(self, image: Tensor) -> Tensor:
        return self.run(self.conv(image), self.token)


def class_token(x: Tensor, token: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose([0, 2, 1])
    return paddle.concat([token.expand((x.shape[0], -1, -1)), tokens], axis=1)


def windows(x: Tensor, _: Tensor) -> Tensor:
    """Shares maps out into windows 2x2, and puts them together by a batch computed from these."""
    parts = x.reshape([-1, 4, 2, 2, 2, 2]).transpose([0, 2, 4, 1, 3, 5]).reshape([-1, 4, 4])
    attended = F.softmax(parts.matmul(parts.transpose([0, 2, 1])), axis=-1).matmul(parts)
    batch = int(attended.shape[0] / (4 * 4 / 2 / 2))
    return attended.reshape([batch, 2, 2, 4, 4]).transpose([0, 3, 1, 2, 4])


def windows_by_tensor(x: Tensor, _: Tensor) -> Tensor:
    parts = x.reshape([-1, 4, 2, 2, 2, 2]).transpose([0, 2, 4, 1, 3, 5]).reshape([-1, 4, 4])
    batch = paddle.to_tensor(parts.shape[0] // 4, "int32")
    return (parts * 2).reshape([batch, 2, 2, 4, 4])


def patches_first(x: Tensor, _: Tensor) -> Tensor:
    """Puts rows of all images one after the other, as MobileViT does."""
    batch, channels, height, width = x.shape
    rows = x.reshape([batch * channels * height, width]).transpose([1, 0])
    rows = F.softmax(rows, axis=0)
    return rows.transpose([1, 0]).reshape([batch, channels, height * width])


def ones_for_each(x: Tensor, _: Tensor) -> Tensor:
    return paddle.concat([paddle.ones([x.shape[0], 1, 4, 4]), x], axis=1)


def tiled(x: Tensor, token: Tensor) -> Tensor:
    return x.flatten(2) + paddle.tile(token.transpose([0, 2, 1]), [x.shape[0], 1, 1])


@pytest.mark.parametrize(
    "run", [class_token, windows, windows_by_tensor, patches_first, ones_for_each, tiled]
)
def test_the_files_answer_alike_for_any_batch(
    run: Callable[[Tensor, Tensor], Tensor], tmp_path: Path
) -> None:
    paddle.seed(0)
    layer = Code(run)
    layer.eval()
    files = tmp_path / "model.pdmodel", tmp_path / "model.pdiparams"
    graph = trace_graph(layer, SPECS)
    graph.write(*files)
    assert graph.shape("image") == (-1, 3, 8, 8)
    assert graph.shape("output")[0] == -1
    session = onnxruntime.InferenceSession(convert_to_onnx(graph))
    config = paddle.inference.Config(*map(str, files))
    config.disable_glog_info()
    config.disable_mkldnn()  # its concatenation of a constant and a map mixes up their layouts
    predictor = paddle.inference.create_predictor(config)
    for count in (1, 2, 5):
        image = np.random.default_rng(count).normal(size=(count, 3, 8, 8)).astype("float32")
        wanted = layer(paddle.to_tensor(image)).numpy()
        (found,) = session.run(None, {"image": image})
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        (found,) = predictor.run([paddle.to_tensor(image)])
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


def one_more(x: Tensor, _: Tensor) -> Tensor:
    return paddle.ones([x.shape[0] + 1, 1, 4, 4]) * x.mean()


def a_loop(x: Tensor, _: Tensor) -> Tensor:
    return paddle.stack([x[index] for index in range(x.shape[0])]).reshape([x.shape[0], 64])


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (one_more, "3 for 2 images and 4 for 3"),
        (a_loop, "it runs other operators for another size"),
    ],
)
def test_what_cannot_be_free_says_so(run: Callable[[Tensor, Tensor], Tensor], why: str) -> None:
    with pytest.raises(ExportError) as caught:
        trace_graph(Code(run), SPECS)
    assert str(caught.value) == (
        f"Code: its code computes with the size of the batch ({why}), which cannot be free then; "
        "export for one image at a time, with --input_shape 1,3,8,8"
    )
    assert trace_graph(Code(run), [InputSpec([1, 3, 8, 8], "float32", "image")])


def test_plain_layers_are_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    trace = free_batch.trace

    def counted(layer: nn.Layer, specs: list[InputSpec], model: nn.Layer | None) -> object:
        sizes.append(specs[0].shape[0])
        return trace(layer, specs, model)

    monkeypatch.setattr(free_batch, "trace", counted)
    plain = Code(lambda x, token: x.reshape([0, 2, 2, 4, 4]).flatten(1) + token.sum())
    trace_graph(plain, SPECS)
    assert sizes == [-1]
