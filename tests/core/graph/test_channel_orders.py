"""The algebra of layouts, on numbers alone: what is gathered holds the channels it should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.graph.channel_orders import HeldTensor, Layout, Orders, WeightOrder, runs_of

COUNT = 8
EDIT = st.tuples(st.sampled_from(["slice", "join", "shuffle", "store"]), st.integers(0, 99))


def laid(stored: HeldTensor, values: dict[int, np.ndarray]) -> np.ndarray:
    """Return a tensor as the rewritten graph holds it, gathered slice by slice."""
    if stored.gathered is None:
        return values[id(stored)][stored.channels()]
    runs = runs_of(stored.gathered, stored.channels())
    return np.concatenate([laid(each, values)[start : start + n] for each, start, n in runs])


@settings(max_examples=60, deadline=None)
@given(st.lists(EDIT, max_size=8), st.booleans())
def test_gathered_tensors_hold_their_channels(
    edits: list[tuple[str, int]], with_shuffles: bool
) -> None:
    orders, values = Orders(), {}
    known: list[tuple[Layout, np.ndarray]] = []
    for start in (0, 100):
        stored = orders.make(f"source{start}", COUNT)
        values[id(stored)] = np.arange(start, start + COUNT)
        known.append((Layout.of(stored), values[id(stored)]))
    for kind, choice in edits:
        layout, wanted = known[-1 - choice % 2]
        if kind == "slice":
            order = np.arange(choice % len(layout), len(layout))
        elif kind == "join":
            other = known[choice % len(known)]
            layout, wanted = Layout.join([layout, other[0]]), np.concatenate([wanted, other[1]])
            order = np.arange(len(layout))
        elif kind == "shuffle":
            even = len(layout) // 2 * 2
            order = np.arange(even).reshape(2, -1).T.ravel()
        else:
            layout, order = Layout.of(orders.gather(f"gathered{len(known)}", layout)), None
        order = np.arange(len(layout)) if order is None or not len(order) else order
        known.append((layout.select(order), wanted[order]))
    gathered = [orders.gather(f"end{i}", layout) for i, (layout, _) in enumerate(known)]
    orders.choose(with_shuffles)
    for stored, (_, wanted) in zip(gathered, known):
        found = laid(stored, values)
        assert np.array_equal(found, wanted[stored.channels()])
        assert sorted(found) == sorted(wanted)


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_tied_tensors_have_one_order(first: list[int], second: list[int]) -> None:
    """A sum adds up the same channels, whatever the orders in which its terms are read."""
    orders = Orders()
    a, b = orders.make("a", 6), orders.make("b", 6)
    x, y = Layout.of(a).select(first), Layout.of(b).select(second)
    assert orders.tie(x, y)
    assert orders.tie(x, y)
    assert orders.tie(x, y.select([1, 0, 2, 3, 4, 5])) is False
    assert orders.pin(x)
    orders.choose()
    assert list(a.channels()) == first
    assert list(b.channels()) == second


def test_pinned_tensors_keep_their_order() -> None:
    orders = Orders()
    a, b = (orders.make(name, 3, pinned=True) for name in "ab")
    turned = Layout.of(b).select([2, 1, 0])
    assert not orders.pin(turned)
    assert not orders.tie(Layout.of(a), turned)
    assert orders.tie(Layout.of(a), Layout.of(b))
    follower = orders.follow("c", turned)
    assert list(follower.channels()) == [2, 1, 0]


def test_groups_of_a_shuffle() -> None:
    orders = Orders()
    a, b = orders.make("a", 4), orders.make("b", 4)
    joined = Layout.join([Layout.of(a), Layout.of(b)])
    shuffled = joined.select(np.arange(8).reshape(2, 4).T.ravel())
    assert (joined.groups(), shuffled.groups(), Layout.of(a).groups()) == (1, 2, 1)
    first, second = shuffled.select(range(4)), orders.make("c", 4)
    again = Layout.join([first, Layout.of(second)]).select(np.arange(8).reshape(2, 4).T.ravel())
    assert again.groups() == 4


def test_errors_of_the_programmer() -> None:
    orders = Orders()
    a = orders.make("a", 4)
    with pytest.raises(ValueError, match=r"^a: no order is chosen yet"):
        a.channels()
    with pytest.raises(ValueError, match=r"^b: follows what is not stored as one tensor"):
        orders.follow("b", Layout.of(a).select([0, 1]))


@given(st.permutations(range(3)), st.permutations(range(4)), st.booleans())
def test_the_order_of_a_weight_is_undone(
    outputs: list[int], inputs: list[int], depthwise: bool
) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 1 if depthwise else 4, 2, 2))
    permuted = weight[outputs] if depthwise else weight[outputs][:, inputs]
    order = WeightOrder(np.array(outputs if depthwise else inputs), np.array(outputs))
    assert np.array_equal(order.undo(permuted), weight)
