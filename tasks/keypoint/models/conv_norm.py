"""Convolution and batch norm, as all keypoint networks use them."""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor
from paddle.nn import BatchNorm2D, Conv2D, Layer
from paddle.nn.initializer import KaimingNormal, Normal


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    std: float | None = 0.001,
) -> Conv2D:
    """Build a convolution that keeps the size (over `stride`).

    Fresh weights come from N(0, std), by default as PaddleDetection's, or He et al.'s for None.
    """
    return Conv2D(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        weight_attr=ParamAttr(initializer=KaimingNormal() if std is None else Normal(0.0, std)),
        bias_attr=None if bias else False,
    )


class ConvNorm(Layer):
    """Convolution, batch normalization, activation; without the norm the convolution has a bias."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        activation: Literal["relu", "sigmoid"] | None = None,
        std: float | None = 0.001,
    ) -> None:
        super().__init__()
        self.conv = conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            groups=groups,
            bias=not norm,
            std=std,
        )
        self.norm = BatchNorm2D(out_channels) if norm else None
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation == "relu":
            return F.relu(x)
        if self.activation == "sigmoid":
            return F.sigmoid(x)
        return x


def depthwise(
    channels: int, kernel_size: int = 3, *, stride: int = 1, std: float | None = 0.001
) -> ConvNorm:
    """Build a depthwise convolution with its norm."""
    return ConvNorm(channels, channels, kernel_size, stride=stride, groups=channels, std=std)


def pointwise(in_channels: int, out_channels: int, *, std: float | None = 0.001) -> ConvNorm:
    """Build a 1x1 convolution with norm and ReLU."""
    return ConvNorm(in_channels, out_channels, activation="relu", std=std)


class SeparableConv(Layer):
    """Depthwise, then pointwise convolution with ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        std: float | None = 0.001,
    ) -> None:
        super().__init__()
        self.depthwise_conv = depthwise(in_channels, kernel_size, std=std)
        self.pointwise_conv = pointwise(in_channels, out_channels, std=std)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


def resize_like(x: Tensor, target: Tensor) -> Tensor:
    """Scale a map [N, C, H, W] up to the height and width of another, to the nearest.

    Whole factors become factors in a traced graph, not sizes that runtimes would compute again
    for each image, and copies in eager mode, a third of the time on CPUs.
    """
    (height, width), size = x.shape[-2:], target.shape[-2:]
    if [height, width] == list(size):
        return x
    if size[0] % height or size[1] % width:
        return F.interpolate(x, size, mode="nearest")
    rows, columns = size[0] // height, size[1] // width
    if not paddle.in_dynamic_mode():
        return F.interpolate(x, scale_factor=[float(rows), float(columns)], mode="nearest")
    cells = x.reshape([0, 0, height, 1, width, 1])
    return cells.expand([-1, -1, -1, rows, -1, columns]).reshape([0, 0, *size])
