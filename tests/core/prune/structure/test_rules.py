"""Which positions go with which, operator by operator; all positions worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import paddle
import pytest
from paddle import Tensor, nn
from paddle.nn import Layer
from paddle.nn import functional as F

from core.network.channels import ChannelShuffle, ChannelSplit
from core.prune.cut import apply_edit, plan_edit
from tests.networks.rules import Net, analyze, conv, cut, specs

Kept = Mapping[str, Mapping[int, Sequence[int]]]


def shuffle(x: Tensor) -> Tensor:
    _, channels, height, width = x.shape
    x = x.reshape([0, 2, channels // 2, height, width]).transpose([0, 2, 1, 3, 4])
    return x.reshape([0, channels, height, width])


def heads_of(x: Tensor, dealt: int) -> Tensor:
    """[N, T, C] -> [dealt, N, 2 heads, T, width]."""
    count, width = x.shape[1], x.shape[2] // (2 * dealt)
    return x.reshape([0, count, dealt, 2, width]).transpose([2, 0, 3, 1, 4])


def attend(net: Any, x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose([0, 2, 1])
    query, key, value = heads_of(net.all(tokens), 3)
    found = paddle.matmul(paddle.matmul(query, key, transpose_y=True), value)
    return net.out(found.transpose([0, 2, 1, 3]).reshape([0, tokens.shape[1], -1]))


def choose_and_add(net: Any, x: Tensor) -> Tensor:
    first, second = net.a(x), net.b(x)
    chosen = paddle.where(x[:, :1] > 0, second, first)
    return net.c(paddle.stack([first, chosen]).sum(0))


def chunked(net: Any, x: Tensor) -> Tensor:
    first, second, third = paddle.chunk(net.a(x), 3, axis=1)
    return net.b(first * second + third)


def cut_where_joined(net: Any, x: Tensor) -> Tensor:
    a, b = net.a(x), net.b(x)
    first, second = paddle.split(F.relu(paddle.concat([a, b], 1)), [a.shape[1], b.shape[1]], 1)
    return net.c(first).mean() + net.d(second)


CASES: dict[str, tuple[Callable[[], Layer], dict[str, list[int]], Kept]] = {
    "residual add": (
        lambda: Net(
            lambda n, x: n.c(F.relu(n.a(x) + n.b(x))), a=conv(2, 4), b=conv(2, 4), c=conv(4, 2)
        ),
        {"a.weight": [1]},
        {"a.weight": {0: [0, 2, 3]}, "b.weight": {0: [0, 2, 3]}, "c.weight": {1: [0, 2, 3]}},
    ),
    "concat": (
        lambda: Net(
            lambda n, x: n.c(paddle.concat([n.a(x), n.b(x)], 1)),
            a=conv(2, 4), b=conv(2, 3), c=conv(7, 2),
        ),
        {"b.weight": [1], "a.weight": [3]},
        {"a.weight": {0: [0, 1, 2]}, "b.weight": {0: [0, 2]}, "c.weight": {1: [0, 1, 2, 4, 6]}},
    ),
    "flatten into linear": (
        lambda: Net(
            lambda n, x: n.b(F.max_pool2d(n.a(x), 2).flatten(1)),
            a=conv(2, 3), b=nn.Linear(12, 2),
        ),
        {"a.weight": [1]},
        {"a.weight": {0: [0, 2]}, "b.weight": {0: [0, 1, 2, 3, 8, 9, 10, 11]}},
    ),
    "linear into map": (
        lambda: Net(
            lambda n, x: n.b(n.a(x.mean([2, 3])).reshape([0, -1, 2, 2])),
            a=nn.Linear(2, 12, bias_attr=False), b=conv(3, 2),
        ),
        {"a.weight": [5]},
        {"a.weight": {1: [0, 1, 2, 3, 8, 9, 10, 11]}, "b.weight": {1: [0, 2]}},
    ),
    "shuffle by reshape and transpose": (
        lambda: Net(lambda n, x: n.b(shuffle(n.a(x))), a=conv(2, 6), b=conv(6, 2)),
        {"a.weight": [1]},  # 0 1 2 | 3 4 5 -> 0 3 1 4 2 5
        {"a.weight": {0: [0, 2, 3, 5]}, "b.weight": {1: [0, 1, 4, 5]}},
    ),
    "shuffle operator": (
        lambda: Net(
            lambda n, x: n.b(F.channel_shuffle(n.a(x), 3)), a=conv(2, 6), b=conv(6, 2)
        ),
        {"a.weight": [0]},  # 0 1 | 2 3 | 4 5 -> 0 2 4 1 3 5
        {"a.weight": {0: [1, 3, 5]}, "b.weight": {1: [3, 4, 5]}},
    ),
    "equal parts": (
        lambda: Net(chunked, a=conv(2, 6), b=conv(2, 2)),
        {"a.weight": [1]},
        {"a.weight": {0: [0, 2, 4]}, "b.weight": {1: [0]}},
    ),
    "parts as they were joined": (
        lambda: Net(cut_where_joined, a=conv(2, 4), b=conv(2, 3), c=conv(4, 2), d=conv(3, 2)),
        {"b.weight": [0]},
        {"b.weight": {0: [1, 2]}, "d.weight": {1: [1, 2]}},
    ),
    "depthwise with a multiplier": (
        lambda: Net(
            lambda n, x: n.c(n.b(n.a(x))),
            a=conv(2, 3), b=nn.Conv2D(3, 6, 3, groups=3), c=conv(6, 2),
        ),
        {"a.weight": [1]},
        {
            "a.weight": {0: [0, 2]}, "b.weight": {0: [0, 1, 4, 5]}, "b.bias": {0: [0, 1, 4, 5]},
            "c.weight": {1: [0, 1, 4, 5]},
        },
    ),
    "grouped, positions in groups": (
        lambda: Net(
            lambda n, x: n.c(n.b(n.a(x))), a=conv(2, 8), b=conv(8, 6, groups=2), c=conv(6, 2)
        ),
        {"a.weight": [5], "b.weight": [0]},
        {
            "a.weight": {0: [0, 2, 3, 4, 6, 7]}, "b.weight": {1: [0, 2, 3], 0: [1, 2, 4, 5]},
            "c.weight": {1: [1, 2, 4, 5]},
        },
    ),
    "grouped, whole groups": (
        lambda: Net(
            lambda n, x: n.c(n.b(n.a(x))), a=conv(2, 6), b=conv(6, 9, groups=3), c=conv(9, 2)
        ),
        {"a.weight": [2]},
        {
            "a.weight": {0: [0, 1, 4, 5]}, "b.weight": {0: [0, 1, 2, 6, 7, 8]},
            "c.weight": {1: [0, 1, 2, 6, 7, 8]},
        },
    ),
    "transposed": (
        lambda: Net(
            lambda n, x: n.c(n.b(n.a(x))),
            a=conv(2, 3), b=nn.Conv2DTranspose(3, 4, 2, 2), c=conv(4, 2),
        ),
        {"a.weight": [0], "b.weight": [3]},
        {
            "a.weight": {0: [1, 2]}, "b.weight": {0: [1, 2], 1: [0, 1, 2]},
            "b.bias": {0: [0, 1, 2]}, "c.weight": {1: [0, 1, 2]},
        },
    ),
    "transposed and grouped": (
        lambda: Net(
            lambda n, x: n.c(n.b(n.a(x))),
            a=conv(2, 4), b=nn.Conv2DTranspose(4, 6, 2, groups=2), c=conv(6, 2),
        ),
        {"a.weight": [3]},
        {
            "a.weight": {0: [0, 1]}, "b.weight": {0: [0, 1]}, "b.bias": {0: [0, 1, 2]},
            "c.weight": {1: [0, 1, 2]},
        },
    ),
    "transposed and depthwise, to a single channel": (
        lambda: Net(
            lambda n, x: n.c(n.b(n.a(x))),
            a=conv(2, 3), b=nn.Conv2DTranspose(3, 3, 2, groups=3, bias_attr=False), c=conv(3, 2),
        ),
        {"a.weight": [0, 2]},
        {"a.weight": {0: [1]}, "b.weight": {0: [1]}, "c.weight": {1: [1]}},
    ),
    "pixel shuffle": (
        lambda: Net(lambda n, x: n.b(F.pixel_shuffle(n.a(x), 2)), a=conv(2, 12), b=conv(3, 2)),
        {"a.weight": [6]},
        {"a.weight": {0: [0, 1, 2, 3, 8, 9, 10, 11]}, "b.weight": {1: [0, 2]}},
    ),
    "pixel unshuffle": (
        lambda: Net(lambda n, x: n.b(F.pixel_unshuffle(n.a(x), 2)), a=conv(2, 3), b=conv(12, 2)),
        {"a.weight": [1]},
        {"a.weight": {0: [0, 2]}, "b.weight": {1: [0, 1, 2, 3, 8, 9, 10, 11]}},
    ),
    "batch norm": (
        lambda: Net(lambda n, x: n.c(n.b(n.a(x))), a=conv(2, 3), b=nn.BatchNorm2D(3), c=conv(3, 2)),
        {"a.weight": [1]},
        {
            "a.weight": {0: [0, 2]}, "c.weight": {1: [0, 2]},
            **{f"b.{name}": {0: [0, 2]} for name in ("weight", "bias", "_mean", "_variance")},
        },
    ),
    "group norm": (
        lambda: Net(
            lambda n, x: n.c(n.b(n.a(x))), a=conv(2, 6), b=nn.GroupNorm(3, 6), c=conv(6, 2)
        ),
        {"a.weight": [2]},
        {
            "a.weight": {0: [0, 1, 4, 5]}, "c.weight": {1: [0, 1, 4, 5]},
            "b.weight": {0: [0, 1, 4, 5]}, "b.bias": {0: [0, 1, 4, 5]},
        },
    ),
    "layer norm over a map": (
        lambda: Net(
            lambda n, x: n.c(n.b(F.max_pool2d(n.a(x), 2))),
            a=conv(2, 3), b=nn.LayerNorm([3, 2, 2]), c=conv(3, 2),
        ),
        {"a.weight": [0]},
        {
            "a.weight": {0: [1, 2]}, "b.weight": {0: [4, 5, 6, 7, 8, 9, 10, 11]},
            "b.bias": {0: [4, 5, 6, 7, 8, 9, 10, 11]}, "c.weight": {1: [1, 2]},
        },
    ),
    "slopes per channel": (
        lambda: Net(lambda n, x: n.c(n.b(n.a(x))), a=conv(2, 3), b=nn.PReLU(3), c=conv(3, 2)),
        {"a.weight": [0]},
        {"a.weight": {0: [1, 2]}, "b._weight": {0: [1, 2]}, "c.weight": {1: [1, 2]}},
    ),
    "one slope": (
        lambda: Net(lambda n, x: n.c(n.b(n.a(x))), a=conv(2, 3), b=nn.PReLU(), c=conv(3, 2)),
        {"a.weight": [0]},
        {"a.weight": {0: [1, 2]}, "c.weight": {1: [1, 2]}},
    ),
    "squeeze and excitation": (
        lambda: Net(
            lambda n, x: n.c(n.a(x) * F.sigmoid(n.e(n.s(n.a(x).mean([2, 3]))).unsqueeze([2, 3]))),
            a=conv(2, 3), s=nn.Linear(3, 4, bias_attr=False), e=nn.Linear(4, 3), c=conv(3, 2),
        ),
        {"a.weight": [2], "s.weight": [1]},
        {
            "a.weight": {0: [0, 1]}, "s.weight": {0: [0, 1], 1: [0, 2, 3]},
            "e.weight": {0: [0, 2, 3], 1: [0, 1]}, "e.bias": {0: [0, 1]}, "c.weight": {1: [0, 1]},
        },
    ),
    "query times key": (
        lambda: Net(
            lambda n, x: paddle.matmul(n.a(x).flatten(2), n.b(x).flatten(2), transpose_x=True),
            a=conv(2, 3), b=conv(2, 3),
        ),
        {"b.weight": [1]},
        {"a.weight": {0: [0, 2]}, "b.weight": {0: [0, 2]}},
    ),
    "heads of attention": (
        lambda: Net(attend, all=nn.Linear(2, 18, bias_attr=False), out=nn.Linear(6, 2)),
        {"all.weight": [4]},  # [query, key, value] x 2 heads x 3: the second place of each
        {
            "all.weight": {1: [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17]},
            "out.weight": {0: [0, 2, 3, 5]},
        },
    ),
    "the same layer twice": (
        lambda: Net(lambda n, x: n.c(n.b(n.b(n.a(x)))), a=conv(2, 3), b=conv(3, 3), c=conv(3, 2)),
        {"b.weight": [0]},
        {
            "a.weight": {0: [1, 2]}, "b.weight": {0: [1, 2], 1: [1, 2]}, "c.weight": {1: [1, 2]},
        },
    ),
    "choice, stack and sum": (
        lambda: Net(
            choose_and_add,
            a=conv(2, 3), b=conv(2, 3), c=conv(3, 2),
        ),
        {"b.weight": [1]},
        {"a.weight": {0: [0, 2]}, "b.weight": {0: [0, 2]}, "c.weight": {1: [0, 2]}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_positions_that_go_together(name: str) -> None:
    build, removed, wanted = CASES[name]
    assert cut(build(), removed).kept == wanted


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("depthwise with a multiplier", {"b": {"_groups": 2}}),
        ("grouped, positions in groups", {}),
        ("grouped, whole groups", {"b": {"_groups": 2}}),
        ("transposed and grouped", {"b": {"_groups": 1}}),
        ("group norm", {"b": {"_num_groups": 2}}),
        ("layer norm over a map", {"b": {"_normalized_shape": [2, 2, 2]}}),
    ],
)
def test_numbers_that_layers_hold(name: str, settings: dict[str, Any]) -> None:
    build, removed, _ = CASES[name]
    assert cut(build(), removed).settings == settings


def test_own_split_and_shuffle_follow_any_channel() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        first, second = net.split(net.a(x))
        return net.c(net.shuffle(first, second))

    net = Net(
        forward, a=conv(2, 6), split=ChannelSplit([3, 3]), shuffle=ChannelShuffle(), c=conv(6, 2)
    )
    edit = cut(net, {"a.weight": [1]})
    # 0 1 2 and 3 4 5 alternate: 0 3 1 4 2 5; without 1: 0 3 4 2 5, found at 0 2 3 1 4 of 0 2 3 4 5
    assert edit.settings == {"split": {"sizes": [2, 3]}, "shuffle": {"order": [0, 2, 3, 1, 4]}}
    assert edit.kept == {"a.weight": {0: [0, 2, 3, 4, 5]}, "c.weight": {1: [0, 1, 3, 4, 5]}}
    again = cut(net, {"a.weight": [1, 4]})
    assert again.settings == {"split": {"sizes": [2, 2]}, "shuffle": {"order": None}}
    (group,) = analyze(net, specs(1, 2, 4, 4)).groups
    assert sorted(part.tolist() for part in group.keep_one) == [[0, 1, 2], [3, 4, 5]]


def test_settings_that_were_cut_before_are_cut_further() -> None:
    net = Net(
        lambda n, x: n.c(n.shuffle(n.a(x), n.b(x))),
        a=conv(2, 3), b=conv(2, 3), shuffle=ChannelShuffle(), c=conv(6, 2),
    )  # fmt: skip
    apply_edit(net, cut(net, {"a.weight": [1]}))  # a0 b0 b1 a2 b2 of a0 a2 b0 b1 b2
    edit = cut(net, {"b.weight": [0]})  # a0 b1 a2 b2 of a0 a2 b1 b2
    assert edit.settings == {"shuffle": {"order": None}}
    assert edit.kept == {"b.weight": {0: [1, 2]}, "c.weight": {1: [0, 2, 3, 4]}}


def test_layers_print_their_new_sizes() -> None:
    net = Net(
        lambda n, x: n.d(n.n(n.t(n.g(n.a(x))))),
        a=conv(2, 6), g=conv(6, 6, groups=6), t=nn.Conv2DTranspose(6, 4, 2),
        n=nn.InstanceNorm2D(4), d=conv(4, 2),
    )  # fmt: skip
    net.untouched = nn.Conv1DTranspose(5, 7, 3)
    before = str(net.untouched)
    analysis = analyze(net, specs(1, 2, 4, 4))
    keep = analysis.keep_all()
    keep[analysis.weights["a.weight"][0][:2]] = False
    keep[analysis.weights["t.weight"][1][:1]] = False
    apply_edit(net, plan_edit(net, analysis, keep))
    assert str(net.g).startswith("Conv2D(4, 4,")
    assert str(net.t).startswith("Conv2DTranspose(4, 3,")
    assert str(net.n).startswith("InstanceNorm2D(num_features=3")
    assert str(net.untouched) == before
