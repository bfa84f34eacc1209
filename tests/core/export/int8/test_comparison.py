"""When a runtime is no nearer to the model than an answer that knows no image."""

from __future__ import annotations

import numpy as np
import pytest

from core.export import parity
from core.export.int8.comparison import nothing_left


@pytest.mark.parametrize(
    ("values", "decided", "off", "left"),
    [
        ([1.0, 2.0, 3.0], [], 0.37, True),  # the distance of 2, the mean, is 0.378
        ([1.0, 2.0, 3.0], [], 0.38, False),
        ([1.0, 2.0, 3.0], [], float("nan"), False),
        ([4, 4, 4, 5], [], 0.24, True),  # always 4 is wrong in a quarter
        ([4, 4, 4, 5], [], 0.25, False),
        ([0.5, 0.5, 0.7], ["y"], 0.3, True),
        ([0.5, 0.5, 0.7], ["y"], 0.4, False),
    ],
)
def test_nothing_is_left_where_a_constant_is_as_near(
    values: list[float], decided: list[str], off: float, left: bool
) -> None:
    wanted = [{"y": np.asarray(part)} for part in (values[:2], values[2:])]
    difference = parity.Difference("paddle", "y", off, None, 0.0, 0.0)
    assert nothing_left(difference, wanted, decided) is not left


def test_nothing_is_left_where_the_answer_to_another_image_is_as_near() -> None:
    wanted = [{"y": np.asarray([[0.0, 8.0]])}, {"y": np.asarray([[0.0, 8.0], [1.0, 8.0]])}]
    # of four pairs that differ, by 1 each; a constant is 1.0 off
    between = (4 / (2 * 64 + 2 * 65)) ** 0.5
    for off, left in ((0.99 * between, True), (1.01 * between, False)):
        difference = parity.Difference("paddle", "y", off, None, 0.0, 0.0)
        assert nothing_left(difference, wanted, []) is not left
    difference = parity.Difference("paddle", "y", 0.7, None, 0.0, 0.0)
    assert not nothing_left(difference, wanted[:1], [])  # of one image
    decisions = [{"y": np.asarray([[1, 2, 3, 4]])}, {"y": np.asarray([[1, 2, 3, 5]])}]
    difference = parity.Difference("paddle", "y", 0.25, None, 0.0, 0.0)
    assert nothing_left(difference, decisions, [])
