"""Ranges of the settings that each task has for its images."""

from __future__ import annotations

from core.settings.ranges import check_range

MOST_SIDE = 16384  # of an input, in pixels
MOST_SEED = 2**32 - 1  # that all generators take
MOST_WORKERS = 256


def check_input(data: object) -> None:
    """Check `mean`, `std` and `num_workers` of the section `data` of a task.

    Raises:
        ValueError: Names the one that is out of range.
    """
    check_range(data, -1e4, 1e4, "mean")
    check_range(data, 1e-4, 1e4, "std")
    check_range(data, 0, MOST_WORKERS, "num_workers")


def check_split(data: object) -> None:
    """Check `val_share` and `split_seed` of the section `data` of a task.

    Raises:
        ValueError: Names the one that is out of range.
    """
    check_range(data, 0.01, 0.9, "val_share")
    check_range(data, 0, MOST_SEED, "split_seed")
