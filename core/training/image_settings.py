"""Ranges of the settings that each task has for its images."""

from __future__ import annotations

from core.settings.ranges import check_range

MOST_SIDE = 16384  # pixels of an input
MOST_SEED = 2**32 - 1  # largest seed that all generators take
MOST_WORKERS = 256
RGB = ("red", "green", "blue")


def check_input(data: object) -> None:
    """Check `mean`, `std` and `num_workers` of the section `data` of a task.

    Raises:
        ValueError: Names the one that is out of range.
    """
    check_range(data, -1e4, 1e4, "mean")
    check_range(data, 1e-4, 1e4, "std")
    check_range(data, 0, MOST_WORKERS, "num_workers")


def for_channels(name: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return a value for each channel of an image; three are of red, green and blue.

    One channel has the average of the three, and so has the fourth of four.

    Raises:
        ValueError: There are neither three nor as many as channels.
    """
    if len(values) == channels:
        return values
    if len(values) != len(RGB):
        raise ValueError(f"{name}: expected {channels} values (data.channels), got {len(values)}")
    average = sum(values) / len(values)
    return (average,) if channels == 1 else (*values, average)


def check_split(data: object) -> None:
    """Check `val_share` and `split_seed` of the section `data` of a task.

    Raises:
        ValueError: Names the one that is out of range.
    """
    check_range(data, 0.01, 0.9, "val_share")
    check_range(data, 0, MOST_SEED, "split_seed")
