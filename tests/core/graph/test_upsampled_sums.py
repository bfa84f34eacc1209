"""Maps of several resolutions add up to the same, scaled up step by step or each by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import Tensor, nn

from core.graph.operators import names_of
from core.graph.program import Graph
from core.graph.upsampled_sums import nest_upsampled_sums
from tests.networks.shuffled import F, run, traced

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


class Branches(nn.Layer):
    """A sum of maps at strides 1 to 16, in any order; each second sum is read by others too.

    Args:
        strides: Of each term.
        mode: How maps are scaled up.
    """

    def __init__(self, strides: list[int], mode: str = "nearest") -> None:
        super().__init__()
        self.mode, self.strides = mode, strides
        self.steps = nn.LayerList([nn.Conv2D(3, 4, 1, stride=stride) for stride in strides])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        total: Tensor | None = None
        halfway = []
        for stride, step in zip(self.strides, self.steps):
            x = F.relu(step(image))
            if stride > 1:
                x = F.interpolate(x, scale_factor=[float(stride)] * 2, mode=self.mode)
            total = x if total is None else total + x
            halfway.append(total)
        return {"total": F.relu(total), "half": halfway[len(halfway) // 3] * 2.0}


def work(graph: Graph) -> int:
    """Count the pixels that additions of maps and upsampling write."""
    kinds = ("elementwise_add", "nearest_interp_v2")
    made = [
        graph.shape(name)
        for op in graph.operators
        if op.type in kinds and graph.weights.keys().isdisjoint(names_of(op.inputs))
        for name in names_of(op.outputs)
    ]
    return sum(int(np.prod(shape[2:])) for shape in made)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 4, 8, 16]), min_size=2, max_size=6))
def test_any_sum_stays_the_same(folder: Path, strides: list[int]) -> None:
    graph = traced(Branches(strides), SIZE)
    before = graph.to_program()
    made = nest_upsampled_sums(graph)
    found, wanted = run(made, folder), run(graph, folder)
    for name, values in wanted.items():
        assert np.abs(found[name] - values).max() <= 1e-6 * np.abs(values).max(), name
    assert work(made) <= work(graph)
    assert graph.to_program() == before


def test_most_is_added_up_where_it_is_coarse(folder: Path) -> None:
    """Of maps at strides 1, 2, 4 and 8: 3 + 3 operators of 256 pixels become 1 + 1."""
    graph = traced(Branches([1, 2, 4, 8]), SIZE)
    half = graph.outputs.index("half")
    del graph.outputs[half]  # with it the sum of the first two is read by others
    graph.drop_unused()
    made = nest_upsampled_sums(graph)
    assert work(graph) == 6 * 256
    assert work(made) == 2 * (256 + 64 + 16)
    found, wanted = run(made, folder)["total"], run(graph, folder)["total"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_what_is_kept_and_what_is_interpolated_stays() -> None:
    graph = traced(Branches([1, 2, 4, 8]), SIZE)
    scaled = {
        name
        for op in graph.operators
        if op.type == "nearest_interp_v2"
        for name in names_of(op.outputs)
    }
    assert nest_upsampled_sums(graph) is not graph
    assert nest_upsampled_sums(graph, scaled) is graph
    smooth = traced(Branches([1, 2, 4, 8], "bilinear"), SIZE)
    assert nest_upsampled_sums(smooth) is smooth
    single = traced(Branches([1, 1, 4]), SIZE)
    assert nest_upsampled_sums(single) is single
