"""Networks of one operation, and cuts of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.nn import Layer
from paddle.static import InputSpec

from core.prune.cut import ChannelEdit, apply_edit, check_cut, plan_edit
from core.prune.structure.analysis import Analysis, Pins, analyze_graphs
from core.prune.structure.graph import trace_modes

Forward = Callable[[Any, Tensor], Any]


class Net(Layer):
    """Layers by name, and what to do with them."""

    def __init__(self, forward: Forward, **layers: Layer) -> None:
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def conv(before: int, after: int, **options: Any) -> Layer:
    return nn.Conv2D(before, after, 1, bias_attr=False, **options)


def specs(*shape: int) -> list[InputSpec]:
    return [InputSpec(list(shape), "float32", "x")]


def analyze(net: Layer, inputs: Sequence[InputSpec], pins: Pins | None = None) -> Analysis:
    return analyze_graphs(net, trace_modes(net, inputs), pins or Pins())


def cut(
    net: Layer, removed: Mapping[str, Sequence[int]], shape: Sequence[int] = (1, 2, 4, 4)
) -> ChannelEdit:
    """Remove outputs of layers, and what goes with them; see that the rest still runs."""
    analysis = analyze(net, specs(*shape))
    keep = analysis.keep_all()
    free = {unit for group in analysis.groups for unit in group.units.tolist()}
    for name, positions in removed.items():
        (axes,) = [
            group.producers[name, axis]
            for group in analysis.groups
            for axis in range(2)
            if (name, axis) in group.producers
        ]
        assert free.issuperset(axes[list(positions)].tolist())
        keep[axes[list(positions)]] = False
    edit = plan_edit(net, analysis, keep)
    undo = apply_edit(net, edit)
    assert check_cut(net, specs(*shape), analysis, keep) == {}
    net.eval()
    net(paddle.ones(shape))
    undo()
    return edit
