"""Which channels stay, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn
from paddle.nn import Layer
from paddle.nn import functional as F

from tests.networks.rules import Net, analyze, conv, cut, specs


def fixed(net: Layer, shape: Sequence[int] = (1, 2, 4, 4)) -> dict[str, str]:
    return {each.layer: str(each.reason) for each in analyze(net, specs(*shape)).fixed}


def depthwise_over_concat(*inputs: Callable[[Any, Tensor], Tensor], total: int) -> Layer:
    return Net(
        lambda n, x: n.c(n.d(paddle.concat([each(n, x) for each in inputs], 1))),
        a=conv(2, 3), b=conv(2, 4), d=conv(total, total, groups=total), c=conv(total, 2),
    )  # fmt: skip


def test_each_of_several_layers_in_a_group_keeps_a_channel() -> None:
    net = depthwise_over_concat(lambda n, x: n.a(x), lambda n, x: n.b(x), total=7)
    (group,) = analyze(net, specs(1, 2, 4, 4)).groups
    assert len(group) == 7
    assert sorted(part.tolist() for part in group.keep_one) == [[0, 1, 2], [3, 4, 5, 6]]


def test_channels_that_stay_are_no_units() -> None:
    net = depthwise_over_concat(lambda n, x: x, lambda n, x: n.a(x), total=5)
    analysis = analyze(net, specs(1, 2, 4, 4))
    (group,) = analysis.groups
    assert len(group) == 3
    assert group.keep_one == ()
    np.testing.assert_array_equal(group.units, analysis.weights["d.weight"][0][2:])
    edit = cut(net, {"a.weight": [0, 2]})
    assert edit.kept["d.weight"] == {0: [0, 1, 3]}


def turned(work: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    return lambda n, x: work(n, n.a(x).transpose([0, 2, 1, 3])).transpose([0, 2, 1, 3])


def replaced(x: Tensor) -> Tensor:
    y = x * 2
    y[:, :1] = x.mean(1, keepdim=True)
    return y


@pytest.mark.parametrize(
    ("work", "operator", "why"),
    [
        (lambda n, x: paddle.cumsum(n.a(x), 1), "cumsum", "does not know"),
        (lambda n, x: paddle.flip(n.a(x), [1]), "flip", "does not know"),
        (lambda n, x: paddle.roll(n.a(x), 1, 1), "roll", "goes round channels"),
        (lambda n, x: paddle.roll(n.a(x), 1), "roll", "goes round all axes"),
        (lambda n, x: replaced(n.a(x)), "set_value", "replaces channels by their number"),
        (lambda n, x: n.a(x)[:, 1:], "slice", "by their number"),
        (lambda n, x: F.softmax(n.a(x), 1), "softmax", "alternatives"),
        (lambda n, x: F.pad(n.a(x), [0, 0, 1, 1, 0, 0, 0, 0]), "pad", "pads channels"),
        (lambda n, x: n.a(x) * paddle.ones([1, 4, 1, 1]), "elementwise_mul", "a fixed size"),
        (lambda n, x: n.a(x).tile([1, 2, 1, 1]), "tile", "repeats channels"),
        (lambda n, x: n.a(x).reshape([1, 2, 2, 4, 4]).sum(2), "reshape2", None),
        (turned(lambda n, x: n.turned(x)), "conv2d", "second axis"),
        (turned(lambda n, x: F.avg_pool2d(x, 3, 1, 1)), "pool2d", "second axis"),
        (turned(lambda n, x: F.interpolate(x, [8, 4])), "nearest_interp_v2", "second axis"),
        (turned(lambda n, x: F.pad(x, [1, 1, 1, 1])), "pad3d", "second axis"),
        (turned(lambda n, x: F.pixel_shuffle(x, 2)), "pixel_shuffle", "second axis"),
    ],
)
def test_what_stays_is_listed_with_the_reason(
    work: Callable[[Any, Tensor], Tensor], operator: str, why: str | None
) -> None:
    net = Net(lambda n, x: n.c(work(n, x).mean(1, keepdim=True)), a=conv(2, 4), c=conv(1, 2))
    net.turned = nn.Conv2D(4, 4, 3, padding=1)
    if why is None:  # a reshape that both readings fit: four channels as two times two
        assert cut(net, {}).kept == {}
        return
    reason = fixed(net)["a"]
    assert f"{operator}: " in reason
    assert why in reason
    assert [group.name for group in analyze(net, specs(1, 2, 4, 4)).groups] == []


def test_outputs_stay() -> None:
    net = Net(lambda n, x: [n.b(n.a(x)), n.a(x)], a=conv(2, 4), b=conv(4, 2))
    reasons = fixed(net)
    assert reasons["a"] == "output_1: it is an output of the network"
    assert reasons["b"] == "output_0: it is an output of the network"


def test_channels_last_stays() -> None:
    net = Net(
        lambda n, x: n.c(n.b(n.a(x).transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2])),
        a=conv(2, 4), b=conv(4, 3, data_format="NHWC"), c=conv(3, 2),
    )  # fmt: skip
    assert all("channels must be the second axis" in fixed(net)[name] for name in "ab")


def test_heads_in_training_alone_count() -> None:
    """The auxiliary head reads channel by channel what evaluation never sees."""
    net = Net(
        lambda n, x: [n.b(n.a(x)), paddle.cumsum(n.a(x), 1)] if n.training else n.b(n.a(x)),
        a=conv(2, 4), b=conv(4, 2),
    )  # fmt: skip
    assert "cumsum" in fixed(net)["a"]


def test_a_reparametrized_convolution_stays_and_stops_nobody() -> None:
    net = Net(
        lambda n, x: n.c(n.b(n.a(x))),
        a=conv(2, 4), b=nn.utils.weight_norm(conv(4, 4)), c=conv(4, 2),
    )  # fmt: skip
    net.d = conv(2, 5)
    net.e = conv(5, 2)
    net._forward = lambda n, x: n.c(n.b(n.a(x))) + n.e(n.d(x))
    assert "its kernel is computed" in fixed(net)["a"]
    assert cut(net, {"d.weight": [0]}).kept == {
        "d.weight": {0: [1, 2, 3, 4]}, "e.weight": {1: [1, 2, 3, 4]},
    }  # fmt: skip
