"""Splits that are drawn: who is in them depends on names and seed, on nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.errors import DataError
from core.training.splits import drawn_split, relative_names, write_list

NAMES = [f"cat/{i}.jpg" for i in range(20)] + [f"dog/{i}.jpg" for i in range(5)] + ["ox/0.jpg"]
GROUPS = [0] * 20 + [1] * 5 + [2]


def test_each_group_gives_its_share_and_keeps_some() -> None:
    chosen = drawn_split(NAMES, 0.2, 0, GROUPS)
    assert [int(chosen[np.array(GROUPS) == group].sum()) for group in range(3)] == [4, 1, 0]
    assert drawn_split(["a", "b"], 0.9, 0).sum() == 1  # never all
    assert drawn_split(["a", "b"], 0.01, 0).sum() == 1  # never none of several


def test_order_does_not_matter_and_the_seed_does() -> None:
    chosen = {name for name, taken in zip(NAMES, drawn_split(NAMES, 0.2, 0, GROUPS)) if taken}
    back = drawn_split(NAMES[::-1], 0.2, 0, GROUPS[::-1])
    assert {name for name, taken in zip(NAMES[::-1], back) if taken} == chosen
    other = drawn_split(NAMES, 0.2, 1, GROUPS)
    assert {name for name, taken in zip(NAMES, other) if taken} != chosen


def test_the_split_is_that_of_every_machine_and_version() -> None:
    chosen = drawn_split([f"{i}.png" for i in range(10)], 0.3, 0)
    assert np.flatnonzero(chosen).tolist() == [1, 2, 6]


def test_lists_hold_names_below_the_root(tmp_path) -> None:
    assert relative_names([str(tmp_path / "a" / "b.jpg")], tmp_path) == ["a/b.jpg"]
    file = write_list(tmp_path / "deep" / "list.txt", ["a 0", "b 1"])
    assert Path(file).read_text() == "a 0\nb 1\n"
    with pytest.raises(DataError, match="a name with a line break"):
        write_list(tmp_path / "list.txt", ["a\nb 0"])
