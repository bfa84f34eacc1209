"""Files of other projects, changed at random: a valid run, or an error with a path."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.measure.dialect_mutations import PATH, mutate, outcome
from core.settings.config import load_yaml

FILES = sorted((Path(__file__).parent / "files").glob("*.yml"))


@pytest.fixture(scope="module", params=FILES, ids=lambda file: file.stem)
def content(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load_yaml(request.param)


def test_unchanged_it_is_a_run(content: dict[str, Any]) -> None:
    assert outcome(content) == "run"


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32))
def test_changed_it_is_a_run_or_an_error_with_a_path(content: dict[str, Any], seed: int) -> None:
    found = outcome(mutate(content, random.Random(seed)))
    assert found == "run" or PATH.match(found)
