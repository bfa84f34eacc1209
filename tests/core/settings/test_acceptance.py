"""Targets: how they are written, what meets them, which file is best."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.errors import ConfigError
from core.settings.acceptance import Acceptance, FileFigures, judge, read_acceptance

FILE = FileFigures("int8", size_mb=2.0, latency_ms=5.0, metric=0.7, float_metric=0.72)


def test_all_targets_can_be_written() -> None:
    read = read_acceptance("max_size_mb=20, max_drop=5%,max_latency_ms=100")
    assert read == Acceptance(20.0, 5.0, True, 100.0)
    assert read_acceptance("max_drop=0.5") == Acceptance(max_drop=0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_size=20", "got 'max_size=20'"),
        ("", "expected one each of max_size_mb, max_drop, max_latency_ms, got ''"),
        ("max_size_mb=x", "targets.max_size_mb: expected a number above 0, got 'x'"),
        ("max_size_mb=nan", "got 'nan'"),
        ("max_latency_ms=0", "got '0'"),
        ("max_latency_ms=5%", "got '5%'"),
        ("max_drop=-1", "targets.max_drop: expected a number of 0 or more, got '-1'"),
        ("max_drop=1,max_drop=2", "got 'max_drop=2'"),
        ("drop_in_percent=1", "got 'drop_in_percent=1'"),
    ],
)
def test_others_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_acceptance(text)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "passes", "said"),
    [
        ("max_size_mb=2", True, "pass  int8: size 2 MB, at most 2 wanted"),
        ("max_size_mb=1.9", False, "FAIL  int8: size 2 MB, at most 1.9 wanted"),
        ("max_drop=2.1", True, "pass  int8: drop 2 points, at most 2.1 wanted"),
        ("max_drop=1.9", False, "FAIL  int8: drop 2 points, at most 1.9 wanted"),
        ("max_drop=2.8%", True, "pass  int8: drop 2.78 %, at most 2.8 wanted"),
        ("max_drop=2.7%", False, "FAIL  int8: drop 2.78 %, at most 2.7 wanted"),
        ("max_latency_ms=4", False, "FAIL  int8: latency 5 ms, at most 4 wanted"),
    ],
)
def test_a_target_is_met_or_not(text: str, passes: bool, said: str) -> None:
    found = judge(read_acceptance(text), [FILE])
    assert found.lines == (said,)
    assert found.best == (FILE if passes else None)


def test_what_was_not_measured_is_not_met() -> None:
    found = judge(Acceptance(max_drop=50.0), [replace(FILE, metric=None)])
    assert found.lines == ("FAIL  int8: drop was not measured, at most 50 points wanted",)
    assert found.best is None


def test_a_better_file_loses_nothing() -> None:
    better = replace(FILE, metric=0.9)
    assert judge(Acceptance(max_drop=0.0), [better]).best == better
    error = replace(FILE, metric=0.8, float_metric=0.7, higher_is_better=False)
    assert judge(Acceptance(max_drop=9.0), [error]).best is None
    assert judge(Acceptance(max_drop=10.1), [error]).best == error


def test_the_best_has_the_best_metric_and_then_the_lowest_latency() -> None:
    slow, fast = replace(FILE, name="slow", latency_ms=9.0), replace(FILE, name="fast")
    good = replace(FILE, name="good", metric=0.71, latency_ms=20.0)
    assert judge(Acceptance(max_latency_ms=30.0), [slow, fast, good]).best == good
    assert judge(Acceptance(max_latency_ms=10.0), [slow, fast, good]).best == fast
    unmeasured = [replace(each, metric=None) for each in (slow, fast)]
    assert judge(Acceptance(max_size_mb=3.0), unmeasured).best == unmeasured[1]
