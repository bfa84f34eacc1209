"""Only the formats that are asked for: what is written, compared and opened, float and int8."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from core.act import static_ptq
from core.act.config import OP_TYPES, StaticPtqConfig
from core.act.files import FileLayout, measure_files, write
from core.act.session import open_session, samples_of
from core.act.source import open_source
from core.errors import ExportError
from core.export.files import FILES
from core.export.int8 import int8_files
from core.export.package import export
from core.prune.planning.latency import load_run
from core.runtimes import formats as known
from core.runtimes.benchmark import Protocol, benchmark
from core.runtimes.description import read_description
from core.runtimes.predictor import load_predictor
from core.targets.names import FORMATS, ONNX_TARGETS, Format
from core.targets.presets import PRESETS
from core.task import Task
from core.workflows.comparison_table import MeasuredMetric
from core.workflows.layer_speed import measure_speed
from tests.core.export.conftest import build, named

RUNTIMES: dict[str, set[str]] = {
    "paddle": {"paddle"},
    "onnx": {"onnxruntime", "openvino"},
    "openvino": {"openvino"},
    "lite": set(),
}
CHOICES = [chosen for count in (1, 2, 4) for chosen in combinations(FORMATS, count)]
CONVERTER = """#!/bin/sh
[ -z "$6" ] || cat "$3" "$4" /dev/null > /dev/null || exit 3
[ -z "$6" ] || printf conv2d/int8_out/4/2/1 > "$6.nb"
"""


@pytest.fixture(autouse=True)
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a script in the place of Paddle Lite's converter, which wants to read both its files."""
    script = tmp_path / "python-of-lite"
    script.write_text(CONVERTER)
    script.chmod(0o755)
    monkeypatch.setenv("TRISLIM_LITE_PYTHON", str(script))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["float", "int8"])
@pytest.mark.parametrize("chosen", CHOICES, ids=",".join)
def test_what_is_asked_for_is_written_and_nothing_else(
    task: Task, tmp_path: Path, chosen: tuple[Format, ...], kind: str
) -> None:
    out = tmp_path / "out"
    made = export(task, build(task, kind), out, chosen[::-1])
    assert names(out) == made.file_bytes.keys() == named(chosen) | {"deploy.yml"}
    runtimes = set().union(*(RUNTIMES[each] for each in chosen))
    assert {each.runtime for each in made.differences} == runtimes
    assert made.float_bytes.keys() == (named(chosen) if kind == "int8" else set())
    # the size is that of the first format, in the order in which they are known
    assert made.sized_files == FILES[chosen[0]]
    size = sum((out / name).stat().st_size for name in FILES[chosen[0]])
    assert made.description.report is not None
    assert made.description.report.size_mb == round(size / 1e6, 3)
    assert made.description.report.macs == 4 * 8 * 8 * 27 + 4
    assert read_description(out) == made.description
    assert known.formats_in(out) == chosen


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_no_failure_of_paddle_inference_spoils_other_formats(
    task: Task, tmp_path: Path, kind: str, no_inference: None
) -> None:
    model = build(task, kind)
    for chosen in (("onnx",), ("lite",), ("onnx", "lite")):
        export(task, model, tmp_path / "out", chosen, overwrite=True)  # type: ignore[arg-type]
        assert names(tmp_path / "out") == named(chosen) | {"deploy.yml"}  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"model.pdmodel: paddle cannot load it: no such instr"):
        export(task, model, tmp_path / "other", ("paddle", "onnx"))


