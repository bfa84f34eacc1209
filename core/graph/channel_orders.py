"""Channels of a graph as sets whose order is chosen last: the algebra behind `channel_shuffles`.

Splits, concatenations and shuffles only say which channel is where. Here a tensor of the network is
a layout: for each of its channels the stored tensor that holds it, and the channel there. What
computes on channels one by one keeps the order of what it reads, and a sum has one order with its
terms; such tensors form a class. A dense convolution reads and makes any order, once its weight is
permuted. So nothing moves until a layout is gathered into a stored tensor of its own; and the
orders of all classes are chosen when it is known which parts of them are gathered where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

GROUPS = (2, 4, 8)  # tried for a shuffle that puts gathered parts in order

IntArray = np.ndarray


@dataclass(frozen=True, eq=False)
class WeightOrder:
    """Where the channels of a convolution were before its weight was permuted.

    Attributes:
        inputs: Former channel at each place of what it reads, [I].
        outputs: Former channel at each place of what it makes, [O].
    """

    inputs: IntArray
    outputs: IntArray

    def after(self, before: WeightOrder | None) -> WeightOrder:
        """Return the order behind another one and this."""
        if before is None:
            return self
        return WeightOrder(before.inputs[self.inputs], before.outputs[self.outputs])

    def is_former(self) -> bool:
        """Tell whether all channels are where they were."""
        both = (self.inputs, self.outputs)
        return all(np.array_equal(each, np.arange(len(each))) for each in both)

    def undo(self, weight: IntArray) -> IntArray:
        """Return a weight [O, I / groups, h, w] in the order of the network."""
        former = weight[np.argsort(self.outputs)]
        dense = weight.shape[1] == len(self.inputs)
        return former[:, np.argsort(self.inputs)] if dense else former


@dataclass(eq=False)
class OrderClass:
    """Held tensors that have their channels in one order.

    Attributes:
        number: Classes of lower numbers come first in the graph.
        count: Channels.
        members: The tensors.
        pinned: Whether the order is given.
        order: Slot at each position, [count]; None until it is chosen.
    """

    number: int
    count: int
    members: list[HeldTensor] = field(default_factory=list)
    pinned: bool = False
    order: IntArray | None = None


@dataclass(eq=False)
class HeldTensor:
    """A tensor that the rewritten graph holds.

    Attributes:
        name: Its name.
        order_class: Class of tensors that share its order.
        slots: Slot of the class that each channel, as the network counts them, has; [count].
        gathered: Layout that it is gathered from; None if an operator makes it.
    """

    name: str
    order_class: OrderClass
    slots: IntArray
    gathered: Layout | None = None

    def channels(self) -> IntArray:
        """Return the channel, as the network counts them, at each position, [count]."""
        order = self.order_class.order
        if order is None:
            raise ValueError(f"{self.name}: no order is chosen yet")
        channels: IntArray = np.argsort(self.slots)[order]
        return channels

    def positions(self) -> IntArray:
        """Return the position of each channel, [count]."""
        return np.argsort(self.channels())


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each channel of a tensor of the network is stored.

    Attributes:
        holders: Tensor that holds each channel.
        channels: Channel there, as the network counts them, [count].
    """

    holders: tuple[HeldTensor, ...]
    channels: IntArray

    @staticmethod
    def of(stored: HeldTensor) -> Layout:
        """Return the layout of a stored tensor itself."""
        count = len(stored.slots)
        return Layout((stored,) * count, np.arange(count))

    def __len__(self) -> int:
        return len(self.holders)

    def select(self, order: Sequence[int] | IntArray) -> Layout:
        """Return the layout of some channels, in the order given."""
        chosen = np.asarray(order, np.int64)
        return Layout(tuple(self.holders[each] for each in chosen), self.channels[chosen])

    @staticmethod
    def join(layouts: Sequence[Layout]) -> Layout:
        """Return the layout of a concatenation."""
        holders = tuple(holder for layout in layouts for holder in layout.holders)
        return Layout(holders, np.concatenate([layout.channels for layout in layouts]))

    def whole(self) -> HeldTensor | None:
        """Return the stored tensor of which these are all channels, in any order; None if none."""
        first = self.holders[0]
        if any(holder is not first for holder in self.holders):
            return None
        complete = np.array_equal(np.sort(self.channels), np.arange(len(first.slots)))
        return first if complete else None

    def holder_list(self) -> list[HeldTensor]:
        """Return the tensors that hold the channels, each once."""
        return list(dict.fromkeys(self.holders))

    def groups(self) -> int:
        """Return into how many residues the channels fall that are each in one tensor; 1 if none.

        It is the number of groups of the shuffle that puts these tensors' parts in order.
        """
        count = len(self)
        if len(self.holder_list()) == 1:
            return 1
        for groups in GROUPS:
            if (
                count % groups == 0
                and count > groups
                and all(len(set(self.holders[start::groups])) == 1 for start in range(groups))
            ):
                return groups
        return 1


