"""The benchmark of exported models."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from core.errors import ExportError
from core.runtimes.benchmark import Protocol, benchmark, write_json
from core.runtimes.benchmark_tables import to_table
from core.runtimes.predictor import load_predictor
from core.targets.names import BACKENDS


class Slow:
    """A predictor that notes when it was called."""

    def __init__(self, inner, name, calls):
        self.inner, self.name, self.calls = inner, name, calls
        self.description, self.backend = inner.description, inner.backend

    def run(self, *arrays):
        self.calls.append(self.name)
        return self.inner.run(*arrays)


def test_benchmark_runs_in_turn_and_compares_with_the_first(toy, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "core.runtimes.benchmark.load_predictor",
        lambda folder, backend, threads: Slow(load_predictor(folder, backend), backend, calls),
    )
    protocol = Protocol(warmup=2, runs=3, batch_size=2, memory=False)
    rows = benchmark([toy, toy], protocol)
    assert calls == [*BACKENDS, *BACKENDS] * 5
    assert [row.backend for row in rows] == [*BACKENDS, *BACKENDS]
    for first, second in zip(rows[:3], rows[3:]):
        assert len(first.times_ms) == 3
        assert first.mean_ms == pytest.approx(np.mean(first.times_ms), rel=1e-3)
        assert first.median_ms == pytest.approx(np.median(first.times_ms), abs=1e-3)
        assert first.speedup == 0
        assert second.speedup == pytest.approx((first.mean_ms - second.mean_ms) / first.mean_ms)
        assert second.ratio == pytest.approx(first.mean_ms / second.mean_ms)
        assert (second.threads, second.operators) == (1, None)
        assert first.macs == 2 * (4 * 8 * 8 * 27 + 4)
        assert first.parameters == 121
    write_json(rows, protocol, tmp_path / "bench.json")
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["protocol"]["runs"] == 3
    assert written["rows"][0]["model"] == str(toy)
    assert {"cpu", "cores", "os", "python", "packages", "variables"} <= set(written["environment"])
    assert to_table(rows).row_count == 6


def test_benchmark_of_models_from_elsewhere(bare, monkeypatch):
    # models are opened here alone, which is faster
    monkeypatch.setattr("core.runtimes.survived.try_out", lambda *given: None)
    rows = benchmark([bare], Protocol(memory=False, warmup=0, runs=1, batch_size=2))
    assert [row.backend for row in rows] == list(BACKENDS)  # sizes come from the files
    once = Protocol(memory=False, warmup=0, runs=1, output="sum")
    assert len(benchmark([bare / "model.onnx"], once)) == 2
    with pytest.raises(ExportError, match=r"--output: .* has no output 'top': sum \[-1, 3\]"):
        benchmark([bare], replace(once, output="top"))
    with pytest.raises(ExportError, match=r"batch_size: expected 1 or more, got 0"):
        Protocol(batch_size=0)


def test_benchmark_measures_memory(toy):
    (row,) = benchmark([toy], Protocol(backends=("onnxruntime",), warmup=0, runs=1))
    assert 0 < row.peak_memory_mb < 200
