"""Multiply-accumulates as a function of what is kept."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor
from paddle.nn import functional as F

from core.prune.structure.analysis import Analysis
from tests.networks.rules import Net, analyze, conv, specs


def test_work_behind_a_computed_size_counts() -> None:
    net = Net(lambda n, x: n.a(F.interpolate(x, paddle.shape(x)[2:] * 2)), a=conv(2, 3))
    analysis: Analysis = analyze(net, specs(1, 2, 4, 4))
    assert analysis.cost.macs(analysis.keep_all()) == 8 * 8 * 2 * 3


def test_work_that_no_output_needs_costs_nothing() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        net.b(x)
        return net.a(x)

    analysis = analyze(Net(forward, a=conv(2, 3), b=conv(2, 5)), specs(1, 2, 4, 4))
    assert analysis.cost.macs(analysis.keep_all()) == 4 * 4 * 2 * 3