class Orders:
    """The classes of a graph while it is read, and the choice of their orders."""

    def __init__(self) -> None:
        self._classes: list[OrderClass] = []
        self._count = 0
        self._takers: dict[int, list[HeldTensor]] = {}
        self.gathered: list[HeldTensor] = []

    def make(self, name: str, count: int, pinned: bool = False) -> HeldTensor:
        """Add a tensor with an order of its own; pinned: that of the network."""
        made = OrderClass(self._count, count, [], pinned, np.arange(count) if pinned else None)
        self._count += 1
        self._classes.append(made)
        return self._store(name, made, np.arange(count))

    def follow(self, name: str, layout: Layout) -> HeldTensor:
        """Add a tensor that has the order of the one that the layout is all of."""
        source = layout.whole()
        if source is None:
            raise ValueError(f"{name}: follows what is not stored as one tensor")
        return self._store(name, source.order_class, source.slots[layout.channels])

    def gather(self, name: str, layout: Layout) -> HeldTensor:
        """Add a tensor that is put together from parts of others."""
        made = self.make(name, len(layout))
        made.gathered = layout
        self.gathered.append(made)
        return made

    def pin(self, layout: Layout) -> bool:
        """Give a stored tensor the order of this layout, if it can have it."""
        source = layout.whole()
        if source is None:
            return False
        order, kind = source.slots[layout.channels], source.order_class
        if kind.order is None:
            kind.order, kind.pinned = order, True
        return bool(np.array_equal(kind.order, order))

    def tie(self, first: Layout, second: Layout) -> bool:
        """Give two stored tensors one order, channel by channel, if they can have it."""
        a, b = first.whole(), second.whole()
        if a is None or b is None or len(first) != len(second):
            return False
        kept, gone = a.order_class, b.order_class
        theirs, ours = b.slots[second.channels], a.slots[first.channels]
        if kept is gone:
            return bool(np.array_equal(theirs, ours))
        moved = np.empty(gone.count, np.int64)
        moved[theirs] = ours
        if gone.order is not None:
            if kept.order is not None and not np.array_equal(kept.order, moved[gone.order]):
                return False
            kept.order, kept.pinned = moved[gone.order], True
        for member in gone.members:
            member.slots, member.order_class = moved[member.slots], kept
        kept.members += gone.members
        kept.number = min(kept.number, gone.number)
        self._classes.remove(gone)
        return True

    def choose(self, with_shuffles: bool = True) -> None:
        """Choose the orders of all classes.

        What is sliced again comes first, the last ones before what they are gathered from. What is
        gathered and read as a whole takes its sources as they lie; and what a dense convolution
        makes lies as it is wanted.

        Args:
            with_shuffles: Give what is sliced again the order of the network, in which the parts
                are slices.
        """
        for each in self.gathered:
            if each.gathered is not None:
                for key in {id(holder.order_class) for holder in each.gathered.holders}:
                    self._takers.setdefault(key, []).append(each)
        joined = []
        for kind in sorted(self._classes, key=lambda each: -each.number):
            made = next((each for each in kind.members if each.gathered is not None), None)
            if made is None or kind.order is not None:
                continue
            parts = self._parts(kind)
            if all(len(set(part)) == kind.count for part in parts):
                joined.append(made)
            elif with_shuffles:
                kind.order = made.slots
            else:
                kind.order = _grouped(kind, parts, made)
        for made in reversed(joined):
            for holder in made.gathered.holder_list() if made.gathered is not None else ():
                if all(each.gathered is None for each in holder.order_class.members):
                    self._lay(holder.order_class)
            made.order_class.order = _as_it_lies(made)
        for kind in self._classes:
            self._lay(kind)

    def _lay(self, kind: OrderClass) -> None:
        """Give a class that has no order yet one in which the parts that are taken are slices."""
        if kind.order is None:
            kind.order = _one_after_another(kind, self._parts(kind))

    def _parts(self, kind: OrderClass) -> list[list[int]]:
        return [_taken(kind, taker) for taker in self._takers.get(id(kind), [])]

    def _store(self, name: str, kind: OrderClass, slots: IntArray) -> HeldTensor:
        stored = HeldTensor(name, kind, slots)
        kind.members.append(stored)
        return stored


