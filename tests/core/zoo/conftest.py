"""A row that is planned without anything being run, and figures of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.prune.planning.sensitivity import Curve, Sensitivity
from core.training.measurements import save
from core.zoo.changes import Changes, LayerChange
from core.zoo.reproduction import ZooResult
from core.zoo.rows import ZooRow, ZooScale
from core.zoo.steps import ZooPlaces, ZooStep, plan_steps

ROOT = Path(__file__).resolve().parents[3]
DEMO = str(ROOT / "configs" / "cls" / "demo.yml")
RESULTS = """\
epoch,step,seconds,learning_rate,train/loss_ce,val/top1
1,2,3.5,0.001,1.5,
2,4,7.0,0.0005,1.25,0.375
"""
SENSITIVITY = Sensitivity(
    "f",
    "top1",
    0.5,
    {"stem.conv": Curve((0.25, 0.5), (0.0, 0.5)), "head.new": Curve((0.5,), (1.0,))},
)
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


def times(*rows: tuple[str, str, float]) -> list[dict[str, Any]]:
    return [dict(zip(("kind", "precision", "ms"), row), count=1) for row in rows]


@pytest.fixture
def result(tmp_path: Path) -> ZooResult:
    operators = {"float": times(("Conv", "float", 6.0), ("Add", "float", 2.0))}
    operators["compressed"] = times(("Conv", "int8", 3.5), ("rounding", "float", 1.5))
    rows: list[dict[str, Any]] = [
        {"model": model, "backend": backend, "mean_ms": ms / threads, "size_mb": ms / 2}
        | {"threads": threads, "operators": operators[model] if backend == "openvino" else None}
        for threads in (1, 2)
        for model, ms in (("float", 8.0), ("compressed", 5.0 * threads))
        for backend in ("paddle", "onnxruntime", "openvino")
    ]
    published = {"float_metric": 0.7, "compressed_metric": 0.6, "float_ms": 204.2}
    published |= {"compressed_ms": 150.1, "size_mb": None}
    metrics = {
        model: {each: {"top1": value} for each in ("paddle", "onnxruntime", "openvino")}
        for model, value in (("float", 0.6875), ("compressed", 0.625))
    }
    about = {"title": "<b>Net</b>", "source": "S", "metric": "top1", "slim": ["qat"]}
    training = tmp_path / "float"
    training.mkdir()
    (training / "predictions.png").write_bytes(b"predictions")
    (training / "results.csv").write_text(RESULTS)
    save(training / "sensitivities.json", [SENSITIVITY])
    layers = (
        LayerChange("stem.conv", "Conv", 32, 24, True),
        LayerChange("head.new", "Conv", None, 4, False),
    )
    strategies = ({"kind": "prune", "target_ratio": 0.5}, {"kind": "qat"})
    return ZooResult(
        name="net",
        scale="small",
        row={**about, "published": published},
        metrics=metrics,
        benchmark=tuple(rows),
        commands={"benchmark": "python tools/benchmark.py --model_dir a b"},
        seconds={"benchmark": 12.0},
        trainings={"float": str(training), "compressed": str(tmp_path / "none")},
        pictures={"float": str(training / "predictions.png"), "compressed": str(tmp_path / "no")},
        changes=Changes(strategies, (3_000_000, 2_000_000), (9_000_000, 5_000_000), layers),
        environment={"cpu": "EPYC", "cpu_instructions": ["avx2", "avx512_vnni"]},
        date="2026-11-26",
    )
