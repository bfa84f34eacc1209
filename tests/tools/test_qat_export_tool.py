"""tools/qat_export.py as a user calls it, right and wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import paddle
import pytest

import core.workflows.comparison_table
from core.errors import RejectedError
from core.export.rejected import REASON
from core.quant.apply import apply_quantization, record_of
from core.quant.grid_plan import plan_grids, trace_float
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.runtimes.description import read_description
from core.task import Task, build_task
from core.training import checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def call(call_tool: Any) -> Any:
    """Run the tool; return its status and what it printed."""
    return partial(call_tool, "qat_export.py")


def saved(folder: Path, quantized: bool = True) -> Path:
    task = build_task("outside.toy", {"data": {"root": str(folder / "data")}, "synthetic": {}})
    paddle.seed(0)
    model, edits = task.build_model(), []
    if quantized:
        quantize(task, model)
        edits = [("qat", record_of(model))]
    task.build_dataset("val")  # draws its pictures
    checkpoint.save(folder / "run", checkpoint.describe(task, edits), model.state_dict())
    return folder / "run"


def quantize(task: Task, model: paddle.nn.Layer) -> None:
    rounding = Rounding(processors="any")  # files are right wherever this test runs
    choice = select_layers(model, rounding, ("Conv2D", "Linear"), ())
    layout = plan_grids(trace_float(task, model), model, "paddle")
    batches = [[paddle.rand([8, 3, 8, 8])] for _ in range(4)]
    apply_quantization(model, choice, rounding, batches, "abs_max", layout)


def test_the_files_are_there_whoever_reads_the_tables(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = "import runpy, sys; from outside import toy; "
    code += f"sys.argv[0] = {str(ROOT / 'tools' / 'qat_export.py')!r}; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    weights = str(saved(tmp_path))
    words = ("--weights", weights, "--save_dir", "out", "--format", "onnx", "--plugin", "outside")
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--no_latency", "--no_metric"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
    )
    os.close(writing)
    assert done.returncode == 128 + signal.SIGPIPE, done.stderr
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_files_sizes_and_metrics(call: Any, tmp_path: Path) -> None:
    status, said = call("--weights", saved(tmp_path), "--save_dir", "out", "--card", "apache-2.0")
    assert status == 0, said
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: apache-2.0" in card
    for backend in ("paddle", "onnxruntime", "openvino"):
        found = re.search(rf"│ int8, {backend} +│ (0\.\d{{4}}) │", said)
        assert found is not None
        before = re.search(r"│ float +│ (0\.\d{4}) │", said)
        assert before is not None
        assert f"| {backend} | {before[1]} | {found[1]} | " in card
    for backend in ("paddle", "onnxruntime", "openvino"):
        assert f"as the quantized model in {backend}: level" in said
    assert "model.pdiparams" in said
    assert "mae" in said
    for row in ("float", "quantized", "int8, paddle", "int8, onnxruntime", "int8, openvino"):
        assert re.search(rf"│ {row} +│ 0\.\d{{4}} │", said), row
    described = read_description(tmp_path / "out")
    assert described is not None
    assert described.quantization is not None
    assert described.quantization.target == "openvino"


def test_one_format_for_another_target_without_the_metric(call: Any, tmp_path: Path) -> None:
    arguments = ("--save_dir", "out", "--format", "paddle", "--no_metric", "--target", "tensorrt")
    status, said = call("--weights", saved(tmp_path), *arguments)
    assert status == 0, said
    assert not (tmp_path / "out" / "model.onnx").exists()
    assert re.search(r"│ float +│ +- │", said)


def test_files_are_neither_timed_nor_opened_if_nothing_is_measured(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for used in ("int8_speed.measure_latency", "comparison_table.load_predictor"):
        monkeypatch.setattr(f"core.workflows.{used}", None)  # may not even be called
    words = ("--save_dir", "out", "--no_metric", "--no_latency")
    status, said = call("--weights", saved(tmp_path), *words)
    assert status == 0, said
    assert re.search(r"│ int8, openvino +│ +- │", said)


def test_onnx_alone_is_measured_in_its_runtimes(
    call: Any, call_tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paddle.inference.create_predictor", None)  # may not even be called
    words = ("--save_dir", "out", "--format", "onnx")
    status, said = call("--weights", saved(tmp_path), *words)
    assert status == 0, said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "deploy.yml"}
    assert "in paddle" not in said
    assert "int8, paddle" not in said
    metrics = {}
    for row in ("int8, onnxruntime", "int8, openvino"):
        found = re.search(rf"│ {row} +│ (0\.\d{{4}}) │.*│ model\.onnx +│", said)
        assert found is not None, said
        metrics[row] = found[1]
    status, said = call_tool("eval.py", "--model_dir", "out")
    assert status == 0, said
    assert f"mae: {metrics['int8, onnxruntime']}" in said


def test_a_row_for_paddle_lite_without_a_metric(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converter = tmp_path / "python-of-lite"
    content = "conv2d/int8_out/4/2/1"  # what a converter would write, where it is told to
    converter.write_text(f'#!/bin/sh\n[ -z "$6" ] || printf {content} > "$6.nb"\n')
    converter.chmod(0o755)
    monkeypatch.setenv("TRISLIM_LITE_PYTHON", str(converter))
    for formats in ("paddle,lite", "lite"):
        arguments = ("--save_dir", "out", "--format", formats, "--overwrite")
        status, said = call("--weights", saved(tmp_path), *arguments)
        assert status == 0, said
        assert (tmp_path / "out" / "model.nb").read_text() == content
        assert re.search(r"│ int8, lite +│ +- │ .*│ model\.nb +│ +0\.0 │ +0\.0 │ +100% │", said)
        assert ("int8, paddle" in said) == ("paddle" in formats)
        assert not re.search(r"int8, paddle.*model\.nb", said)
    status, said = call("--weights", saved(tmp_path), *arguments, "--speed_control")
    assert status == 2
    assert "error: speed_control: lite cannot be measured here" in said


def test_a_missing_converter_is_told_first(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRISLIM_LITE_PYTHON", "/bin/false")
    status, said = call("--weights", "nothing", "--save_dir", "out", "--format", "lite")
    assert (status, "TRISLIM_LITE_PYTHON: /bin/false cannot import paddlelite" in said) == (2, True)


def test_wrong_calls(call: Any, tmp_path: Path) -> None:
    plain = saved(tmp_path, quantized=False)
    status, said = call("--weights", plain, "--save_dir", "out")
    assert status == 2
    assert "nothing in it is quantized; train with --slim qat" in said
    status, said = call("--weights", "nothing", "--save_dir", "out")
    assert (status, "no such weights file" in said) == (2, True)
    status, said = call("--weights", saved(tmp_path), "--save_dir", "out", "--target", "openvio")
    assert (status, "did you mean 'openvino'" in said) == (2, True)
    status, said = call("--weights", "nothing", "--save_dir", "out", "--card", "my own")
    assert (status, "card: expected the licence of the weights" in said) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_file_whose_metric_is_another_is_refused(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers agree on the samples of the comparison, but not on the validation data."""
    real = core.workflows.comparison_table.load_predictor

    def lying(folder: Path, backend: Any = "paddle", **options: Any) -> Any:
        predictor = real(folder, backend, **options)
        honest = predictor.run
        predictor.run = lambda *arrays: {name: v + 1 for name, v in honest(*arrays).items()}
        return predictor

    monkeypatch.setattr(core.workflows.comparison_table, "load_predictor", lying)
    status, said = call("--weights", saved(tmp_path), "--save_dir", "out")
    assert status == 2
    assert "mae of the file is" in said
    assert "; the files are in out.rejected, not in out" in said
    assert not (tmp_path / "out").exists()
    assert [each.name for each in tmp_path.iterdir() if "trislim" in each.name] == []
    assert "mae of the file is" in (tmp_path / "out.rejected" / REASON).read_text()
    assert read_description(tmp_path / "out.rejected") is not None


