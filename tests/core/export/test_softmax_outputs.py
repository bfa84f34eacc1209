"""Which outputs a softmax makes."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.static import InputSpec

from core.export.softmax_outputs import softmax_axes
from core.graph.program import Graph
from core.graph.trace import trace


class Outputs(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.head(x)
        attention = F.softmax(logits.transpose([0, 2, 1]), axis=1)
        return {
            "logits": logits,
            "classes": F.softmax(logits),
            "copied": paddle.assign(attention),
            "scaled": attention * 2.0,
        }


def test_axes_of_the_outputs_that_are_probabilities() -> None:
    graph = Graph.from_trace(trace(Outputs(), [InputSpec([-1, 5, 3], "float32", "x")]))
    assert softmax_axes(graph) == {"classes": -1, "copied": 1}
