"""Both inputs of a channel shuffle keep the same number of channels, as far as that goes.

A shuffle deals the channels of two maps out in turns. Where they keep different numbers, nothing
regular is left, and an exported graph has a gather in its place, between two changes of layout in
OpenVINO: networks of many shuffles then run slower than they did whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.prune.planning.limits import may_go
from core.prune.structure.analysis import Analysis
from core.prune.structure.labels import Array

NEVER = -1  # rank of a label that may not go


class EvenHalves:
    """Evens out masks of kept channels.

    Args:
        analysis: Analysis of the model.
        orders: Per group, positions of the units that may go, least important first.
        most: Per group, how many may go.
        max_ratio: No layer of a group loses a larger share.
    """

    def __init__(
        self, analysis: Analysis, orders: Sequence[Array], most: Sequence[int], max_ratio: float
    ) -> None:
        self._rank = np.full(analysis.count, NEVER)
        sets, least = [np.zeros(0, np.int64)], [0]  # of each set so many labels stay at least
        for group, order, count in zip(analysis.groups, orders, most):
            if count:
                self._rank[group.units[order]] = np.arange(len(order))
                sets += [group.units, *(group.units[part] for part in group.keep_one)]
                least.append(len(group) - count)
                least += [len(part) - may_go(len(part), max_ratio) for part in group.keep_one]
        self._members, sizes = np.concatenate(sets), [len(labels) for labels in sets]
        self._owners, self._least = np.repeat(np.arange(len(sets)), sizes), np.array(least)
        by_label = np.argsort(self._members, kind="stable")
        bounds = np.searchsorted(self._members[by_label], np.arange(analysis.count + 1))
        self._sets_of = np.split(self._owners[by_label], bounds[1:-1])
        pairs = [moved.inputs for moved in analysis.rearrangements if not moved.parts]
        self._pairs = [
            (first, second[np.argsort(self._rank[second], kind="stable")])
            for first, second in pairs
            if len(first) == len(second)
        ]

    def even_out(self, mask: Array) -> None:
        """Change a mask [labels] of what is kept, in the order in which the network runs.

        The second input of a shuffle, which the block makes, follows the first, which passes it.
        Halves differ still where what may not go is in the way, and where a block ties its channels
        to those of another shuffle.
        """
        inside = np.bincount(self._owners, mask[self._members], len(self._least))
        spare = inside.astype(np.int64) - self._least
        for first, by_rank in self._pairs:
            missing = np.count_nonzero(mask[first]) - np.count_nonzero(mask[by_rank])
            if missing > 0:
                for label in by_rank[~mask[by_rank]][-missing:]:
                    mask[label] = True
                    spare[self._sets_of[label]] += 1
            elif missing < 0:
                for label in by_rank[mask[by_rank] & (self._rank[by_rank] != NEVER)]:
                    if missing and (spare[self._sets_of[label]] > 0).all():
                        mask[label] = False
                        spare[self._sets_of[label]] -= 1
                        missing += 1
