"""Whether int8 pays is measured on the very files, and told where it does not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.export import parity
from core.export.package import export
from core.quant.sites import float_sites
from core.runtimes.predictor import load_predictor
from core.settings.config import merge
from core.targets.names import BACKENDS
from core.task import Task, build_task
from core.workflows import int8_speed
from core.workflows.comparison_table import ComparisonRow, runtime_rows, to_table
from core.workflows.int8_speed import Int8Latency, warn_where_slower
from tests.networks.ranked_layers import toy

SLOWER = "paddle: int8 is no faster than float here: 3.00 ms, float 2.00; cure"


@pytest.fixture
def task(toy_settings: Callable[..., dict[str, Any]]) -> Task:
    settings = toy_settings()
    kept = {key: settings[key] for key in ("data", "synthetic")}
    return build_task("outside.toy", merge(kept, {"model": {"width": 8}}))


def test_float_and_int8_files_take_turns(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = toy(task), int8_speed.one_image(task)
    made = export(task, model, tmp_path / "out", ("paddle", "onnx"))
    timed: list[Callable[[], dict[str, np.ndarray]]] = []

    def note(runs: Sequence[Any], *_: object) -> list[float]:
        timed.extend(runs)
        return [2.0, 1.0]

    monkeypatch.setattr(int8_speed, "shortest_ms", note)
    graph = int8_speed.float_graph(task, model)
    found = int8_speed.measure_latency(graph, made.folder, made, inputs)
    assert found == dict.fromkeys(BACKENDS, Int8Latency(float_ms=2.0, int8_ms=1.0))
    with float_sites(model):
        exact = parity.run_eager(task.deploy_model(model, "raw"), inputs)
    for backend, in_float, in_int8 in zip(BACKENDS, timed[::2], timed[1::2]):
        np.testing.assert_allclose(in_float()["level"], exact["level"], atol=1e-5)
        rounded = load_predictor(made.folder, backend).run(*inputs)
        np.testing.assert_array_equal(in_int8()["level"], rounded["level"])
        assert abs(rounded["level"] - exact["level"]).max() > 1e-5
    rows = runtime_rows(made.folder, made, 1.0, lambda run: 0.5, found)
    assert [row.latency for row in rows] == [Int8Latency(2.0, 1.0)] * 3


def test_only_written_formats_are_timed(task: Task, tmp_path: Path) -> None:
    model = toy(task)
    made = export(task, model, tmp_path / "out", ("onnx",))
    graph = int8_speed.float_graph(task, model)
    found = int8_speed.measure_latency(graph, made.folder, made, int8_speed.one_image(task))
    assert list(found) == ["onnxruntime", "openvino"]
    assert all(each.float_ms > 0 and each.int8_ms > 0 for each in found.values())


@pytest.mark.parametrize(
    ("times", "target", "told"),
    [
        ({"paddle": (2.0, 3.0)}, "openvino", [SLOWER]),
        ({"paddle": (2.0, 1.9), "openvino": (1.0, 0.9)}, "openvino", []),
        ({"onnxruntime": (2.0, 3.0), "openvino": (2.0, 1.0)}, "openvino", []),
        (
            {"onnxruntime": (2.0, 2.0)},
            "onnxruntime",
            [SLOWER.replace("3.00", "2.00").replace("paddle", "onnxruntime")],
        ),
    ],
)
def test_what_is_slower_is_told_where_files_are_for(
    times: dict[Any, tuple[float, float]], target: str, told: list[str], caplog: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_where_slower(
            {name: Int8Latency(*each) for name, each in times.items()}, target, "cure"
        )
    assert [record.getMessage() for record in caplog.records] == told


def test_the_table_shows_both_times(capsys: Any) -> None:
    from rich.console import Console

    rows = [ComparisonRow("float", 0.5), ComparisonRow("int8", 0.5, latency=Int8Latency(3.0, 2.0))]
    Console(width=200).print(to_table(rows, "top1"))
    printed = capsys.readouterr().out
    assert "float → int8 ms" in printed
    assert "3.00 → 2.00 │" in printed
