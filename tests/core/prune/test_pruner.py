"""Cutting whatever the code of a network holds: pins, heads of training, functional layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from outside.toy import Config, DataConfig, Task
from paddle import nn
from paddle.nn import functional as F
from paddle.static import InputSpec

from core.errors import ConfigError
from core.prune.pruner import Pruner, build_pruner
from core.prune.structure.analysis import Analysis, Pins
from core.prune.structure.graph import trace_modes
from tests.networks.rules import analyze

SPECS = [InputSpec([1, 3, 8, 8], "float32", "x")]


def half(analysis: Analysis) -> Any:
    keep = analysis.keep_all()
    for group in analysis.groups:
        keep[group.units[: len(group) // 2]] = False
    return keep


class Strict(nn.Layer):
    """Raises by itself where it is given another number of channels; it calls no operator."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2D(16, 16, 3, padding=1), nn.BatchNorm2D(16)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if x.shape[1] != 16:
            raise ValueError(f"expected 16 channels, got {x.shape[1]}")
        return self.norm(self.conv(x))


def test_a_block_that_counts_its_channels_keeps_them() -> None:
    model = nn.Sequential(nn.Conv2D(3, 16, 3), nn.Conv2D(16, 16, 1), Strict(), nn.Conv2D(16, 4, 1))
    pruner = Pruner(model, SPECS)
    pruner.cut(half)
    assert model[1].weight.shape == [16, 8, 1, 1]
    assert model(paddle.randn([2, 3, 8, 8])).shape == [2, 4, 6, 6]
    reasons = {fixed.layer: str(fixed.reason) for fixed in pruner.analysis.fixed}
    assert "its code holds or computes numbers of channels" in reasons["1"]


