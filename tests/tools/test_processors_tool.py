"""tools/processors.py, and the warnings of the tools that run models, as a user sees them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from core.export.int8.onnx_writer import quantize_onnx
from core.export.int8.paddle_writer import quantize_program
from core.export.onnx.convert import convert_to_onnx
from core.export.package import export
from core.graph.program import Graph
from core.quant.scales import Grid, LayerScales
from core.runtimes import environment
from core.runtimes.description import Quantization, read_description, write_description
from core.targets.instructions import multiplies_int8_exactly
from core.targets.presets import PRESETS
from core.task import build_task

Call = Callable[..., tuple[Any, str]]
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def stranger(top: int) -> onnx.ModelProto:
    """Return a model in QOperator form whose one convolution has weights of `top`."""
    constants = {
        "scale": np.float32(1),
        "zero": np.uint8(0),
        "none": np.int8(0),
        "filters": np.full((2, 4, 3, 3), top, np.int8),
    }
    ends = "scale", "zero"
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *ends], ["q"]),
        helper.make_node("QLinearConv", ["q", *ends, "filters", "scale", "none", *ends], ["c"]),
        helper.make_node("DequantizeLinear", ["c", *ends], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "stranger",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 3, 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model


@pytest.fixture(scope="module")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy export in float, in both formats."""
    folder = tmp_path_factory.mktemp("toy")
    task = build_task("outside.toy", {"data": {"root": str(folder / "data")}, "synthetic": {}})
    task.build_dataset("val")
    export(task, task.build_model(), folder / "out", ("paddle", "onnx"))
    return folder / "out"


@pytest.fixture(scope="module")
def quantized(float_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in int8, its weights at the ends of their grid; deploy.yml says that it is ours."""
    folder = tmp_path_factory.mktemp("quantized") / "int8"
    shutil.copytree(float_model, folder)
    files = folder / "model.pdmodel", folder / "model.pdiparams"
    graph = Graph.from_files(*files)
    filters = [name for name, value in graph.weights.items() if value.ndim == 4]
    for name in filters:
        graph.weights[name] = np.full_like(graph.weights[name], 1)
    graph.write(*files)
    table = [LayerScales(name, Grid(1.0, signed=True)) for name in filters]
    proto = onnx.load_model_from_string(convert_to_onnx(graph))
    proto = quantize_onnx(proto, table, PRESETS["openvino"])
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    quantize_program(graph, table).write(*files)
    description = read_description(float_model)
    assert description is not None
    written = Quantization(layers=len(table), target="openvino")
    write_description(replace(description, quantization=written), folder)
    return folder


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Pretend to run on a processor with some instructions."""

    def set_to(machine: str, instructions: str, cap: str = "") -> None:
        monkeypatch.setattr(environment.platform, "machine", lambda: machine)
        monkeypatch.setattr(
            "core.targets.instructions.processor", lambda: ("it", instructions.split())
        )
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        if cap:
            monkeypatch.setenv(*cap.split("="))

    return set_to


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_the_table_the_summary_and_the_status(call_tool: Call, tmp_path: Path) -> None:
    for top, status in ((127, 1), (64, 0)):
        file = tmp_path / "theirs.onnx"
        file.write_bytes(stranger(top).SerializeToString())
        done, said = call_tool("processors.py", file, "--json", "layers.json")
        assert done == status, said
        verdict = "may overflow" if status else "exact"
        [row] = [line for line in said.splitlines() if "QLinearConv" in line]
        assert [cell.strip() for cell in row.strip("│").split("│")] == [
            *("filters", "QLinearConv", "0..255", str(255 * 2 * top), "32767", verdict)
        ]
        worst = ", worst filters: 64770 of 32767" if status else ""
        count = "1" if status else "none"
        summary = f"{count} of 1 layers may overflow on processors without VNNI{worst}"
        assert f"{file}: {summary}" in said.splitlines()
        [content] = json.loads((tmp_path / "layers.json").read_text())
        assert (content["file"], content["summary"]) == (str(file), summary)
        [layer] = content["layers"]
        assert layer["verdict"] == verdict
        assert (layer["lowest"], layer["highest"], layer["largest_sum"]) == (0, 255, 510 * top)
        assert (layer["layer"], layer["operator"]) == ("filters", "QLinearConv")


def test_every_file_of_an_export_is_checked(
    call_tool: Call, quantized: Path, tmp_path: Path
) -> None:
    status, said = call_tool("processors.py", quantized)
    assert status == 1
    [program, graph] = [line for line in said.splitlines() if line.startswith(str(quantized))]
    # of signed data, Paddle Inference halves the weights
    assert program.startswith(f"{quantized}/model.pdmodel: none of 1 layers may overflow")
    assert program.endswith("; 1 are rounded again there")
    assert graph.startswith(f"{quantized}/model.onnx: 1 of 1 layers may overflow")
    shutil.copytree(quantized, tmp_path / "alone")
    (tmp_path / "alone" / "model.onnx").unlink()
    status, said = call_tool("processors.py", "alone")
    assert status == 0, said


def test_float_models_are_said_to_be_float(call_tool: Call, float_model: Path) -> None:
    status, said = call_tool("processors.py", float_model)
    assert status == 0
    for name in ("model.pdmodel", "model.onnx"):
        assert f"{float_model}/{name}: nothing is quantized" in said.splitlines()
    assert "┃" not in said  # no table of no layers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("absent", "error: absent: no such folder of an exported model, nor an .onnx file"),
        ("absent.onnx", "error: absent.onnx: no such folder of an exported model, nor an .onnx"),
        ("empty", "error: empty: no model.pdmodel and model.pdiparams"),
        ("broken.onnx", "error: broken.onnx: not an ONNX model"),
        ("broken", "error: broken/model.onnx: not an ONNX model"),
        ("pir", "error: pir/model.json: programs of PIR are not checked, only those of the old IR"),
    ],
)
def test_wrong_calls(call_tool: Call, tmp_path: Path, given: str, message: str) -> None:
    for name in ("empty", "broken", "pir"):
        (tmp_path / name).mkdir()
    for name in ("broken.onnx", "broken/model.onnx", "pir/model.json", "pir/model.pdiparams"):
        (tmp_path / name).write_bytes(b"not a model")
    status, said = call_tool("processors.py", given)
    assert status == 2
    assert message in last_line(said)
    assert "Traceback" not in said


