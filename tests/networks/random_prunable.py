"""Networks of random blocks, for properties of pruning."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import Layer
from paddle.nn import functional as F

from tests.networks.prunable import (
    WIDTHS,
    Activation,
    Choose,
    Convolution,
    Gate,
    HalvesApart,
    Heads,
    MapNorm,
    NonLocal,
    Norm,
    Odd,
    OwnShuffle,
    Resample,
    Shared,
    ShuffleByShape,
    SpatialGate,
    TokenNorm,
    Transposed,
    Turned,
    Unflatten,
)


class Join(Layer):
    """Bring the second map to the size of the first, then add, multiply, choose, stack, concat."""

    def __init__(self, x: Tensor, y: Tensor, choose: Choose) -> None:
        super().__init__()
        self.kind = choose(("add", "add", "multiply", "maximum", "where", "stack", "concat"))
        self.pooled = choose((True, False, False)) and self.kind in ("add", "multiply", "maximum")
        self.swap = choose((True, False))
        fits = x.shape[1] == y.shape[1] or (y.shape[1] == 1 and self.kind in ("add", "multiply"))
        self.fit = (
            None if fits or self.kind == "concat" else nn.Conv2D(y.shape[1], x.shape[1], 1)
        )  # fmt: skip

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        y = y if self.fit is None else self.fit(y)
        if self.pooled:
            y = F.adaptive_avg_pool2d(y, 1)
        elif y.shape[2:] != x.shape[2:]:
            y = F.interpolate(y, x.shape[2:])
        x, y = (y, x) if self.swap else (x, y)
        kinds: dict[str, Callable[[], Tensor]] = {
            "add": lambda: x + y,
            "multiply": lambda: x * y,
            "maximum": lambda: paddle.maximum(x, y),
            "where": lambda: paddle.where(x > y, x, y * 2),
            "stack": lambda: paddle.stack([x, y], 1).sum(1),
            "concat": lambda: paddle.concat([x, y], 1),
        }
        return kinds[self.kind]()


class TogetherAndApart(Layer):
    """Concatenate two maps, work on both, cut them where they met; uneven parts."""

    def __init__(self, x: Tensor, y: Tensor, choose: Choose) -> None:
        super().__init__()
        both = x.shape[1] + y.shape[1]
        self.work = nn.Conv2D(both, both, 3, padding=1, groups=both)
        self.norm = nn.BatchNorm2D(both)
        self.second = choose((True, False))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        y = F.interpolate(y, x.shape[2:]) if y.shape[2:] != x.shape[2:] else y
        both = self.norm(self.work(paddle.concat([x, y], 1)))
        parts = paddle.split(both, [x.shape[1], y.shape[1]], 1)
        return parts[self.second]


ONE = (
    Convolution, Convolution, Convolution, Transposed, Norm, Norm, TokenNorm, MapNorm, Activation,
    Resample, Gate, SpatialGate, NonLocal, Shared, ShuffleByShape, HalvesApart, OwnShuffle, Odd,
    Turned, Heads, Unflatten,
)  # fmt: skip

TWO = (Join, Join, Join, TogetherAndApart)
FIXED = (Heads, Unflatten, Turned, ShuffleByShape)


class Random(Layer):
    """Blocks that read any earlier maps, and heads; one of them may exist in training alone."""

    def __init__(self, choose: Choose, depth: int) -> None:
        super().__init__()
        x = paddle.randn([1, 3, 8, 6])
        self.stem = nn.Conv2D(3, choose(WIDTHS), 3, padding=1)
        maps, self.reads = [self.stem(x)], []
        self.blocks = nn.LayerList()
        for _ in range(depth):
            reads = [choose((-1, -1, *range(len(maps))))]
            if choose((True, False, False)):
                reads.append(choose(range(len(maps))))
            kind = choose(ONE if len(reads) == 1 else TWO)
            read = [maps[index] for index in reads]
            if len(reads) == 1 and read[0].shape[1] < 2:
                kind = Convolution
            block = kind(*read, choose)
            block.eval()
            out = block(*read)
            if out.shape[1] > 32 or max(out.shape[2:]) > 20:
                continue
            maps.append(out)
            self.blocks.append(block)
            self.reads.append(reads)
        self.heads = nn.LayerList()
        self.head_reads = [-1, *([choose(range(len(maps)))] if choose((True, False)) else [])]
        for index in self.head_reads:
            self.heads.append(Head(maps[index], choose))
        self.aux = Head(maps[len(maps) // 2], choose) if choose((True, False)) else None
        self.aux_read = len(maps) // 2

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.stem(x)]
        for block, reads in zip(self.blocks, self.reads):
            maps.append(block(*[maps[index] for index in reads]))
        outputs = [head(maps[index]) for head, index in zip(self.heads, self.head_reads)]
        if self.training and self.aux is not None:
            outputs.append(self.aux(maps[self.aux_read]))
        return outputs


class Head(Layer):
    """A map of classes, or numbers after flattening or averaging, or the map as it is."""

    def __init__(self, x: Tensor, choose: Choose) -> None:
        super().__init__()
        self.kind = choose(("map", "flat", "mean", "raw"))
        self.size = choose((None, None, "computed"))
        x = self.resize(x)
        if self.kind == "map":
            self.last = nn.Conv2D(x.shape[1], 2, 1)
        elif self.kind in ("flat", "mean"):
            count = int(np.prod(x.shape[1:])) if self.kind == "flat" else x.shape[1]
            self.hidden = nn.Linear(count, choose(WIDTHS))
            self.last = nn.Linear(self.hidden.weight.shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.resize(x)
        if self.kind == "raw":
            return x
        if self.kind == "map":
            return self.last(x)
        x = x.flatten(1) if self.kind == "flat" else x.mean([2, 3])
        return self.last(F.relu(self.hidden(x)))

    def resize(self, x: Tensor) -> Tensor:
        if self.size is None:
            return x
        size = paddle.shape(x)[2:] * 2 if self.size == "computed" else [2 * s for s in x.shape[2:]]
        return F.interpolate(x, size, mode="bilinear")


def randomize(model: Layer, seed: int) -> None:
    """Give every weight, bias and running statistic a value of its own."""
    rng = np.random.default_rng(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        values = rng.normal(size=tensor.shape)
        if name.rpartition(".")[2] in ("_mean", "_variance", "weight", "scale"):
            values = values / np.sqrt(max(1, np.prod(tensor.shape[1:])))
        if name.endswith("_variance"):
            values = 0.5 + np.abs(values)
        tensor.set_value(values.astype(tensor.numpy().dtype))
