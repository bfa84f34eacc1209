"""A row that is planned without anything being run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from core.zoo.rows import ZooRow, ZooScale
from core.zoo.steps import ZooPlaces, ZooStep, plan_steps

ROOT = Path(__file__).resolve().parents[3]
DEMO = str(ROOT / "configs" / "cls" / "demo.yml")
Plan = Callable[..., list[ZooStep]]


@pytest.fixture
def places(tmp_path: Path) -> ZooPlaces:
    names = ("row", "floats", "data", "drawn")
    return ZooPlaces(*(tmp_path / name for name in names), ROOT / "configs" / "slim")


def make_row(
    slim: tuple[str, ...] = ("qat",), teacher: str | None = None, **scale: object
) -> ZooRow:
    """Return a row with one scale."""
    how = ZooScale(**scale)  # type: ignore[arg-type]
    return ZooRow("Row", "a paper", "top1", DEMO, {"small": how}, slim=slim, teacher=teacher)


@pytest.fixture
def plan(places: ZooPlaces) -> Plan:
    def make(row: ZooRow, weights: Path | None = None) -> list[ZooStep]:
        return plan_steps(row, row.scales["small"], places, weights)

    return make
