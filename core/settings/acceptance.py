"""Targets that a compressed model must meet: size, loss of its metric, latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import ConfigError
from core.settings.metric_order import lost

ACCEPTANCE_NAMES = ("max_size_mb", "max_drop", "max_latency_ms")


@dataclass(frozen=True)
class Acceptance:
    """Targets that a file must meet; null: any value will do.

    Attributes:
        max_size_mb: Size of the files that a runtime reads; 1 MB is 10**6 bytes.
        max_drop: Loss of the metric against the float model: in points (hundredths), or in percent
            of the float metric.
        drop_in_percent: Whether `max_drop` is in percent.
        max_latency_ms: Milliseconds of one image.
    """

    max_size_mb: float | None = None
    max_drop: float | None = None
    drop_in_percent: bool = False
    max_latency_ms: float | None = None


@dataclass(frozen=True)
class FileFigures:
    """Figures of a file in a runtime; None: not measured.

    Attributes:
        name: Name for people.
        size_mb: Size of its files.
        latency_ms: Milliseconds of one image.
        metric: Its metric.
        float_metric: Metric of the float model.
        higher_is_better: Whether larger metrics are better.
    """

    name: str
    size_mb: float | None = None
    latency_ms: float | None = None
    metric: float | None = None
    float_metric: float | None = None
    higher_is_better: bool = True

    @property
    def drop(self) -> float | None:
        """Return the loss of the metric, negative if the file is better."""
        if self.metric is None or self.float_metric is None:
            return None
        return lost(self.float_metric, self.metric, self.higher_is_better)


@dataclass(frozen=True)
class Judgement:
    """Result of a check: a line for each file and target, and the best file that meets all."""

    lines: tuple[str, ...]
    best: FileFigures | None


def read_acceptance(text: str) -> Acceptance:
    """Read `max_size_mb=20,max_drop=5%,max_latency_ms=100`.

    Raises:
        ConfigError: No such target, or no number.
    """
    found: dict[str, float] = {}
    percent = False
    for part in text.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        if name not in ACCEPTANCE_NAMES or name in found:
            known = ", ".join(ACCEPTANCE_NAMES)
            raise ConfigError(f"targets: expected one each of {known}, got {part!r}")
        if name == "max_drop" and value.endswith("%"):
            percent, value = True, value[:-1]
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        least = "of 0 or more" if name == "max_drop" else "above 0"
        if not 0 <= found[name] < math.inf or (name != "max_drop" and found[name] == 0):
            raise ConfigError(f"targets.{name}: expected a number {least}, got {value!r}")
    return Acceptance(**found, drop_in_percent=percent)


def judge(wanted: Acceptance, files: Sequence[FileFigures]) -> Judgement:
    """Compare files with targets; what was not measured does not meet its target.

    The best file has the best metric, or, where none was measured, the lowest latency.
    """
    lines, passing = [], []
    for file in files:
        verdicts = _verdicts(wanted, file)
        lines += [f"{'pass' if ok else 'FAIL'}  {file.name}: {said}" for ok, said in verdicts]
        if all(ok for ok, _ in verdicts):
            passing.append(file)
    return Judgement(tuple(lines), min(passing, key=_rank, default=None))


def _rank(file: FileFigures) -> tuple[float, float]:
    """Sort the better metric first, then the lower latency."""
    metric = 0.0 if file.metric is None else file.metric
    latency = math.inf if file.latency_ms is None else file.latency_ms
    return (-metric if file.higher_is_better else metric), latency


def _verdicts(wanted: Acceptance, file: FileFigures) -> list[tuple[bool, str]]:
    drop, unit = file.drop, "points"
    if drop is not None:
        drop *= 100
    if wanted.drop_in_percent:
        unit = "%"
        whole = abs(file.float_metric or 0.0)
        drop = drop / whole if drop is not None and whole else None
    asked = (
        ("size", file.size_mb, wanted.max_size_mb, "MB"),
        ("drop", drop, wanted.max_drop, unit),
        ("latency", file.latency_ms, wanted.max_latency_ms, "ms"),
    )
    found = []
    for what, value, limit, measure in asked:
        if limit is None:
            continue
        if value is None:
            found.append((False, f"{what} was not measured, at most {limit:g} {measure} wanted"))
        else:
            said = f"{what} {value:.3g} {measure}, at most {limit:g} wanted"
            found.append((value <= limit, said))
    return found