@pytest.mark.parametrize(
    "chosen", [("onnx",), ("lite",), ("lite", "onnx"), ("openvino",)], ids=",".join
)
def test_models_without_their_code_need_no_paddle_inference(
    task: Task, tmp_path: Path, chosen: tuple[Format, ...], request: pytest.FixtureRequest
) -> None:
    """Nor do their costs, which no deploy.yml gives here."""
    export(task, build(task, "float"), tmp_path / "float")
    request.getfixturevalue("no_inference")
    (tmp_path / "float" / "deploy.yml").unlink()
    source, out = open_source(tmp_path / "float"), tmp_path / "out"
    images = np.random.default_rng(0).random((4, 4, 3, 8, 8), np.float32)
    data = [[batch] for batch in images]
    out.mkdir()
    places = source.choose(OP_TYPES, (), True, "never_quantize")
    with open_session(source, places) as session:
        found = static_ptq.calibrate(session, lambda: iter(data), StaticPtqConfig("abs_max"))
        model = static_ptq.settle(session, *found)
        made = write(
            model, out, FileLayout(chosen, "openvino", None), samples_of(source, data, "x")
        )
        rows = measure_files(
            model, made, 0.0, lambda run: 0.5, MeasuredMetric("mae", images=4), data[0]
        )
    assert names(out) == named(chosen) | {"deploy.yml"}
    runtimes = sorted(set().union(*(RUNTIMES[each] for each in chosen)))
    assert {each.runtime for each in made.differences} == {*runtimes}
    assert made.float_bytes.keys() == named(chosen)
    assert read_description(out) == made.description
    size = sum((out / name).stat().st_size for name in made.sized_files)
    assert made.description.report is not None
    assert made.description.report.size_mb == round(size / 1e6, 3)
    for each in made.differences:  # beside the float files of the same runtime
        assert each.relative is not None
        assert each.effect is not None
        assert each.relative < each.effect / 10
    assert made.description.report is not None
    assert made.description.report.macs == 4 * 8 * 8 * 27 + 4
    assert made.description.report.parameters == 4 * 27 + 4 + 4 + 1  # the norm is folded
    assert [row.model.partition(", ")[2] for row in rows] == [
        *runtimes,
        *(["lite"] if "lite" in chosen else []),
    ]


def test_a_layer_that_drifts_is_found_without_paddle_inference(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_inference: None
) -> None:
    honest = int8_files.quantize_onnx

    def other_grid(proto: Any, table: Any, preset: Any, outputs: Any) -> Any:
        bent = [
            replace(each, input=replace(each.input, absmax=each.input.absmax / 9))
            if each.weight == "head.weight"
            else each
            for each in table
        ]
        return honest(proto, bent, preset, outputs)

    monkeypatch.setattr(int8_files, "quantize_onnx", other_grid)
    with pytest.raises(ExportError, match=r"^head: this layer of the int8 file"):
        export(task, build(task, "int8"), tmp_path / "out", ("onnx",))
    assert not (tmp_path / "out").exists()


def test_no_format_and_unknown_ones_are_refused(task: Task, tmp_path: Path) -> None:
    model = build(task, "float")
    for chosen, message in (
        ((), r"^format: expected at least one of paddle, onnx, openvino, lite, got none$"),
        (("",), r"^format: no format ''"),
        (("onnx", "onx"), r"^format: no format 'onx' \(did you mean 'onnx'\?\)"),
    ):
        with pytest.raises(ExportError, match=message):
            export(task, model, tmp_path / "out", chosen, overwrite=True)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_new_export_leaves_no_file_of_the_one_before(task: Task, tmp_path: Path) -> None:
    model = build(task, "float")
    export(task, model, tmp_path / "out", ("paddle", "onnx"))
    export(task, model, tmp_path / "out", ("onnx",), overwrite=True)
    assert names(tmp_path / "out") == {"model.onnx", "deploy.yml"}


