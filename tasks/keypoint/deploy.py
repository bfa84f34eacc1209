"""Endings of a deployed keypoint network, as plain operators that every runtime has."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.nn import Layer

from core.errors import ConfigError
from tasks.keypoint.codec import heatmap_stride


class HeatmapEnding(Layer):
    """The network as it is: `heatmaps` [N, K, h, w]."""

    def __init__(self, network: Layer) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"heatmaps": self.network(image)}


class PointsEnding(Layer):
    """Decoded in the graph: `points` [N, K, 3], x and y in pixels of the input, score.

    The peak moved a quarter pixel towards the higher neighbour, as `Codec` does for
    `decoding: quarter`. Only comparisons, products and sums follow the argmax, no gathering.

    Args:
        network: From image [N, 3, H, W] to heatmaps [N, K, h, w]; H and W must be fixed.
        udp: Whether the network was trained with UDP.
    """

    def __init__(self, network: Layer, udp: bool) -> None:
        super().__init__()
        self.network = network
        self.udp = udp

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        heatmaps = self.network(image)
        joints, height, width = (int(size) for size in heatmaps.shape[1:])
        if min(height, width) < 1:
            raise ConfigError("ending: 'points' needs an input of fixed height and width")
        size = height * width
        flat = heatmaps.reshape([-1, joints, size])
        best = flat.argmax(axis=2, keepdim=True)
        pixels = paddle.arange(size, dtype="int64").reshape([1, 1, size])
        peak = (pixels == best).astype("float32")
        across, down = _slopes(heatmaps)
        columns, rows = np.meshgrid(np.arange(width), np.arange(height))
        x = _at(peak, _constant(columns)) + 0.25 * paddle.sign(_at(peak, across))
        y = _at(peak, _constant(rows)) + 0.25 * paddle.sign(_at(peak, down))
        stride = heatmap_stride(tuple(image.shape[2:]), (height, width), self.udp)
        points = [x * float(stride[0]), y * float(stride[1]), flat.max(axis=2)]
        return {"points": paddle.stack(points, axis=2)}


def _slopes(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Return right minus left and lower minus upper neighbour; 0 on all of the border."""
    across = heatmaps[:, :, 1:-1, 2:] - heatmaps[:, :, 1:-1, :-2]
    down = heatmaps[:, :, 2:, 1:-1] - heatmaps[:, :, :-2, 1:-1]
    return F.pad(across, [1, 1, 1, 1]).flatten(2), F.pad(down, [1, 1, 1, 1]).flatten(2)


def _at(peak: Tensor, values: Tensor) -> Tensor:
    """Read values [N or 1, K or 1, h * w] at the one pixel where `peak` is 1."""
    return (peak * values).sum(axis=2)


def _constant(grid: np.ndarray) -> Tensor:
    return paddle.to_tensor(grid.reshape(1, 1, -1).astype(np.float32))
