"""Lite-HRNet: a light-weight high-resolution network.

Yu, Xiao, Gao, Yuan, Zhang, Sang, Wang: "Lite-HRNet: A Lightweight High-Resolution Network",
CVPR 2021. Layers are named as in PaddleDetection, so that its published weights fit. The naive
networks of the same paper have shuffle units in the place of the weighting; PP-TinyPose is the
wider one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.nn import BatchNorm2D, Identity, Layer, LayerList, ReLU, Sequential

from core.network.channels import ChannelShuffle, ChannelSplit
from tasks.keypoint.models.conv_norm import (
    ConvNorm,
    SeparableConv,
    conv2d,
    depthwise,
    pointwise,
    resize_like,
)

STEM_CHANNELS = 32
BLOCKS_PER_MODULE = 2
CROSS_RESOLUTION_RATIO = 8
SPATIAL_RATIO = 4


@dataclass(frozen=True)
class Anatomy:
    """How large a network is.

    Attributes:
        modules: Modules in the stages with two, three and four branches.
        channels: Channels of the branches at strides 4, 8, 16, 32.
        naive: Modules hold shuffle units, not conditional channel weighting.
    """

    modules: tuple[int, int, int]
    channels: tuple[int, int, int, int] = (40, 80, 160, 320)
    naive: bool = False


NETWORKS = MappingProxyType(
    {
        "lite_hrnet_18": Anatomy((2, 4, 2)),
        "lite_hrnet_30": Anatomy((3, 8, 3)),
        "lite_hrnet_naive": Anatomy((2, 4, 2), (30, 60, 120, 240), naive=True),
        "lite_hrnet_wider_naive": Anatomy((2, 4, 2), naive=True),
    }
)


class Stem(Layer):
    """Two strided steps from the image to stride 4; half the channels take a short path."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.split = ChannelSplit([half, channels - half])
        self.shuffle = ChannelShuffle()
        self.conv1 = ConvNorm(3, channels, 3, stride=2, activation="relu")
        self.branch1 = Sequential(depthwise(half, stride=2), pointwise(half, half))
        self.expand_conv = pointwise(half, channels)
        self.depthwise_conv = depthwise(channels, stride=2)
        self.linear_conv = pointwise(channels, half)

    def forward(self, x: Tensor) -> Tensor:
        short, long = self.split(self.conv1(x))
        long = self.linear_conv(self.depthwise_conv(self.expand_conv(long)))
        return self.shuffle(self.branch1(short), long)


