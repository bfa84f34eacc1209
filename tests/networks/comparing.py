"""Exports and training states, compared to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from paddle.base.proto.framework_pb2 import ProgramDesc


def graph_of(folder: Path) -> tuple[list[str], int]:
    """Return the operators of an exported model and the bytes of its weights."""
    program = ProgramDesc.FromString((folder / "model.pdmodel").read_bytes())
    operators = [operator.type for operator in program.blocks[0].ops]
    return operators, (folder / "model.pdiparams").stat().st_size


def assert_same(one: Any, two: Any) -> None:
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for a, b in zip(one, two):
            assert_same(a, b)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, two)
    else:
        assert one == two or (one != one and two != two)
