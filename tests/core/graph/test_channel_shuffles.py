"""Graphs without shuffles compute what the network computes, whatever is split, joined or added."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import Tensor, nn

from core.graph.channel_shuffles import dissolve_shuffles, follow_channels, movement_cost
from core.graph.program import Graph
from core.network.channels import ChannelShuffle, ChannelSplit
from tests.networks.shuffled import (
    MOVES,
    Chain,
    Residual,
    Shuffled,
    ShuffleUnit,
    Weighted,
    run,
    traced,
)

MOVE = st.tuples(st.sampled_from(MOVES), st.integers(0, 7))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


def kinds(graph: Graph) -> Counter[str]:
    return Counter(op.type for op in graph.operators)


def assert_alike(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    for name, values in wanted.items():
        assert np.abs(found[name] - values).max() <= 1e-6 * np.abs(values).max() + 1e-7, name


@settings(max_examples=16, deadline=None)
@given(st.lists(MOVE, min_size=1, max_size=6), st.booleans())
def test_any_network_computes_the_same(
    folder: Path, moves: list[tuple[str, int]], with_shuffles: bool
) -> None:
    graph = traced(Shuffled(moves))
    before = graph.to_program(), {name: each.copy() for name, each in graph.weights.items()}
    made = follow_channels(graph, (), with_shuffles)
    assert_alike(run(made, folder), run(graph, folder))
    written = [name for op in made.operators for slot in op.outputs for name in slot.arguments]
    assert len(set(written)) == len(written), "each tensor is made once"
    assert set(written) <= made.variables.keys()
    assert graph.to_program() == before[0], "the given graph stays as it is"
    assert all(np.array_equal(graph.weights[name], before[1][name]) for name in before[1])


@settings(max_examples=5, deadline=None)
@given(st.lists(MOVE, min_size=2, max_size=5), st.data())
def test_kept_tensors_have_their_values_in_some_order(
    folder: Path, moves: list[tuple[str, int]], data: st.DataObject
) -> None:
    graph = traced(Shuffled(moves))
    read = graph.readers().keys() - graph.weights.keys() - {*graph.inputs, *graph.outputs}
    maps = sorted(name for name in read if len(graph.shape(name)) == 4)
    kept = data.draw(st.lists(st.sampled_from(maps), min_size=1, max_size=3, unique=True))
    made = follow_channels(graph, kept)
    assert_alike(run(made, folder), run(graph, folder))
    assert dissolve_shuffles(graph, kept).variables.keys() >= set(kept)
    for name in made.variables.keys() & set(kept):  # without those that no output depends on
        found, wanted = (run(each, folder, [name])[name].sum((2, 3)) for each in (made, graph))
        order = np.sort(found, axis=1), np.sort(wanted, axis=1)
        np.testing.assert_allclose(*order, rtol=1e-4, atol=1e-5)


class Deciding(nn.Layer):
    """Ends in the number of the largest value, which has no channels."""

    def __init__(self, inner: nn.Layer) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).flatten(1).argmax(axis=1)


def test_an_output_without_channels(folder: Path) -> None:
    graph = traced(Deciding(Chain(ShuffleUnit, 3)))
    [name] = graph.outputs
    assert len(graph.shape(name)) == 1
    made = follow_channels(graph)
    assert run(made, folder)[name].tolist() == run(graph, folder)[name].tolist()
    assert len(made.operators) < len(graph.operators)


@pytest.mark.parametrize(("block", "left"), [(ShuffleUnit, 0), (Weighted, 1)])
def test_a_chain_of_blocks_needs_few_shuffles(
    folder: Path, block: type[nn.Layer], left: int
) -> None:
    """Behind dense convolutions channels may lie in any order, behind others as they came."""
    graph = traced(Chain(block, 3))
    made = dissolve_shuffles(graph)
    assert (kinds(graph)["transpose2"], kinds(made)["transpose2"]) == (3, left)
    assert movement_cost(made) < movement_cost(graph)
    assert_alike(run(made, folder), run(graph, folder))


def test_two_shuffles_become_one_of_four_groups(folder: Path) -> None:
    """Where sums are taken apart again, one shuffle is left of two; behind the last none."""
    graph = traced(Residual())
    made = follow_channels(graph)
    assert (kinds(graph)["transpose2"], kinds(made)["transpose2"]) == (4, 1)
    (shuffle,) = (op for op in made.operators if op.type == "transpose2")
    (source,) = (slot.arguments[0] for slot in shuffle.inputs)
    assert made.shape(source)[1:3] == (4, 8)
    assert_alike(run(made, folder), run(graph, folder))


def test_permuted_weights_can_be_put_back() -> None:
    graph = traced(Chain(ShuffleUnit, 2))
    made = dissolve_shuffles(graph)
    assert made.permuted
    for name, weight in made.weights.items():
        back = made.permuted[name].undo(weight) if name in made.permuted else weight
        if weight.ndim == 4:
            assert np.array_equal(back, graph.weights[name]), name


class Meeting(nn.Layer):
    """A split and a concatenation of the same parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.split = nn.Conv2D(3, 8, 1), ChannelSplit([2, 6])
        self.shuffle = ChannelShuffle()

    def forward(self, image: Tensor) -> Tensor:
        a, b = self.split(self.stem(image))
        halves = paddle.concat([a, b], axis=1).chunk(2, axis=1)
        shuffled = self.shuffle(*halves)
        even, odd = shuffled[:, 0::2], shuffled[:, 1::2]
        return nn.functional.relu(self.stem(image)) + paddle.concat([even, odd], axis=1)