def test_that_a_file_is_not_compared_is_said(
    task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    export(task, build(task, "float"), tmp_path / "out", ("lite",))
    assert "lite: model.nb runs on other devices, so it is not compared here" in caplog.text


class TestTheRuntimeOfAFolder:
    @pytest.fixture(params=["float", "int8"])
    def only_onnx(self, request: Any, task: Task, tmp_path: Path) -> Path:
        return export(task, build(task, request.param), tmp_path / "out", ("onnx",)).folder

    def test_the_first_that_reads_it(self, only_onnx: Path, task: Task, tmp_path: Path) -> None:
        image = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
        predictor = load_predictor(only_onnx)
        assert predictor.backend == "onnxruntime"
        found = predictor.run(image)["level"]
        wanted = load_predictor(only_onnx, "openvino").run(image)["level"]
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
        export(task, build(task, "float"), tmp_path / "both", ("paddle", "onnx"))
        assert load_predictor(tmp_path / "both").backend == "paddle"

    def test_another_is_an_error_that_says_what_is_there(self, only_onnx: Path) -> None:
        message = (
            r"out: no model.pdmodel and model.pdiparams, which paddle reads \(formats there: "
            r"onnx\); export with tools/export_model.py --format paddle$"
        )
        with pytest.raises(ExportError, match=message):
            load_predictor(only_onnx, "paddle")
        with pytest.raises(ExportError, match=message):
            benchmark([only_onnx], Protocol(backends=("paddle",), memory=False))
        with pytest.raises(ExportError, match=message):
            open_source(only_onnx)

    def test_one_that_is_not_installed_is_passed_over(
        self, only_onnx: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there = {"paddle", "openvino"}
        monkeypatch.setattr(known, "is_installed", lambda backend: backend in there)
        assert load_predictor(only_onnx).backend == "openvino"
        there.remove("openvino")
        with pytest.raises(ExportError, match=r"out: holds ONNX, and no runtime for it is inst"):
            load_predictor(only_onnx)

    def test_nothing_that_runs_here(self, task: Task, tmp_path: Path) -> None:
        export(task, build(task, "float"), tmp_path / "out", ("lite",))
        with pytest.raises(ExportError, match=r"out: holds a file for Paddle Lite alone, which"):
            load_predictor(tmp_path / "out")
        with pytest.raises(ExportError, match=r"which openvino reads \(formats there: lite\)"):
            load_predictor(tmp_path / "out", "openvino")
        with pytest.raises(ExportError, match=r"out: holds a file for Paddle Lite alone, which"):
            benchmark([tmp_path / "out"], Protocol(memory=False))

    def test_a_benchmark_takes_all_that_read_it(self, only_onnx: Path) -> None:
        rows = benchmark([only_onnx], Protocol(warmup=0, runs=1))
        assert [row.backend for row in rows] == ["onnxruntime", "openvino"]
        for row in rows:
            assert row.size_mb == (only_onnx / "model.onnx").stat().st_size / 1e6
            assert row.macs == 4 * 8 * 8 * 27 + 4
            assert row.parameters == 121
            assert row.peak_memory_mb is not None


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_costs_of_other_sizes_are_counted_in_the_files(
    task: Task, tmp_path: Path, kind: str
) -> None:
    export(task, build(task, kind), tmp_path / "out")
    (row,) = benchmark([tmp_path / "out"], Protocol(warmup=0, runs=1, batch_size=3, memory=False))
    assert row.macs == 3 * (4 * 8 * 8 * 27 + 4)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the formats of the model files that measurements make."""
    from core.export.files import write_files

    seen: list[str] = []
    real = write_files

    def note(graph: Any, folder: Path, formats: Sequence[Format], *rest: Any) -> None:
        real(graph, folder, formats, *rest)
        seen.extend(known.formats_in(folder))

    for place in ("core.export.int8.exporter", "core.prune.planning.latency"):
        monkeypatch.setattr(f"{place}.write_files", note)
    return seen


def test_measurements_write_for_their_runtime_alone(
    task: Task, written: list[str], no_inference: None
) -> None:
    model = build(task, "int8")
    measure_speed(task, model, "onnxruntime")
    load_run(task, build(task, "float"), one(task), "onnxruntime", 1)()
    assert written == ["onnx", "onnx"]


def one(task: Task) -> list[Any]:
    (spec,) = task.input_spec()
    return [paddle.static.InputSpec([1, *spec.shape[1:]], spec.dtype, spec.name)]


def test_targets_of_the_command_line_are_those_of_onnx_files() -> None:
    assert set(ONNX_TARGETS) == PRESETS.keys()