class CrossResolutionWeighting(Layer):
    """Weigh each position of every branch by the maps of all branches there."""

    def __init__(self, channels: list[int], ratio: int) -> None:
        super().__init__()
        total = sum(channels)
        self.split = ChannelSplit(channels)
        self.conv1 = ConvNorm(total, total // ratio, activation="relu")
        self.conv2 = ConvNorm(total // ratio, total, activation="sigmoid")

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        smallest = branches[-1].shape[-2:]
        pooled = [F.adaptive_avg_pool2d(branch, smallest) for branch in branches[:-1]]
        weights = self.conv2(self.conv1(paddle.concat([*pooled, branches[-1]], axis=1)))
        parts = self.split(weights)
        return [
            paddle.multiply(branch, resize_like(part, branch))
            for branch, part in zip(branches, parts)
        ]


class SpatialWeighting(Layer):
    """Weigh the channels of one branch by their means (squeeze and excitation)."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels // ratio, norm=False, activation="relu")
        self.conv2 = ConvNorm(channels // ratio, channels, norm=False, activation="sigmoid")

    def forward(self, x: Tensor) -> Tensor:
        return paddle.multiply(x, self.conv2(self.conv1(F.adaptive_avg_pool2d(x, 1))))


class ConditionalChannelWeighting(Layer):
    """A shuffle block over all branches, with weighting in place of its pointwise convolutions."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        halves = [count // 2 for count in channels]
        self.cross_resolution_weighting = CrossResolutionWeighting(halves, CROSS_RESOLUTION_RATIO)
        self.depthwise_convs = LayerList([depthwise(half) for half in halves])
        self.spatial_weighting = LayerList(
            [SpatialWeighting(half, SPATIAL_RATIO) for half in halves]
        )
        self.splits = LayerList([ChannelSplit([half, half]) for half in halves])
        self.shuffles = LayerList([ChannelShuffle() for _ in halves])

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        halves = [split(branch) for split, branch in zip(self.splits, branches)]
        weighted = self.cross_resolution_weighting([half[1] for half in halves])
        return [
            shuffle(half[0], weigh(convolve(x)))
            for half, x, convolve, weigh, shuffle in zip(
                halves, weighted, self.depthwise_convs, self.spatial_weighting, self.shuffles
            )
        ]


class ShuffleUnit(Layer):
    """Half the channels pass three convolutions, then all are shuffled (Ma et al., ECCV 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.split = ChannelSplit([channels - half, half])
        self.branch2 = Sequential(pointwise(half, half), depthwise(half), pointwise(half, half))
        self.shuffle = ChannelShuffle()

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = self.split(x)
        return self.shuffle(kept, self.branch2(changed))


class ShuffleBranches(LayerList):
    """Shuffle units in every branch, each branch by itself."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__(
            [
                Sequential(*(ShuffleUnit(count) for _ in range(BLOCKS_PER_MODULE)))
                for count in channels
            ]
        )

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        return [units(branch) for units, branch in zip(self, branches)]


def separable_step(
    in_channels: int, out_channels: int, *, stride: int = 2, relu: bool = True
) -> Sequential:
    """Build a depthwise and a pointwise convolution with norms, named by position."""
    layers = [
        conv2d(in_channels, in_channels, 3, stride=stride, groups=in_channels),
        BatchNorm2D(in_channels),
        conv2d(in_channels, out_channels),
        BatchNorm2D(out_channels),
    ]
    return Sequential(*layers, ReLU()) if relu else Sequential(*layers)


class LiteModule(Layer):
    """Blocks, then every branch takes in all others at its own resolution.

    Args:
        channels: Channels of each branch.
        naive: The blocks are shuffle units, not conditional channel weighting.
    """

    def __init__(self, channels: list[int], *, naive: bool) -> None:
        super().__init__()
        self.layers = ShuffleBranches(channels) if naive else _weighting_blocks(channels)
        targets = range(len(channels))
        self.fuse_layers = LayerList(
            [
                LayerList([_path(channels, source, target) for source in targets])
                for target in targets
            ]
        )

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        branches = self.layers(branches)
        fused = []
        for target, paths in enumerate(self.fuse_layers):
            # Published weights were trained with the first branch counted twice, and with its
            # sum before the ReLU, not its input, going into the other branches.
            total = 2 * paths[0](branches[0])
            for source in range(1, len(branches)):
                path = resize_like(paths[source](branches[source]), branches[target])
                total = paddle.add(total, path)
            if target == 0:
                branches = [total, *branches[1:]]
            fused.append(F.relu(total))
        return fused


def _weighting_blocks(channels: list[int]) -> Sequential:
    return Sequential(*(ConditionalChannelWeighting(channels) for _ in range(BLOCKS_PER_MODULE)))


def _path(channels: list[int], source: int, target: int) -> Layer:
    """Build the way from one branch to the resolution of another, but for the upsampling."""
    width = channels[source]
    if source == target:
        return Identity()
    if source > target:
        return Sequential(conv2d(width, channels[target]), BatchNorm2D(channels[target]))
    steps = [separable_step(width, width) for _ in range(target - source - 1)]
    return Sequential(*steps, separable_step(width, channels[target], relu=False))


class IterativeHead(Layer):
    """Bring the coarse branches down to the finest, one at a time."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        widths = [*reversed(channels), channels[0]]
        self.projects = LayerList([SeparableConv(a, b) for a, b in pairwise(widths)])

    def forward(self, branches: list[Tensor]) -> Tensor:
        coarse_to_fine = branches[::-1]
        x = self.projects[0](coarse_to_fine[0])
        for branch, project in zip(coarse_to_fine[1:], self.projects[1:]):
            x = F.interpolate(x, branch.shape[-2:], mode="bilinear", align_corners=True)
            x = project(paddle.add(branch, x))
        return x


class LiteHRNet(Layer):
    """Lite-HRNet from the image [N, 3, H, W] to features [N, C, H/4, W/4].

    Args:
        anatomy: How large it is; `NETWORKS` has the published ones. C are its first channels.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        super().__init__()
        self.out_channels = anatomy.channels[0]
        self.stem = Stem(STEM_CHANNELS)
        before = [STEM_CHANNELS]
        for index, count in enumerate(anatomy.modules):
            channels = list(anatomy.channels[: index + 2])
            modules = [LiteModule(channels, naive=anatomy.naive) for _ in range(count)]
            self.add_sublayer(f"transition{index}", _transition(before, channels))
            self.add_sublayer(f"stage{index}", Sequential(*modules))
            before = channels
        self.head_layer = IterativeHead(before)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.stem(x)]
        for transition, stage in self._stages():
            last = len(branches) - 1
            branches = stage([layer(branches[min(i, last)]) for i, layer in enumerate(transition)])
        return self.head_layer(branches)

    def stages(self) -> list[list[Layer]]:
        """Return the layers in groups that may be frozen, from the image on."""
        return [[self.stem], *(list(pair) for pair in self._stages())]

    def _stages(self) -> list[tuple[Layer, Layer]]:
        return [
            (self.transition0, self.stage0),
            (self.transition1, self.stage1),
            (self.transition2, self.stage2),
        ]


def _transition(before: list[int], after: list[int]) -> LayerList:
    """Build the layers that adapt the branches to the next stage and open a new one."""
    layers: list[Layer] = []
    for index, width in enumerate(after):
        if index >= len(before):
            layers.append(Sequential(separable_step(before[-1], width)))
        elif before[index] != width:
            layers.append(separable_step(before[index], width, stride=1))
        else:
            layers.append(Identity())
    return LayerList(layers)
