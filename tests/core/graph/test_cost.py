"""Parameters and multiply-accumulates, against counts by hand and published ones."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from core.errors import ExportError
from core.graph.cost import (
    count_macs,
    count_macs_of_graph,
    count_parameters,
    count_stored,
    macs_by_operator,
    size_bytes,
    size_mb,
)
from core.graph.program import Graph
from core.graph.trace import trace

IMAGE = [InputSpec([None, None, None, None], "float32", "image")]


class Product(nn.Layer):
    """Multiply a [2, 3, 4, 5] array with its own transpose, in both ways to say so."""

    def __init__(self, transpose):
        super().__init__()
        self.transpose = transpose

    def forward(self, x):
        if self.transpose == "left":
            return paddle.matmul(x, x, transpose_x=True)
        if self.transpose == "right":
            return paddle.matmul(x, x, transpose_y=True)
        return paddle.matmul(x, x.transpose([0, 1, 3, 2]))


BY_HAND = {
    # outputs x input channels / groups x kernel
    "conv": (nn.Conv2D(3, 8, 3, padding=1), (1, 3, 10, 12), 8 * 10 * 12 * 3 * 9),
    "stride": (nn.Conv2D(3, 8, 3, stride=2), (1, 3, 11, 13), 8 * 5 * 6 * 3 * 9),
    "dilation": (nn.Conv2D(3, 8, 3, dilation=2), (1, 3, 10, 12), 8 * 6 * 8 * 3 * 9),
    "groups": (nn.Conv2D(6, 8, (1, 5), groups=2), (1, 6, 4, 9), 8 * 4 * 5 * 3 * 5),
    "depthwise": (nn.Conv2D(6, 6, 3, groups=6), (1, 6, 8, 8), 6 * 6 * 6 * 9),
    "multiplier": (nn.Conv2D(4, 24, 3, groups=4), (1, 4, 8, 8), 24 * 6 * 6 * 9),
    "batch": (nn.Conv2D(3, 8, 1), (2, 3, 4, 4), 2 * 8 * 4 * 4 * 3),
    # inputs x output channels / groups x kernel
    "transposed": (nn.Conv2DTranspose(3, 8, 4, stride=2), (1, 3, 5, 6), 3 * 5 * 6 * 8 * 16),
    "transposed groups": (
        nn.Conv2DTranspose(4, 8, 2, groups=2, stride=2),
        (1, 4, 5, 6),
        4 * 5 * 6 * 4 * 4,
    ),
    "linear": (nn.Linear(7, 5), (2, 3, 4, 7), 2 * 3 * 4 * 7 * 5),
    "product": (Product(""), (2, 3, 4, 5), 2 * 3 * 4 * 4 * 5),
    "product left": (Product("left"), (2, 3, 4, 5), 2 * 3 * 5 * 5 * 4),
    "product right": (Product("right"), (2, 3, 4, 5), 2 * 3 * 4 * 4 * 5),
    "nothing": (nn.Sequential(nn.BatchNorm2D(3), nn.ReLU(), nn.MaxPool2D(2)), (1, 3, 8, 8), 0),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_macs_by_hand(case):
    layer, shape, macs = BY_HAND[case]
    assert count_macs(layer, [shape], IMAGE) == macs


@pytest.mark.parametrize(
    ("build", "parameters", "macs"),
    [
        (paddle.vision.models.mobilenet_v1, 4_231_976, 568_740_352),
        (paddle.vision.models.resnet18, 11_689_512, 1_814_073_344),
        (paddle.vision.models.resnet50, 25_557_032, 4_089_184_256),
    ],
)
def test_known_networks(build, parameters, macs):
    layer = build()
    assert count_parameters(layer) == parameters
    assert count_macs(layer, [(1, 3, 224, 224)], IMAGE) == macs


def test_running_statistics_are_no_parameters():
    """`BatchNorm` registers its statistics as parameters, `BatchNorm2D` as buffers."""
    assert count_parameters(nn.BatchNorm(5)) == 10
    assert count_parameters(nn.BatchNorm2D(5)) == 10


class Upsampling(nn.Layer):
    """The second convolution's size depends on the input's, as in many segmentation heads."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2D(3, 4, 3, stride=2, padding=1), nn.Conv2D(4, 5, 1)

    def forward(self, image):
        size = paddle.shape(image)[2:]
        return self.up(nn.functional.interpolate(self.down(image), size))


def test_files_are_counted_for_any_size(tmp_path):
    files = [tmp_path / "model.pdmodel", tmp_path / "model.pdiparams"]
    spec = [InputSpec([None, 3, None, None], "float32", "image")]
    Graph.from_trace(trace(Upsampling(), spec)).write(*files)
    for height, width in ((8, 12), (16, 6)):
        image = np.zeros((2, 3, height, width), np.float32)
        by_hand = 2 * height * width * (4 * 27 // 4 + 5 * 4)
        assert count_macs_of_graph(Graph.from_files(*files), [image]) == by_hand
    assert count_stored(Graph.from_files(*files)) == 4 * 27 + 4 + 5 * 4 + 5
    assert size_mb(files) == sum(file.stat().st_size for file in files) / 1e6
    assert size_bytes(files)["model.pdmodel"] == files[0].stat().st_size


def test_unknown_shapes_are_not_guessed():
    spec = [InputSpec([1, 3, None, None], "float32", "image")]
    graph = Graph.from_trace(trace(Upsampling(), spec))
    with pytest.raises(ExportError, match="depends on values"):
        macs_by_operator(graph, {name: graph.shape(name) for name in graph.variables})


def test_sizes_that_code_computes_are_counted() -> None:
    class Enlarged(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2D(3, 4, 3, padding=1)
            self.head = nn.Linear(4 * 12 * 16, 5)

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            y = nn.functional.interpolate(x, paddle.shape(x)[2:] * 2, mode="bilinear")
            return self.head(self.conv(y).flatten(1))

    macs = count_macs(Enlarged(), [(1, 3, 6, 8)], [InputSpec([1, 3, 6, 8], "float32", "x")])
    assert macs == 4 * 12 * 16 * 3 * 9 + 4 * 12 * 16 * 5
