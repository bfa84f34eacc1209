"""The report of a benchmark: times, what takes them, and where each layer runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.reports.benchmark import write_benchmark_report
from core.reports.page import FIGURES
from core.runtimes.benchmark import BenchmarkRow, Protocol
from core.runtimes.operator_times import OperatorTime
from tests.core.zoo.test_changes import exported

OPERATORS = {
    "float": (OperatorTime("Conv", "float", 3, 6.0), OperatorTime("Add", "float", 1, 2.0)),
    "int8": (OperatorTime("Conv", "int8", 3, 3.5), OperatorTime("rounding", "float", 4, 1.5)),
}


def row(model: Path, backend: str, ms: float, first: float, **more: object) -> BenchmarkRow:
    return BenchmarkRow(
        model=str(model),
        backend=backend,  # type: ignore[arg-type]
        mean_ms=ms,
        median_ms=ms,
        p95_ms=ms,
        speedup=(first - ms) / first,
        ratio=first / ms,
        size_mb=ms / 2,
        parameters=100,
        macs=200,
        peak_memory_mb=None,
        times_ms=(ms,),
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def rows(tmp_path: Path) -> list[BenchmarkRow]:
    whole = exported(tmp_path / "float", 8, (), 9)
    cut = exported(tmp_path / "int8", 4, ("stem.conv.weight",), 5)
    return [
        row(whole, "onnxruntime", 8.0, 8.0, operators=OPERATORS["float"]),
        row(cut, "onnxruntime", 5.0, 8.0, operators=OPERATORS["int8"]),
        row(whole, "onnxruntime", 4.0, 4.0, threads=2),
        row(cut, "onnxruntime", 5.0, 4.0, threads=2),
    ]


def test_every_figure_is_there(tmp_path: Path, rows: list[BenchmarkRow]) -> None:
    page = write_benchmark_report(
        tmp_path, rows, Protocol(), "python tools/benchmark.py x"
    ).read_text()
    for said in ("37.5 %", "1.60", "-25.0 %", "0.80", "python tools/benchmark.py x", "avx2"):
        assert said in page
    assert "Conv -2.50 ms, Add -2.00 ms, rounding +1.50 ms; 70% of" in page
    assert "<td>stem.conv</td><td>Conv</td><td>8 → 4</td><td>int8</td>" in page
    assert page.count("<svg") == 1  # of one number of threads
    content = json.loads((tmp_path / FIGURES).read_text())
    assert [each["mean_ms"] for each in content["rows"]] == [8.0, 5.0, 4.0, 5.0]
    [changes] = content["changes"].values()
    assert [each["in_int8"] for each in changes["layers"]] == [True, False, False, False]
    assert content["environment"]["cpu_instructions"]


def test_models_without_onnx_files_have_no_layers(tmp_path: Path, rows: list[BenchmarkRow]) -> None:
    paddle = [row(Path(each.model), "paddle", each.mean_ms, 8.0) for each in rows[:2]]
    page = write_benchmark_report(tmp_path, paddle, Protocol(), "x").read_text()
    assert "Where each layer runs" not in page
    assert "What takes the time" not in page


def test_one_model_alone_is_a_page_too(tmp_path: Path, rows: list[BenchmarkRow]) -> None:
    page = write_benchmark_report(tmp_path, rows[:1], Protocol(), "x").read_text()
    assert "beside the first model" not in page
    assert page.count("<svg") == 1
