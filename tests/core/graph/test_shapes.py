"""Sizes that code computes from shapes."""

from __future__ import annotations

import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from core.prune.structure.graph import trace_operators
from tests.networks.rules import Forward, Net, specs

SIZES: dict[str, Forward] = {
    "resize": lambda n, x: F.interpolate(x, paddle.shape(x)[2:] * 2),
    "parts": lambda n, x: F.interpolate(
        x, [paddle.shape(x)[2] // 2, paddle.shape(x)[3] * 2 - 1], mode="bilinear"
    ),
    "convolution after": lambda n, x: n.a(F.interpolate(x, paddle.shape(x)[-2:] * 2)),
    "reshape": lambda n, x: x.reshape([paddle.shape(x)[0], paddle.shape(x)[1], -1]),
    "reshape by a tensor": lambda n, x: x.reshape(
        paddle.concat([paddle.shape(x)[:2], -paddle.shape(x)[:1]])
    ),
    "expand": lambda n, x: x.mean([2, 3], keepdim=True).expand([-1, -1, *paddle.shape(x)[2:]]),
    "fill": lambda n, x: x.mean() + paddle.zeros([1, 3, paddle.shape(x)[2] + 1, 2]),
    "rounding": lambda n, x: F.interpolate(
        x, (paddle.shape(x)[2:].astype("float32") * 0.7).astype("int32")
    ),
    "flatten": lambda n, x: F.interpolate(x, paddle.shape(x)[2:] * 2).flatten(1),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_computed_sizes_are_those_of_a_run(name: str) -> None:
    net = Net(SIZES[name], a=nn.Conv2D(2, 3, 3, 2))
    graph = trace_operators(net, specs(1, 2, 7, 5), training=False)
    (output,) = graph.outputs.values()
    assert list(graph.shapes[output]) == net(paddle.ones([1, 2, 7, 5])).shape


@pytest.mark.parametrize("name", SIZES)
def test_no_size_is_wrong_where_the_batch_is_free(name: str) -> None:
    """What is known with a batch of any size holds for 1 and 3; heights and widths are known."""
    net = Net(SIZES[name], a=nn.Conv2D(2, 3, 3, 2))
    graph = trace_operators(net, specs(-1, 2, 7, 5), training=False)
    (output,) = graph.outputs.values()
    known = graph.shapes[output]
    for batch in (1,) if name == "reshape by a tensor" else (1, 3):  # its -batch is for one image
        made = net(paddle.ones([batch, 2, 7, 5])).shape
        assert len(made) == len(known)
        assert all(size in (-1, real) for size, real in zip(known, made)), (known, made)
    if name in ("resize", "parts", "rounding", "convolution after"):
        assert min(known[2:]) > 0