class Attention(nn.Layer):
    """Mixes channels by heads as vision transformers do: it computes with its input's width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        count, width = x.shape[1:]
        heads = self.qkv(x).reshape((-1, count, 3, 2, width // 2)).transpose((2, 0, 3, 1, 4))
        query, key, value = heads[0], heads[1], heads[2]
        weights = F.softmax(query.matmul(key.transpose((0, 1, 3, 2))), axis=-1)
        mixed = weights.matmul(value).transpose((0, 2, 1, 3)).reshape((-1, count, width))
        return self.proj(mixed)


class Block(nn.Layer):
    """Attention and two linear layers, each beside a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.norm = Attention(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x + self.attention(x)
        return x + self.narrow(F.gelu(self.wide(self.norm(x))))


class Tokens(nn.Layer):
    """Patches of an image as tokens through blocks of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2D(3, 8, 4, stride=4), nn.Linear(8, 2)
        self.blocks = nn.Sequential(*[Block(8) for _ in range(3)])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).transpose((0, 2, 1))).mean(axis=1))


def test_the_width_that_a_block_computes_with_is_that_of_its_input(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    model = Tokens()
    pruner = Pruner(model, SPECS, {"head": "the task needs its channels"})

    def one_less(analysis: Analysis) -> Any:
        keep = analysis.keep_all()
        for group in analysis.groups:
            keep[group.units[:1]] = False
        return keep

    cut = pruner.cut(one_less)
    for block in model.blocks:
        assert block.wide.weight.shape == [8, 31]
        assert block.attention.qkv.weight.shape == [8, 24]
    assert cut.parameters[1] < cut.parameters[0]
    out = model(paddle.randn([2, 3, 8, 8]))
    out.sum().backward()
    assert out.shape == [2, 2]
    reasons = {fixed.layer: str(fixed.reason) for fixed in pruner.analysis.fixed}
    why = "its code computes with the number of channels of its input"
    assert reasons["patches"] == f"blocks.0.attention: {why}"
    assert reasons["blocks.1.narrow"] == f"blocks.0.attention: {why}"
    assert "reshape2: its code holds or computes" in reasons["blocks.2.attention.qkv"]
    # layers of one class are pinned together, not block by block
    assert len([r for r in caplog.records if "channels stay where code" in r.getMessage()]) <= 3


class LeftOpen(Attention):
    """Leaves the number of tokens open, so that fewer channels give fewer tokens (as in SVTR)."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        heads = self.qkv(x).reshape((0, -1, 3, 2, 4)).transpose((2, 0, 3, 1, 4))
        query, key, value = heads[0], heads[1], heads[2]
        weights = F.softmax(query.matmul(key.transpose((0, 1, 3, 2))), axis=-1)
        mixed = weights.matmul(value).transpose((0, 2, 1, 3)).reshape((0, -1, 8))
        return self.proj(mixed)


class ReadElsewhere(Attention):
    """Reshapes one tensor by the width of another, and computes a size as a tensor."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        third = self.qkv(x)
        width = third.shape[2] // 3
        heads = third.reshape((third.shape[0], third.shape[1], 3, width)).transpose((2, 0, 1, 3))
        mixed = self.proj(heads[0] * heads[1] + heads[2])
        count = paddle.to_tensor(x.shape[1], "int32")
        return mixed.reshape((x.shape[0], count, 2, width // 2)).flatten(2)


@pytest.mark.parametrize(("kind", "layer"), [(LeftOpen, "qkv"), (ReadElsewhere, "qkv")])
def test_numbers_are_pinned_where_they_are_held(kind: type[Attention], layer: str) -> None:
    model = Tokens()
    for block in model.blocks:
        block.attention = kind(8)
    pruner = Pruner(model, SPECS, {"head": "the task needs its channels", "patches": "kept"})
    cut = pruner.cut(half)
    assert cut.parameters[1] < cut.parameters[0]
    reasons = {fixed.layer: str(fixed.reason) for fixed in pruner.analysis.fixed}
    for index, block in enumerate(model.blocks):
        assert block.wide.weight.shape[1] == 16
        attention = f"blocks.{index}.attention"
        assert "its code holds or computes" in reasons[f"{attention}.{layer}"]
        assert reasons[f"{attention}.{layer}"].startswith(attention)
    assert model(paddle.randn([2, 3, 8, 8])).shape == [2, 2]


class Glances(nn.Layer):
    """Looks at a weight that no operator reads, which is declared in the graph all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2D(3, 8, 1), nn.Conv2D(8, 2, 1)
        self.spare = self.create_parameter([4, 4])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        assert self.spare is not None
        return self.other(self.one(x))


def test_a_weight_that_nothing_reads_stays() -> None:
    model = Glances()
    cut = Pruner(model, SPECS, {"other": "kept"}).cut(half)
    assert model.one.weight.shape[0] == 4
    assert model.spare.shape == [4, 4]
    assert cut.edit.kept.keys() == {"one.weight", "one.bias", "other.weight"}


class OwnMode(nn.Layer):
    """Has a head that only training runs, and a switch of its own for it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.aux = nn.Conv2D(3, 16, 3), nn.Linear(16, 2), nn.Linear(16, 3)
        self.with_aux = True

    def forward(self, x: paddle.Tensor) -> Any:
        y = self.conv(x).mean([2, 3])
        return [self.head(y), self.aux(y)] if self.with_aux else self.head(y)


class Switching(OwnMode):
    def train(self) -> None:
        super().train()
        self.with_aux = True

    def eval(self) -> None:
        super().eval()
        self.with_aux = False


def test_heads_of_training_are_cut_too() -> None:
    model = Switching()
    assert set(trace_modes(model, SPECS)) == {True, False}
    Pruner(model, SPECS).cut(half)
    model.train()
    assert [y.shape for y in model(paddle.randn([2, 3, 8, 8]))] == [[2, 2], [2, 3]]


def test_weights_that_evaluation_does_not_read_ask_for_both_traces() -> None:
    model = OwnMode()
    model.with_aux = False
    assert set(trace_modes(model, SPECS)) == {True, False}
    assert set(trace_modes(nn.Sequential(nn.Conv2D(3, 4, 1)), SPECS)) == {False}


class Functional(nn.Layer):
    """Calls functions on weights of its own; `groups` is a number or follows the input."""

    def __init__(self, groups: int | None) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2D(3, 8, 1), nn.Conv2D(8, 2, 1)
        self.kernel = self.create_parameter([8, 1, 3, 3])
        self.scale = self.create_parameter([8])
        self.groups = groups

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.stem(x)
        y = F.conv2d(y, self.kernel, padding=1, groups=self.groups or y.shape[1])
        y = F.layer_norm(y.transpose([0, 2, 3, 1]), [y.shape[1]], self.scale)
        return self.head(y.transpose([0, 3, 1, 2]))


@pytest.mark.parametrize(("groups", "left"), [(None, 4), (8, 8)])
def test_functions_on_own_weights_are_cut_where_their_numbers_follow(
    groups: int | None, left: int
) -> None:
    model = Functional(groups)
    Pruner(model, SPECS).cut(half)
    assert model.stem.weight.shape[0] == model.kernel.shape[0] == model.scale.shape[0] == left
    assert model(paddle.randn([1, 3, 8, 8])).shape == [1, 2, 8, 8]


class TwoWeights(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (self.create_parameter(shape) for shape in ([3, 8], [8, 6]))
        self.head = nn.Linear(6, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = x.mean([2, 3])
        return self.head(F.relu(F.relu(y.matmul(self.one)).matmul(self.two)))


def test_groups_of_one_layer_have_names_of_their_own() -> None:
    assert [group.name for group in analyze(TwoWeights(), SPECS).groups] == ["one", "two"]


def test_a_block_in_never_prune_protects_what_is_in_it(tmp_path: Any) -> None:
    model = nn.Sequential(
        nn.Conv2D(3, 8, 1), nn.Sequential(nn.Conv2D(8, 8, 1), nn.ReLU()), nn.Conv2D(8, 2, 1)
    )
    found = analyze(model, SPECS, Pins(layers={"1": "never_prune"}))
    assert [group.name for group in found.groups] == ["0"]
    task = Task(Config(DataConfig(str(tmp_path))))
    for glob in ("norm", "drop"):
        with pytest.raises(ConfigError, match="names no layer that makes channels"):
            build_pruner(task, task.build_model(), [glob])
    assert build_pruner(task, task.build_model(), ["conv"]).analysis.groups == []


def test_a_cut_is_what_zeroed_channels_would_give() -> None:
    paddle.seed(4)
    model = nn.Sequential(
        nn.Conv2D(3, 8, 3), nn.BatchNorm2D(8), nn.Hardsigmoid(), nn.Conv2D(8, 4, 1)
    )
    model.eval()
    x = paddle.randn([2, 3, 8, 8])
    pruner = Pruner(model, SPECS)
    with paddle.no_grad():
        masked = model[3].weight.numpy().copy()
        masked[:, :4] = 0
        kernel = model[3].weight
        original = kernel.numpy()
        kernel.set_value(masked)
        expected = model(x).numpy()
        kernel.set_value(original)
        pruner.cut(half)
        np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-5, atol=1e-6)
