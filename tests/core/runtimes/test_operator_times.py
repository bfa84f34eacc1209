"""Times of classes of operators, and what the tables of a benchmark say of them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from core import options
from core.runtimes.benchmark import BenchmarkRow, Protocol, benchmark
from core.runtimes.benchmark_tables import operator_tables, reasons, threads_table
from core.runtimes.operator_times import (
    OperatorTime,
    by_kind,
    explain,
    int8_share,
    measure_operators,
)
from core.targets.names import Backend

TELLING: tuple[Backend, ...] = ("onnxruntime", "openvino")
IMAGE = np.random.default_rng(0).normal(size=(1, 16, 24, 24)).astype("float32")


def write_model(file: Path, in_int8: bool) -> Path:
    """Write a convolution, its mean and a product with a matrix; the convolution perhaps as QDQ."""
    rng = np.random.default_rng(1)
    weight = rng.integers(-127, 128, (32, 16, 3, 3), dtype=np.int8)
    stored = {
        "weight": weight if in_int8 else weight.astype("float32") / 127,
        "bias": np.ones(32, "float32"),
        "matrix": rng.normal(size=(32, 4)).astype("float32"),
        "step": np.float32(0.05),
        "zero": np.uint8(128),
        "weight_step": np.float32(1 / 127),
        "weight_zero": np.int8(0),
    }
    nodes, read = [], ("image", "weight")
    if in_int8:
        read = ("image_float", "weight_float")
        nodes = [
            helper.make_node("QuantizeLinear", ["image", "step", "zero"], ["image_int8"]),
            helper.make_node("DequantizeLinear", ["image_int8", "step", "zero"], [read[0]]),
            helper.make_node(
                "DequantizeLinear", ["weight", "weight_step", "weight_zero"], [read[1]]
            ),
        ]
    nodes += [
        helper.make_node("Conv", [*read, "bias"], ["made"], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["made"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["answer"]),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", [1, 16, 24, 24]), ("answer", [1, 4]))
    ]
    used = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(v, k) for k, v in stored.items() if k in used]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, file)
    return file


@pytest.mark.parametrize("backend", TELLING)
def test_a_runtime_tells_what_takes_the_time(backend: Backend, tmp_path: Path) -> None:
    feeds = {"image": IMAGE}
    found = {
        in_int8: measure_operators(
            write_model(tmp_path / f"{in_int8}.onnx", in_int8), backend, 1, feeds, 1, 3
        )
        for in_int8 in (False, True)
    }
    before, after = found[False], found[True]
    assert before is not None
    assert after is not None
    (convolution,) = (each for each in before if each.kind == "convolution")
    assert (convolution.precision, convolution.count) == ("float", 1)
    assert convolution.ms > 0
    assert int8_share(before) == 0
    assert {"convolution", "matrix product"} <= by_kind(before).keys()
    assert "rounding" not in by_kind(before)
    assert [each.ms for each in before] == sorted((each.ms for each in before), reverse=True)
    if backend == "openvino":  # which may round in the operator before
        assert ("convolution", "int8") in {(each.kind, each.precision) for each in after}
        assert int8_share(after) > 0
    else:  # it computes in int8 only what is rounded behind it, too
        assert "rounding" in by_kind(after)
    assert all(each.precision == "float" for each in after if each.kind == "rounding")
    assert {each.name for each in tmp_path.iterdir()} == {"False.onnx", "True.onnx"}


def test_paddle_inference_tells_nothing(tmp_path: Path) -> None:
    assert measure_operators(tmp_path / "model.pdmodel", "paddle", 1, {}, 1, 1) is None


def test_a_benchmark_measures_them_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.runtimes.survived.try_out", lambda *given: None)
    file = write_model(tmp_path / "model.onnx", False)
    protocol = Protocol(memory=False, warmup=0, runs=1, operators=True, threads=2)
    for row in benchmark([file], protocol):
        assert row.operators is not None
        assert row.threads == 2
        assert "convolution" in by_kind(row.operators)


def times(**ms: float) -> tuple[OperatorTime, ...]:
    """Return times of kinds; those with `8` at the end of their names are in int8."""
    return tuple(
        OperatorTime(name.rstrip("8"), "int8" if name.endswith("8") else "float", 1, value)
        for name, value in ms.items()
    )


def test_the_reason_names_what_was_added_and_what_was_saved() -> None:
    said = explain(
        times(convolution=6.0, Add=3.0, Relu=1.0),
        times(convolution8=2.0, Add=5.0, rounding=2.5, layout=1.0, Relu=1.4),
    )
    assert said == (
        "convolution -4.00 ms, rounding +2.50 ms, Add +2.00 ms, layout +1.00 ms; "
        "17% of the time in int8"
    )
    assert explain(times(Add=1.0), times(Add=1.01)).startswith("no class of operators differs")
    assert explain((), ()).endswith("; 0% of the time in int8")


def row(model: str, ms: float, ratio: float | None, threads: int = 1, **more: Any) -> BenchmarkRow:
    speedup = None if ratio is None else 1 - 1 / ratio
    figures: tuple[Any, ...] = (ms, ms, ms, speedup, ratio, 1.0, None, None, None, ())
    return BenchmarkRow(model, "openvino", *figures, threads=threads, **more)


def lines(table: Table) -> list[list[str]]:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in captured.get().splitlines()
        if "│" in line or "┃" in line
    ]


def test_a_table_by_number_of_threads_has_both_speed_ups() -> None:
    rows = [row("float", 8, 1), row("int8", 4, 2)]
    rows += [row("float", 5, 1, 2), row("int8", 6.25, 0.8, 2)]
    title, float_line, int8_line = lines(threads_table(rows))
    assert title[2:] == ["1 thread, ms", "speed-up", "a / b", "2 threads, ms", "speed-up", "a / b"]
    assert float_line == ["float", "openvino", "8.00", "0.00%", "1.00", "5.00", "0.00%", "1.00"]
    assert int8_line == ["int8", "openvino", "4.00", "50.00%", "2.00", "6.25", "-25.00%", "0.80"]
    assert lines(threads_table([row("a", 1, None)]))[1][3:] == ["-", "-"]


def test_classes_of_operators_stand_side_by_side() -> None:
    rows = [
        row("float", 9, 1, operators=times(convolution=6.0, Add=3.0)),
        row("int8", 9, 1, operators=times(convolution8=2.0, convolution=2.0, rounding=5.0)),
        row("untold", 9, 1),
    ]
    (table,) = operator_tables(rows)
    title, *cells = lines(table)
    assert title == ["class", "float", "int8"]
    assert cells == [
        ["convolution", "6.00 (1)", "4.00 (2) 50%"],
        ["rounding", "-", "5.00 (1)"],
        ["Add", "3.00 (1)", "-"],
    ]
    (line,) = reasons(rows)
    assert line.startswith("int8 in openvino, a / b 1.00: rounding +5.00 ms, Add -3.00 ms, ")
    assert list(operator_tables([row("untold", 9, 1)])) == []


def test_numbers_of_threads_of_the_command_line() -> None:
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert options.threads("3, all") == tuple(dict.fromkeys((3, every)))
    assert options.threads("2,2,1") == (2, 1)
    for text in ("", "0", "1,", "some", "-1", "1.5"):
        with pytest.raises(argparse.ArgumentTypeError, match="numbers of threads such as 1,all"):
            options.threads(text)