def _one_after_another(kind: OrderClass, parts: Sequence[Sequence[int]]) -> IntArray:
    """Put the parts of a tensor that others take next to each other."""
    placed = dict.fromkeys(slot for part in parts for slot in part)
    return np.array([*placed, *(slot for slot in range(kind.count) if slot not in placed)])


def _as_it_lies(made: HeldTensor) -> IntArray:
    """Put the sources of a gathered tensor one after another, each in the order that it has."""
    layout = made.gathered
    if layout is None:
        raise ValueError(f"{made.name}: is not gathered")
    holders = layout.holder_list()
    places = {id(h): h.positions() for h in holders if h.order_class.order is not None}

    def place(channel: int) -> tuple[int, int]:
        holder, inside = layout.holders[channel], int(layout.channels[channel])
        known = places.get(id(holder))
        return holders.index(holder), inside if known is None else int(known[inside])

    return made.slots[sorted(range(len(layout)), key=place)]


def _taken(kind: OrderClass, taker: HeldTensor) -> list[int]:
    """Return the slots of a class that a gathered tensor takes, as it wants them to lie."""
    layout = taker.gathered
    if layout is None:
        return []
    order, groups = taker.order_class.order, layout.groups()
    if order is None:  # it will follow
        wanted = list(range(len(layout)))
    elif np.array_equal(order, taker.slots):
        wanted = [c for start in range(groups) for c in range(start, len(layout), groups)]
    else:
        wanted = list(taker.channels())  # put together slice by slice
    return [
        int(layout.holders[c].slots[layout.channels[c]])
        for c in wanted
        if layout.holders[c].order_class is kind
    ]


def _grouped(kind: OrderClass, parts: Sequence[Sequence[int]], made: HeldTensor) -> IntArray:
    """Put slots together that are taken by the same tensors, and among them those of one source."""
    layout = made.gathered
    if layout is None:
        raise ValueError(f"{made.name}: is not gathered")
    taken = [set(part) for part in parts]
    takers = [tuple(slot in part for part in taken) for slot in range(kind.count)]
    seen = {taker: number for number, taker in enumerate(dict.fromkeys(takers))}
    places = {id(holder): number for number, holder in enumerate(layout.holder_list())}
    channel = np.argsort(made.slots)

    def place(slot: int) -> tuple[int, int, int]:
        group = seen[takers[slot]]
        source = places[id(layout.holders[channel[slot]])]
        return group, -source if group % 2 else source, int(channel[slot])

    return np.array(sorted(range(kind.count), key=place))


def runs_of(layout: Layout, order: IntArray) -> list[tuple[HeldTensor, int, int]]:
    """Return the slices that make up a layout in an order: tensor, first position, length.

    Args:
        layout: Layout of the gathered channels.
        order: Channel of the layout at each position.
    """
    places = {id(each): each.positions() for each in layout.holder_list()}
    runs: list[tuple[HeldTensor, int, int]] = []
    for channel in order:
        holder = layout.holders[channel]
        place = int(places[id(holder)][layout.channels[channel]])
        if runs and runs[-1][0] is holder and runs[-1][1] + runs[-1][2] == place:
            runs[-1] = holder, runs[-1][1], runs[-1][2] + 1
        else:
            runs.append((holder, place, 1))
    return runs
