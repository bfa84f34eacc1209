"""Convolutions that stay in float since oneDNN may compute them wrongly."""

from __future__ import annotations

import pytest

from core.targets.processors import may_be_wrong_with_amx


@pytest.mark.parametrize(
    ("groups", "channels", "kernel", "signed", "wrong"),
    [
        (1, 32, (4, 4), False, True),
        (1, 32, (1, 8), True, True),
        (1, 15, (4, 4), False, False),
        (1, 64, (4, 4), False, False),
        (1, 32, (2, 2), True, False),
        (1, 24, (3, 3), True, False),
        (1, 72, (1, 1), True, False),
        (8, 128, (4, 3), False, True),
        (2, 72, (1, 1), False, True),
        (2, 64, (1, 1), True, False),
        (2, 128, (1, 1), True, False),
        (2, 24, (1, 1), True, False),
        (2, 24, (3, 3), True, True),
        (2, 24, (3, 3), False, False),  # behind a ReLU, as in ResNeXt and RegNet
        (2, 32, (3, 3), True, False),
        (2, 12, (5, 5), True, False),
        (2, 12, (7, 7), True, True),
        (8, 1, (3, 3), True, True),
    ],
)
def test_the_rule(
    groups: int, channels: int, kernel: tuple[int, int], signed: bool, wrong: bool
) -> None:
    assert may_be_wrong_with_amx(groups, channels, kernel, signed) is wrong
