"""Networks that split, join and shuffle channels at random, and a run of their graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.inference import Config, create_predictor
from paddle.static import InputSpec

from core.graph.batch_norm_folding import trace_folded
from core.graph.program import Graph
from core.network.channels import ChannelShuffle, ChannelSplit

CHANNELS, SIZE = 8, 4
MOVES = (
    *("unit", "shuffle", "select", "turn", "convolve"),
    *("by_channel", "add", "gate", "group", "softmax"),
)


class ShuffleUnit(nn.Layer):
    """Half the channels pass convolutions, then all are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.split, self.shuffle = ChannelSplit([half, half]), ChannelShuffle()
        self.first, self.last = nn.Conv2D(half, half, 1), nn.Conv2D(half, half, 1)
        self.middle = nn.Conv2D(half, half, 3, padding=1, groups=half)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = self.split(x)
        return self.shuffle(kept, F.relu(self.last(self.middle(F.relu(self.first(changed))))))


class Weighted(nn.Layer):
    """Half the channels are weighted by themselves, then all are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.split, self.shuffle = ChannelSplit([half, half]), ChannelShuffle()
        self.weights = nn.Conv2D(half, half, 1)
        self.middle = nn.Conv2D(half, half, 3, padding=1, groups=half)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = self.split(x)
        changed = self.middle(changed)
        weights = F.sigmoid(self.weights(F.adaptive_avg_pool2d(changed, 1)))
        return self.shuffle(kept, changed * weights)


class Shuffled(nn.Layer):
    """A chain of moves, each on a tensor made before; returns the last tensors in two outputs.

    Args:
        moves: Names of `MOVES`, each with a number that chooses what it works on.
    """

    def __init__(self, moves: Sequence[tuple[str, int]]) -> None:
        super().__init__()
        self.moves = list(moves)
        self.stem = nn.Conv2D(3, CHANNELS, 1)
        self.shuffle, self.split = ChannelShuffle(), ChannelSplit([CHANNELS // 4] * 4)
        self.select = ChannelShuffle()
        self.select.order = [3, 0, 7, 1, 6, 2, 4, 5]  # as pruning leaves one
        self.layers = nn.LayerList([_layer_of(name) for name, _ in moves])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = [F.relu(self.stem(image))]
        for (name, choice), layer in zip(self.moves, self.layers):
            x, other = maps[-1 - choice % 2 % len(maps)], maps[choice % len(maps)]
            if name == "shuffle":
                a, b, c, d = self.split(x)
                x = self.shuffle(paddle.concat([a, d], axis=1), paddle.concat([c, b], axis=1))
            elif name == "select":
                a, b, c, d = self.split(x)
                x = self.select(paddle.concat([d, a, c], axis=1), b)
            elif name == "turn":
                a, b, c, d = self.split(x)
                x = paddle.concat([d, self.split(other)[1], b, a], axis=1)
            elif name == "add":
                x = x + F.relu(other)
            elif name == "softmax":
                x = F.softmax(x, axis=1)
            else:
                x = layer(x)
            maps.append(x)
        return {"last": maps[-1], "before": maps[-2] * 2.0}


def _layer_of(name: str) -> nn.Layer:
    if name in ("unit", "gate"):
        return ShuffleUnit(CHANNELS) if name == "unit" else Weighted(CHANNELS)
    groups = {"by_channel": CHANNELS, "group": 2}.get(name, 1)
    return nn.Conv2D(CHANNELS, CHANNELS, 3, padding=1, groups=groups)


class Chain(nn.Layer):
    """Blocks on more channels, between two dense convolutions."""

    def __init__(self, block: type[nn.Layer], count: int, channels: int = 16) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2D(3, channels, 1), nn.Conv2D(channels, 4, 1)
        self.blocks = nn.Sequential(*(block(channels) for _ in range(count)))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(image))))


class Residual(nn.Layer):
    """Two modules of two blocks: what a module makes is added to, and taken apart again."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain(ShuffleUnit, 2, 32)
        self.paths = nn.LayerList([nn.Conv2D(32, 32, 1) for _ in range(2)])
        self.again = nn.Sequential(ShuffleUnit(32), ShuffleUnit(32))

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.chain.stem(image))
        for path, blocks in zip(self.paths, (self.chain.blocks, self.again)):
            x = F.relu(blocks(x) + path(x))
        return self.chain.head(x)


class Irregular(nn.Layer):
    """Units whose shuffles keep an order that pruning left, so that something must be selected."""

    def __init__(self, channels: int = CHANNELS, units: int = 4) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2D(3, channels, 1), nn.Conv2D(channels, 4, 1)
        self.units = nn.Sequential(*(ShuffleUnit(channels) for _ in range(units)))
        rng = np.random.default_rng(0)
        for layer in self.units.sublayers():
            if isinstance(layer, ChannelShuffle):
                layer.order = rng.permutation(channels).tolist()

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        return self.head(F.relu(self.units(x)) + x)


def traced(model: nn.Layer, size: int = SIZE) -> Graph:
    """Return the graph of a network with random weights that reads images [N, 3, size, size]."""
    rng = np.random.default_rng(0)
    for weight in model.parameters():
        weight.set_value(rng.normal(0, 0.5, weight.shape).astype("float32"))
    return trace_folded(model, [InputSpec([None, 3, size, size], "float32", "image")])


def run(graph: Graph, folder: Path, names: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Run a graph in Paddle Inference on two images; return its outputs, or other tensors."""
    rng, asked = np.random.default_rng(1), list(names or graph.outputs)
    probe = replace(graph, outputs=asked)
    probe.drop_unused()
    files = folder / "model.pdmodel", folder / "model.pdiparams"
    probe.write(*files)
    config = Config(*(str(file) for file in files))
    config.disable_glog_info()
    config.switch_ir_optim(False)
    config.disable_mkldnn()
    predictor = create_predictor(config)
    shape = (2, *graph.shape(graph.inputs[0])[1:])
    image = rng.normal(0, 1, shape).astype("float32")
    predictor.get_input_handle(graph.inputs[0]).copy_from_cpu(image)
    predictor.run()
    return {name: predictor.get_output_handle(name).copy_to_cpu() for name in asked}
