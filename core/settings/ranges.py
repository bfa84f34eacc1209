"""Check ranges of settings: values outside would fail later, or run forever."""

from __future__ import annotations


def check_range(config: object, low: float, high: float, *names: str) -> None:
    """Refuse fields of a dataclass outside of [low, high]; None is not looked at.

    Args:
        config: The dataclass; a tuple among its fields is looked at number by number.
        low: The smallest legal value.
        high: The largest.
        names: Names of the fields.

    Raises:
        ValueError: Names the field.
    """
    for name in names:
        value = getattr(config, name)
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and not low <= each <= high:
                raise ValueError(f"{name}: expected {low:,} to {high:,}, got {each}")


def check_weights(name: str, weights: tuple[float, ...]) -> None:
    """Refuse weights below zero, and weights that are all zero.

    Raises:
        ValueError: Names the setting.
    """
    if any(not 0 <= weight <= 1e6 for weight in weights):
        raise ValueError(f"{name}: expected weights from 0 to 1,000,000, got {list(weights)}")
    if weights and not any(weights):
        raise ValueError(f"{name}: expected a weight above 0, got {list(weights)}")