def test_a_wrong_metric_leaves_an_earlier_export(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--weights", saved(tmp_path), "--save_dir", "out", "--format", "paddle")
    assert call(*words)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def refuse(*_: Any) -> None:
        raise RejectedError("another metric")

    monkeypatch.setattr("core.workflows.comparison_table.check_metrics", refuse)
    status, said = call(*words)
    assert (status, "error: out: holds an earlier export; name another" in said) == (2, True)
    status, said = call(*words, "--overwrite")
    assert (status, "error: another metric; the files are in out.rejected" in said) == (2, True)
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert after == before


def test_a_spoilt_grid_is_named_and_goes_back_to_float(call: Any, tmp_path: Path) -> None:
    run = saved(tmp_path)
    _, model = checkpoint.restore(run)
    model.head.input_quantizer.absmax.set_value(paddle.full([1], 1e-3))  # clips everything
    checkpoint.save(run, checkpoint.load_description(run), model.state_dict())
    status, said = call("--weights", run, "--save_dir", "out", "--format", "paddle")
    assert status == 0, said
    assert "more than 3 points lost" in said
    listed = [line for line in said.splitlines() if re.match(r"│ (conv|head) +│ +\d", line)]
    assert listed[0].startswith("│ head")  # the worst first
    words = ("--weights", run, "--save_dir", "out", "--format", "paddle", "--max_drop", "0.5")
    words = (*words, "--overwrite")
    status, said = call(*words)
    assert status == 0, said
    assert "max_drop: back to float: head" in said
    assert "points lost; --max_drop" not in said
    description = read_description(tmp_path / "out")
    assert description is not None
    assert description.quantization is not None
    assert description.quantization.layers == 1


@pytest.mark.parametrize(("formats", "runtime"), [("paddle", "paddle"), ("onnx", "openvino")])
def test_speed_is_measured_in_the_runtime_of_the_files(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, formats: str, runtime: str
) -> None:
    asked = []
    monkeypatch.setattr(
        "core.workflows.float_fallback.keep_speed", lambda *given: asked.append(given[2])
    )
    words = ("--save_dir", "out", "--format", formats, "--no_metric", "--speed_control")
    status, said = call("--weights", saved(tmp_path), *words)
    assert status == 0, said
    assert asked == [runtime]
