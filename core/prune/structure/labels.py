"""Labels that tell which channels of several tensors are one and the same.

Every axis that holds channels bears an array of labels [channels], one for each position. Where an
operator makes two positions live or die together, their labels are joined. An axis without labels
has a size that nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Reason:
    """Why channels stay: an operator that cannot lose them."""

    layer: str
    operator: str
    why: str

    def __str__(self) -> str:
        where = f"{self.layer}: " if self.layer else ""
        return f"{where}{self.operator}: {self.why}" if self.operator else f"{where}{self.why}"


class Labels:
    """Labels of all tensors of a model, traced once or several times.

    Args:
        weights: Shapes of parameters and buffers, which keep their labels from trace to trace.
    """

    def __init__(self, weights: Mapping[str, Sequence[int]]) -> None:
        self._weights = weights
        self._parents: list[int] = []
        self._pinned: dict[int, Reason] = {}
        self.weights: dict[str, dict[int, Array]] = {}  # path -> axis -> labels
        self.activations: dict[str, dict[int, Array]] = {}  # labels of the trace at work

    def __len__(self) -> int:
        return len(self._parents)

    def fresh(self, count: int) -> Array:
        """Make labels that nothing else bears."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def is_weight(self, name: str) -> bool:
        return name in self._weights

    def get(self, name: str, axis: int) -> Array | None:
        """Return the labels on an axis; one of a weight gets its labels when it is asked for."""
        if name not in self._weights:
            return self.activations.get(name, {}).get(axis)
        axes = self.weights.setdefault(name, {})
        if axis not in axes:
            axes[axis] = self.fresh(self._weights[name][axis])
        return axes[axis]

    def axes(self, name: str) -> dict[int, Array]:
        """Return all labelled axes; those of a weight longer than 1 are all labelled."""
        if name not in self._weights:
            return self.activations.get(name, {})
        sizes = self._weights[name]
        found = {axis: self.get(name, axis) for axis, size in enumerate(sizes) if size > 1}
        return {axis: labels for axis, labels in found.items() if labels is not None}

    def put(self, name: str, axes: Mapping[int, Array | None]) -> None:
        """Label an activation; an axis of size 1 has no labels, for it broadcasts."""
        if name:
            self.activations[name] = {
                axis: labels
                for axis, labels in axes.items()
                if labels is not None and labels.size > 1
            }

    def join(self, one: Array, other: Array) -> None:
        """Let positions live or die together, pair by pair."""
        if one is other:
            return
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            a, b = self._root(a), self._root(b)
            if a != b:
                self._parents[b] = a
                if b in self._pinned:
                    self._pinned.setdefault(a, self._pinned.pop(b))

    def join_columns(self, matrix: Array) -> Array:
        """Join all entries of each column of [rows, columns]; return the first row."""
        for row in matrix[1:]:
            self.join(matrix[0], row)
        return np.asarray(matrix[0])

    def pin(self, labels: Iterable[int] | Array, reason: Reason) -> None:
        """Keep channels for good."""
        for label in labels:
            self._pinned.setdefault(self._root(int(label)), reason)

    def reason(self, root: int) -> Reason | None:
        """Return why a channel stays; None if it may go."""
        return self._pinned.get(root)

    def roots(self) -> Array:
        """Return the representative of every label."""
        return np.array([self._root(label) for label in range(len(self._parents))], dtype=np.int64)

    def _root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label