def test_help_and_length(call_tool: Call) -> None:
    status, said = call_tool("processors.py", "--help")
    assert status == 0
    assert "usage: processors.py" in said
    assert "rounded again:" in said
    script = Path(__file__).resolve().parents[2] / "tools" / "processors.py"
    assert len(script.read_text().splitlines()) < 100


@pytest.mark.parametrize(
    ("machine", "instructions", "cap", "exact"),
    [
        ("x86_64", "avx2", "", ()),
        ("AMD64", "avx2 avx512f", "", ()),
        ("x86_64", "avx2 avx512f avx512_vnni", "", ("paddle", "onnxruntime", "openvino")),
        ("x86_64", "avx2 avx_vnni", "", ("paddle", "onnxruntime", "openvino")),
        ("aarch64", "asimd", "", ("paddle", "onnxruntime", "openvino")),
        ("x86_64", "avx512_vnni", "ONEDNN_MAX_CPU_ISA=AVX2", ("onnxruntime",)),
        ("x86_64", "avx512_vnni", "DNNL_MAX_CPU_ISA=avx512_core", ("onnxruntime",)),
        ("x86_64", "avx512_vnni", "ONEDNN_MAX_CPU_ISA=SSE41", ("onnxruntime",)),
        # it leaves the other VNNI, which this processor lacks
        ("x86_64", "avx512_vnni", "ONEDNN_MAX_CPU_ISA=AVX2_VNNI", ("onnxruntime",)),
        (
            *("x86_64", "avx_vnni avx512_vnni", "ONEDNN_MAX_CPU_ISA=AVX2_VNNI"),
            ("paddle", "onnxruntime", "openvino"),
        ),
        (
            *("x86_64", "avx512_vnni", "ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI"),
            ("paddle", "onnxruntime", "openvino"),
        ),
        ("x86_64", "avx2", "ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI", ()),
    ],
)
def test_which_runtime_multiplies_exactly(
    processor: Callable[[str, str, str], None],
    machine: str,
    instructions: str,
    cap: str,
    exact: tuple[str, ...],
) -> None:
    processor(machine, instructions, cap)
    backends = ("paddle", "onnxruntime", "openvino")
    assert tuple(filter(multiplies_int8_exactly, backends)) == exact


def warnings_of(said: str) -> list[str]:
    return [line.partition(" WARNING ")[2] for line in said.splitlines() if " WARNING " in line]


def test_benchmark_warns_in_one_line_for_each_file(
    call_tool: Call, quantized: Path, processor: Callable[..., None], tmp_path: Path
) -> None:
    asked = ("benchmark.py", "--model_dir", quantized, "--runs", 1, "--warmup", 0, "--no_memory")
    asked += ("--input_shape", "3,8,8")
    processor("x86_64", "avx2")
    status, said = call_tool(*asked)
    assert status == 0, said
    [line] = warnings_of(said)  # the program is rounded again, but does not overflow
    assert line == (
        f"{quantized}/model.onnx: 1 of 1 layers may overflow on processors without VNNI, worst "
        "conv.weight: 64770 of 32767; there is none for onnxruntime and openvino here, so answers "
        "may be wrong: quantize with processors: any"
    )
    processor("x86_64", "avx2 avx512_vnni", "ONEDNN_MAX_CPU_ISA=AVX2")
    status, said = call_tool(*asked)
    [line] = warnings_of(said)
    assert "there is none for openvino here" in line
    processor("x86_64", "avx2 avx512_vnni")
    status, said = call_tool(*asked)
    assert warnings_of(said) == []

    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "model.onnx").write_bytes(stranger(127).SerializeToString())
    processor("x86_64", "avx2")
    asked = ("benchmark.py", "--model_dir", "theirs", "--runs", 1, "--no_memory")
    status, said = call_tool(*asked, "--input_shape", "4,5,5", "--backends", "onnxruntime")
    assert status == 0, said
    [line] = warnings_of(said)
    assert line.startswith("theirs/model.onnx: 1 of 1 layers may overflow")
    assert "with processors: any, or elsewhere with weights of half the range (NNCF: " in line


def test_eval_warns_of_the_model_that_it_measures(
    call_tool: Call, quantized: Path, processor: Callable[..., None]
) -> None:
    processor("x86_64", "avx2")
    for backend, count in (("openvino", 1), ("paddle", 0)):
        status, said = call_tool("eval.py", "--model_dir", quantized, "--backend", backend)
        assert status == 0, said
        assert len(warnings_of(said)) == count
        assert all("quantize with processors: any" in line for line in warnings_of(said))
