"""Means of loss terms over the steps of an epoch, which an interrupted epoch keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RunningMeans:
    """Means of terms that are added step by step; a term may be missing in some steps."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = 0

    def add(self, terms: Mapping[str, float]) -> None:
        """Add the terms of a step."""
        self._steps += 1
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Return the mean of each term over all steps."""
        return {name: value / self._steps for name, value in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs; nothing before the first step."""
        return {"sums": dict(self._sums), "steps": self._steps} if self._steps else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._sums, self._steps = dict(state.get("sums", {})), int(state.get("steps", 0))
