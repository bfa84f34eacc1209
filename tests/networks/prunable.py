"""Random networks: blocks that put out maps [N, C, H, W], strung together in any order.

Blocks derive every number from the shapes they see, but for those in `FIXED`, whose code holds
numbers of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.nn import Layer
from paddle.nn import functional as F

from core.network.channels import ChannelShuffle, ChannelSplit

Choose = Callable[[Sequence[Any]], Any]  # one of the values
WIDTHS = (2, 3, 4, 6, 8, 12)


class Convolution(Layer):
    """Dense, grouped, depthwise, with a channel multiplier; perhaps padded otherwise than by 0."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        channels = x.shape[1]
        kind = choose(("dense", "dense", "dense", "depthwise", "multiplier", "grouped"))
        divisors = [g for g in range(2, channels) if channels % g == 0] or [1]
        groups = {"dense": 1, "grouped": choose(divisors)}.get(kind, channels)
        out = {
            "dense": choose(WIDTHS),
            "depthwise": channels,
            "multiplier": channels * choose((2, 3)),
            "grouped": groups * choose((1, 2, 3, 4)),
        }[kind]
        self.conv = nn.Conv2D(
            channels, out, choose((1, 3)), choose((1, 1, 2)), "SAME", groups=groups,
            bias_attr=None if choose((True, False)) else False,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Transposed(Layer):
    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        channels = x.shape[1]
        groups = choose([g for g in range(1, channels + 1) if channels % g == 0])
        self.conv = nn.Conv2DTranspose(
            channels, groups * choose((1, 2, 3)), 2, choose((1, 2)), groups=groups,
            bias_attr=None if choose((True, False)) else False,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Norm(Layer):
    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        channels = x.shape[1]
        groups = choose([g for g in range(1, channels + 1) if channels % g == 0])
        affine = None if choose((True, True, False)) else False
        kind = choose(("batch", "batch", "old", "group", "instance"))
        self.norm = {
            "batch": lambda: nn.BatchNorm2D(channels, weight_attr=affine, bias_attr=affine),
            "old": lambda: nn.BatchNorm(channels, act="relu", dtype="float64"),
            "group": lambda: nn.GroupNorm(groups, channels, weight_attr=affine, bias_attr=affine),
            "instance": lambda: nn.InstanceNorm2D(channels, weight_attr=affine, bias_attr=affine),
        }[kind]()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class TokenNorm(Layer):
    """Layer normalization and a perceptron on tokens [N, H * W, C], as transformers have it."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        channels = x.shape[1]
        self.norm = nn.LayerNorm(channels) if choose((True, False)) else None
        self.rise, self.fall = nn.Linear(channels, choose(WIDTHS)), None
        self.fall = nn.Linear(self.rise.weight.shape[1], channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose([0, 2, 1])
        normed = tokens if self.norm is None else self.norm(tokens)
        tokens = tokens + self.fall(F.gelu(self.rise(normed)))
        return tokens.transpose([0, 2, 1]).reshape(x.shape)


class MapNorm(Layer):
    """Layer normalization over [C, H, W]."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(x.shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Activation(Layer):
    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        kinds = (nn.ReLU, nn.Hardswish, nn.Sigmoid, nn.PReLU, nn.Swish, nn.Dropout, PerChannelPReLU)
        kind = choose(kinds)
        self.act = kind(x.shape[1]) if kind is PerChannelPReLU else kind()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


class PerChannelPReLU(nn.PReLU):
    pass


class Resample(Layer):
    """Pooling, resizing, padding, pixel shuffles and spatial slices."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        _, channels, height, width = x.shape
        kinds = ["global", "adaptive", "global_max", "pad", "crop", "roll", "replace"]
        if min(height, width) > 1:
            kinds += ["max", "average"]
        if max(height, width) < 9:
            kinds += ["nearest", "bilinear"]
        if channels % 4 == 0 and max(height, width) < 9:
            kinds += ["shuffle", "shuffle"]
        if height % 2 == width % 2 == 0 and channels < 9:
            kinds.append("unshuffle")
        self.kind = choose(kinds)

    def forward(self, x: Tensor) -> Tensor:
        kinds: dict[str, Callable[[], Tensor]] = {
            "global": lambda: x.mean([2, 3], keepdim=True),
            "adaptive": lambda: F.adaptive_avg_pool2d(x, (2, 3)),
            "global_max": lambda: F.adaptive_max_pool2d(x, 1),
            "pad": lambda: F.pad(x, [1, 1, 0, 1], mode="replicate"),
            "crop": lambda: x[:, :, :1],
            "roll": lambda: paddle.roll(x, (1, -1), (2, 3)),
            "replace": lambda: _with_other_rows(x),
            "max": lambda: F.max_pool2d(x, 2, 2),
            "average": lambda: F.avg_pool2d(x, 3, 2, 1),
            "nearest": lambda: F.interpolate(x, scale_factor=2),
            "bilinear": lambda: F.interpolate(x, scale_factor=2, mode="bilinear"),
            "shuffle": lambda: F.pixel_shuffle(x, 2),
            "unshuffle": lambda: F.pixel_unshuffle(x, 2),
        }
        return kinds[self.kind]()


def _with_other_rows(x: Tensor) -> Tensor:
    y = x + 1
    y[:, :, :1] = y[:, :, :1] * x[:, :, -1:]
    return y


class Gate(Layer):
    """Squeeze-and-excitation, by convolutions or by linear layers, or a scale per channel."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        channels, between = x.shape[1], choose(WIDTHS)
        self.kind = choose(("conv", "linear", "scale"))
        if self.kind == "conv":
            self.squeeze = nn.Conv2D(channels, between, 1)
            self.excite = nn.Conv2D(between, channels, 1)
        elif self.kind == "linear":
            self.squeeze = nn.Linear(channels, between)
            self.excite = nn.Linear(between, channels, bias_attr=False)
        else:
            shape = choose(([1, channels, 1, 1], [channels, 1, 1]))
            self.scale = self.create_parameter(shape)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "scale":
            return x * self.scale
        if self.kind == "conv":
            pooled = F.adaptive_avg_pool2d(x, 1)
            return x * F.hardsigmoid(self.excite(F.relu(self.squeeze(pooled))))
        pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
        gate = F.sigmoid(self.excite(F.relu(self.squeeze(pooled))))
        return x * gate.reshape([0, -1, 1, 1])


class SpatialGate(Layer):
    """Weigh places by the mean and the maximum over channels (Woo et al., ECCV 2018)."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        self.conv = nn.Conv2D(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        both = paddle.concat([x.mean(1, keepdim=True), x.max(1, keepdim=True)], 1)
        return x * F.sigmoid(self.conv(both))


class NonLocal(Layer):
    """Attention between places, or between channels (Wang et al., CVPR 2018)."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        channels, between = x.shape[1], choose(WIDTHS)
        self.among_channels = choose((True, False))
        self.query = nn.Conv2D(channels, between, 1)
        self.key = nn.Conv2D(channels, choose(WIDTHS) if self.among_channels else between, 1)
        self.value = nn.Conv2D(channels, self.key.weight.shape[0], 1)
        self.softmax = choose((True, False))
        self.out = nn.Conv2D(between if self.among_channels else self.value.weight.shape[0], 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        query, key, value = (part(x).flatten(2) for part in (self.query, self.key, self.value))
        if self.among_channels:
            weights = paddle.matmul(query, key, transpose_y=True)
            weights = F.softmax(weights) if self.softmax else weights
            found = paddle.matmul(weights, value)
        else:
            weights = paddle.matmul(query, key, transpose_x=True)
            weights = F.softmax(weights) if self.softmax else weights
            found = paddle.matmul(value, weights, transpose_y=True)
        return self.out(found.reshape([0, -1, *size]))


class Shared(Layer):
    """The same convolution twice, with norms of their own."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        channels = x.shape[1]
        groups = choose((1, 1, channels))
        self.conv = nn.Conv2D(channels, channels, 3, padding=1, groups=groups)
        self.norms = nn.LayerList([nn.BatchNorm2D(channels) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = F.relu(norm(self.conv(x)))
        return x


class ShuffleByShape(Layer):
    """Deal channels out to groups; how many there are in a group follows from the shape."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        channels = x.shape[1]
        few = [g for g in (2, 3) if channels % g == 0 and channels // g >= g]
        self.groups = choose(few or [1])
        self.operator = choose((True, False))

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        if self.operator:
            return F.channel_shuffle(x, self.groups)
        x = x.reshape([0, self.groups, channels // self.groups, height, width])
        return x.transpose([0, 2, 1, 3, 4]).reshape([0, channels, height, width])


class HalvesApart(Layer):
    """Cut in equal parts, work on one, put them together."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        channels = x.shape[1]
        self.count = choose([n for n in (2, 3, 1) if channels % n == 0 and channels > n])
        part = channels // self.count
        self.conv = nn.Conv2D(part, part if choose((True, False)) else choose(WIDTHS), 1)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = paddle.chunk(x, self.count, axis=1)
        return paddle.concat([self.conv(first), *others], 1)


class OwnShuffle(Layer):
    """Our own layers: uneven parts, then channels in turn from two halves."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        channels = x.shape[1]
        first = choose(range(1, channels))
        self.split = ChannelSplit([first, channels - first])
        self.conv = nn.Conv2D(channels - first, first, 1)
        self.mix = choose((True, False))
        self.shuffle = ChannelShuffle()

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.split(x)
        if self.mix:
            return self.shuffle(first, self.conv(second))
        return paddle.concat([second, first], 1)


class Odd(Layer):
    """What mixes channels by their numbers, or what nobody has a rule for."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        self.kind = choose(("cumsum", "flip", "roll", "slice", "one", "softmax", "kernel", "sort"))
        self.conv = nn.Conv1D(x.shape[1], 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        kinds: dict[str, Callable[[], Tensor]] = {
            "cumsum": lambda: paddle.cumsum(x, 1),
            "flip": lambda: paddle.flip(x, [1]),
            "roll": lambda: paddle.roll(x, 1, 1),
            "slice": lambda: x[:, 1:],
            "one": lambda: x[:, 0].unsqueeze(1) * x,
            "softmax": lambda: F.softmax(x, 1),
            "kernel": lambda: self.conv(x.flatten(2)).unsqueeze(-1),
            "sort": lambda: paddle.sort(x, 1),
        }
        return kinds[self.kind]()


class Turned(Layer):
    """Work along height or places as if they were channels, and the other way round."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        _, _, height, width = x.shape
        self.kind = choose(("mixer", "conv", "pool", "norm", "resize"))
        self.mixer = nn.Linear(height * width, height * width)
        self.conv = nn.Conv2D(height, height, 3, padding=1)
        self.norm = nn.BatchNorm2D(height)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "mixer":
            return self.mixer(x.flatten(2)).reshape(x.shape)
        turned = x.transpose([0, 2, 1, 3])
        kinds: dict[str, Callable[[], Tensor]] = {
            "conv": lambda: self.conv(turned),
            "pool": lambda: F.avg_pool2d(turned, 3, 1, 1),
            "norm": lambda: self.norm(turned),
            "resize": lambda: F.interpolate(turned, [x.shape[1] + 1, x.shape[3]]),
        }
        return kinds[self.kind]().transpose([0, 2, 1, 3])


class Heads(Layer):
    """Several heads of attention; their number, or their width, is written in the code."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        channels = x.shape[1]
        self.heads = choose([h for h in (1, 2, 3, 4) if channels % h == 0])
        self.width = channels // self.heads if choose((True, False)) else None
        self.all = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose([0, 2, 1])
        count = tokens.shape[1]
        heads = self.all(tokens).reshape([0, count, 3, self.heads, self.width or -1])
        query, key, value = heads.transpose([2, 0, 3, 1, 4])
        weights = F.softmax(paddle.matmul(query, key, transpose_y=True))
        found = paddle.matmul(weights, value).transpose([0, 2, 1, 3])
        tokens = tokens + self.out(found.reshape([0, count, -1]))
        return tokens.transpose([0, 2, 1]).reshape(x.shape)


class Unflatten(Layer):
    """A linear layer whose numbers become a map."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        _, channels, height, width = x.shape
        out = choose((2, 3, 4))
        self.size = [height, width]
        self.channels = out if choose((True, False)) else -1
        self.linear = nn.Linear(channels * height * width, out * height * width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(x.flatten(1))).reshape([0, self.channels, *self.size])
