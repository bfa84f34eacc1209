"""HRNet: a network that keeps its high resolution from the stem to the end.

Sun, Xiao, Liu, Wang: "Deep High-Resolution Representation Learning for Human Pose Estimation",
CVPR 2019. Layers are named as in PaddleDetection, so that its published weights fit.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.nn import Identity, Layer

from tasks.keypoint.models.conv_norm import ConvNorm, resize_like

WIDTHS = MappingProxyType({"hrnet_w32": 32, "hrnet_w48": 48})
STEM_CHANNELS = 64
BOTTLENECKS = 4
BLOCKS_PER_BRANCH = 4
MODULES = (1, 4, 3)  # in the stages with two, three and four branches
STD = 0.01  # standard deviation of fresh weights


class Bottleneck(Layer):
    """Residual block 1x1, 3x3, 1x1 whose output has four times its inner channels."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.conv1 = ConvNorm(in_channels, channels, activation="relu", std=STD)
        self.conv2 = ConvNorm(channels, channels, 3, activation="relu", std=STD)
        self.conv3 = ConvNorm(channels, wide, std=STD)
        self.conv_down = Identity() if in_channels == wide else ConvNorm(in_channels, wide, std=STD)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(paddle.add(self.conv_down(x), self.conv3(self.conv2(self.conv1(x)))))


class BasicBlock(Layer):
    """Residual block of two 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 3, activation="relu", std=STD)
        self.conv2 = ConvNorm(channels, channels, 3, std=STD)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(paddle.add(x, self.conv2(self.conv1(x))))


class Bottlenecks(Layer):
    """The first stage, at stride 4 and without branches."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        for index in range(BOTTLENECKS):
            block = Bottleneck(in_channels if index == 0 else 4 * channels, channels)
            self.add_sublayer(f"block_layer2_{index + 1}", block)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.children():
            x = block(x)
        return x


class Transition(Layer):
    """Adapt the branches to the widths of the next stage, and open one at half the resolution."""

    def __init__(self, name: str, before: list[int], after: list[int]) -> None:
        super().__init__()
        self.names = [f"transition_{name}_layer_{index + 1}" for index in range(len(after))]
        for index, width in enumerate(after):
            layer: Layer = Identity()
            if index >= len(before):
                layer = ConvNorm(before[-1], width, 3, stride=2, activation="relu", std=STD)
            elif before[index] != width:
                layer = ConvNorm(before[index], width, 3, activation="relu", std=STD)
            self.add_sublayer(self.names[index], layer)

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        last = len(branches) - 1
        return [
            getattr(self, name)(branches[min(index, last)]) for index, name in enumerate(self.names)
        ]


class Branches(Layer):
    """Residual blocks, branch by branch."""

    def __init__(self, name: str, channels: list[int]) -> None:
        super().__init__()
        # names, not layers, are kept in lists: a layer that is replaced later must be seen
        self.names = [
            [f"bb_{name}_branch_layer_{branch + 1}_{i + 1}" for i in range(BLOCKS_PER_BRANCH)]
            for branch in range(len(channels))
        ]
        for names, width in zip(self.names, channels):
            for block in names:
                self.add_sublayer(block, BasicBlock(width))

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        outputs = []
        for names, x in zip(self.names, branches):
            for block in names:
                x = getattr(self, block)(x)
            outputs.append(x)
        return outputs


class Fusion(Layer):
    """Every output branch is the sum of all branches, brought to its resolution."""

    def __init__(self, name: str, channels: list[int], outputs: int) -> None:
        super().__init__()
        self.paths: list[list[list[str]]] = []
        for target in range(outputs):
            row = []
            for source in range(len(channels)):
                stem = f"residual_{name}_layer_{target + 1}_{source + 1}"
                row.append(self._add_path(stem, channels, source, target))
            self.paths.append(row)

    def _add_path(self, name: str, channels: list[int], source: int, target: int) -> list[str]:
        """Add the layers from one branch to another and return their names."""
        width = channels[source]
        if source > target:
            self.add_sublayer(name, ConvNorm(width, channels[target], std=STD))
            return [name]
        names = [f"{name}_{step + 1}" for step in range(target - source)]
        for step, layer in enumerate(names, start=source + 1):
            last = step == target
            wide = channels[target] if last else width
            activation: Literal["relu"] | None = None if last else "relu"
            self.add_sublayer(
                layer, ConvNorm(width, wide, 3, stride=2, activation=activation, std=STD)
            )
        return names

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        outputs = []
        for target, row in enumerate(self.paths):
            total = branches[target]
            for source, names in enumerate(row):
                if source == target:
                    continue
                x = branches[source]
                for name in names:
                    x = getattr(self, name)(x)
                total = paddle.add(total, resize_like(x, branches[target]))
            outputs.append(F.relu(total))
        return outputs


class Module(Layer):
    """Branches side by side, then their fusion into the first `outputs` of them."""

    def __init__(self, name: str, channels: list[int], outputs: int) -> None:
        super().__init__()
        self.branches_func = Branches(name, channels)
        self.fuse_func = Fusion(name, channels, outputs)

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        return self.fuse_func(self.branches_func(branches))


class Stage(Layer):
    """A chain of modules; the last one of a network yields only the finest branch."""

    def __init__(self, name: str, channels: list[int], modules: int, *, last: bool) -> None:
        super().__init__()
        for index in range(1, modules + 1):
            outputs = 1 if last and index == modules else len(channels)
            module = Module(f"{name}_{index}", channels, outputs)
            self.add_sublayer(f"stage_{name}_{index}", module)

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        for module in self.children():
            branches = module(branches)
        return branches


class HRNet(Layer):
    """HRNet from the image [N, 3, H, W] to features [N, width, H/4, W/4].

    Args:
        name: `hrnet_w32` or `hrnet_w48`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        width = self.out_channels = WIDTHS[name]
        stem = STEM_CHANNELS
        self.conv_layer1_1 = ConvNorm(3, stem, 3, stride=2, activation="relu", std=STD)
        self.conv_layer1_2 = ConvNorm(stem, stem, 3, stride=2, activation="relu", std=STD)
        self.la1 = Bottlenecks(stem, stem)
        before = [4 * stem]
        for index, modules in enumerate(MODULES, start=1):
            channels = [width << branch for branch in range(index + 1)]
            stage = f"st{index + 1}"
            self.add_sublayer(f"tr{index}", Transition(f"tr{index}", before, channels))
            self.add_sublayer(stage, Stage(stage, channels, modules, last=index == len(MODULES)))
            before = channels

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.la1(self.conv_layer1_2(self.conv_layer1_1(x)))]
        for transition, stage in self._branched():
            branches = stage(transition(branches))
        return branches[0]

    def stages(self) -> list[list[Layer]]:
        """Return the layers in groups that may be frozen, from the image on."""
        stem = [self.conv_layer1_1, self.conv_layer1_2]
        return [stem, [self.la1], *(list(pair) for pair in self._branched())]

    def _branched(self) -> list[tuple[Layer, Layer]]:
        return [(self.tr1, self.st2), (self.tr2, self.st3), (self.tr3, self.st4)]


__all__ = ["WIDTHS", "HRNet"]
