"""Channels that are selected from rows are the same when a convolution selects them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.graph import selected_channels
from core.graph.channel_shuffles import dissolve_shuffles
from core.graph.program import Graph
from core.graph.rewrites import rewrite
from core.graph.selected_channels import MOST, select_by_convolutions
from tests.networks.shuffled import CHANNELS, MOVES, Irregular, Shuffled, run, traced


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


def count(graph: Graph, kind: str) -> int:
    return sum(op.type == kind for op in graph.operators)


def test_a_convolution_stands_for_a_selection(folder: Path) -> None:
    graph = dissolve_shuffles(traced(Irregular()))
    assert count(graph, "index_select") > 0
    made = select_by_convolutions(graph)
    assert count(made, "index_select") == count(made, "flatten_contiguous_range") == 0
    assert count(made, "conv2d") == count(graph, "conv2d") + count(graph, "index_select")
    found, wanted = run(made, folder), run(graph, folder)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)  # no sum has a second term
        assert np.ptp(values) > 0


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 7)), min_size=1, max_size=6))
def test_any_network_computes_the_same(folder: Path, moves: list[tuple[str, int]]) -> None:
    graph = dissolve_shuffles(traced(Shuffled([("select", 1), *moves])))
    before = graph.to_program()
    made = select_by_convolutions(graph)
    found, wanted = run(made, folder), run(graph, folder)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
    assert graph.to_program() == before, "the given graph stays as it is"


def test_many_channels_and_graphs_for_int8_keep_their_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = traced(Irregular())
    rows = count(dissolve_shuffles(graph), "index_select")
    assert count(rewrite(graph, for_int8=True), "index_select") == rows
    assert count(rewrite(graph), "index_select") == 0
    assert MOST >= CHANNELS
    monkeypatch.setattr(selected_channels, "MOST", CHANNELS - 1)
    assert count(rewrite(graph), "index_select") == rows