def test_what_reads_channels_by_number_gets_the_order_of_the_network(folder: Path) -> None:
    graph = traced(Meeting())
    assert_alike(run(follow_channels(graph), folder), run(graph, folder))


class Halves(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.split = nn.Conv2D(3, 8, 1), ChannelSplit([2, 6])

    def forward(self, image: Tensor) -> Tensor:
        x = nn.functional.relu(self.stem(image))
        return nn.functional.relu(paddle.concat(self.split(x), axis=1))


def test_a_split_and_a_concatenation_that_meet_cancel(folder: Path) -> None:
    graph = traced(Halves())
    made = dissolve_shuffles(graph)
    assert kinds(graph)["split"] == kinds(graph)["concat"] == 1
    assert kinds(made)["split"] == kinds(made)["concat"] == 0
    assert_alike(run(made, folder), run(graph, folder))


def test_a_graph_in_which_nothing_is_won_stays_the_same() -> None:
    graph = traced(Shuffled([("convolve", 0), ("softmax", 1)]))
    assert dissolve_shuffles(graph) is graph


class Pruned(nn.Layer):
    """Two units of which pruning has left halves of 7 and 5 channels, in an order of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2D(3, 12, 1), nn.Conv2D(12, 4, 1)
        self.split, self.shuffle = ChannelSplit([7, 5]), ChannelShuffle()
        self.shuffle.order = [0, 7, 1, 2, 8, 3, 9, 4, 10, 5, 11, 6]
        self.units = nn.LayerList([nn.Conv2D(5, 5, 1) for _ in range(2)])

    def forward(self, image: Tensor) -> Tensor:
        x = nn.functional.relu(self.stem(image))
        for unit in self.units:
            kept, changed = self.split(x)
            x = self.shuffle(kept, nn.functional.relu(unit(changed)))
        return self.head(x)


def test_a_pruned_network_selects_no_rows(folder: Path) -> None:
    graph = traced(Pruned())
    made = dissolve_shuffles(graph)
    assert kinds(graph)["index_select"] == 2
    assert kinds(made)["index_select"] == kinds(made)["flatten_contiguous_range"] == 0
    assert movement_cost(made) < movement_cost(graph)
    assert_alike(run(made, folder), run(graph, folder))


def test_what_is_rewritten_twice_remembers_the_first_order(folder: Path) -> None:
    for graph in (traced(Pruned()), traced(Residual())):
        again = follow_channels(follow_channels(graph))
        assert_alike(run(again, folder), run(graph, folder))
        for name, order in again.permuted.items():
            assert np.array_equal(order.undo(again.weights[name]), graph.weights[name]), name


class Turned(nn.Layer):
    """Sums of a map and of itself turned, one of them an output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.split = nn.Conv2D(3, 8, 1), ChannelSplit([4, 4])
        self.middle = nn.Conv2D(8, 8, 3, padding=1, groups=8)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = nn.functional.relu(self.stem(image))
        first, second = self.split(x)
        turned = nn.functional.sigmoid(paddle.concat([second, first], axis=1))
        last = self.middle(nn.functional.relu(turned) + x)
        return {"turned": turned, "sum": turned + x, "softened": last + nn.functional.relu(turned)}


def test_sums_of_a_map_and_of_itself_in_another_order(folder: Path) -> None:
    graph = traced(Turned())
    made = follow_channels(graph)
    assert_alike(run(made, folder), run(graph, folder))
    written = [name for op in made.operators for slot in op.outputs for name in slot.arguments]
    assert len(set(written)) == len(written)
