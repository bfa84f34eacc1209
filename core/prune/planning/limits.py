"""How many channels of a layer may go."""

from __future__ import annotations

import math


def share_of(ratio: float, size: int) -> int:
    """Return how many of `size` channels a share is, rounded down."""
    return math.floor(size * ratio + 1e-9)


def may_go(size: int, max_ratio: float) -> int:
    """Return how many of a layer's channels may go: no larger share, and one stays at least."""
    return min(size - 1, share_of(max_ratio, size))
