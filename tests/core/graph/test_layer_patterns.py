"""Layers of a graph with the bias and the batch norm behind them."""

from __future__ import annotations

import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from core.graph.batch_norm_folding import fold_batch_norms, folded_norms, trace_folded
from core.graph.layer_patterns import LayerPattern, layer_patterns
from core.graph.program import Graph
from core.graph.trace import trace

SPECS = [InputSpec([None, 3, 8, 8], "float32", "x")]


class Net(nn.Layer):
    """One layer for each form that a bias has in a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.bare = nn.Conv2D(3, 4, 1), nn.Conv2D(4, 4, 1, bias_attr=False)
        self.norm, self.watched = nn.BatchNorm2D(4), nn.Conv2D(4, 4, 1, bias_attr=False)
        self.other = nn.BatchNorm2D(4)
        self.head, self.last = nn.Linear(4, 2), nn.BatchNorm1D(2)

    def forward(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        y = self.norm(self.bare(self.plain(x)))
        z = self.watched(y)
        return {"y": self.last(self.head((self.other(z)).mean([2, 3]))), "z": z}


@pytest.fixture
def graph() -> Graph:
    model = Net()
    model.eval()
    return Graph.from_trace(trace(model, SPECS))


def test_biases_and_norms_belong_to_their_layers(graph: Graph) -> None:
    found = {each.weight: each for each in layer_patterns(graph)}
    assert list(found) == ["plain.weight", "bare.weight", "watched.weight", "head.weight"]
    assert {weight: (each.bias, each.norm is not None) for weight, each in found.items()} == {
        "plain.weight": ("plain.bias", False),
        "bare.weight": ("", True),
        "watched.weight": ("", False),  # what it makes is an output of the network
        "head.weight": ("head.bias", True),
    }


def test_a_pattern_ends_behind_its_norm(graph: Graph) -> None:
    (bare,) = (each for each in layer_patterns(graph) if each.weight == "bare.weight")
    assert isinstance(bare, LayerPattern)
    assert bare.end == graph.made["norm"]


def test_folding_takes_the_norms_of_the_patterns(graph: Graph) -> None:
    assert folded_norms(graph) == {"bare.weight": "norm.weight", "head.weight": "last.weight"}
    assert fold_batch_norms(graph) == 2
    assert [op.type for op in graph.operators].count("batch_norm") == 1
    assert graph.folded == {"bare.weight": ("norm", ""), "head.weight": ("last", "head.bias")}


def test_tracing_and_folding_in_one_go(graph: Graph) -> None:
    model = Net()
    model.eval()
    fold_batch_norms(graph)
    made = trace_folded(model, SPECS)
    assert [op.type for op in made.operators] == [op.type for op in graph.operators]
