"""Models that other projects exported: a config says the data, the model its input's size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import paddle
import pytest
from onnx import TensorProto, helper, numpy_helper
from paddle import nn
from paddle.static import InputSpec

import trislim
from core.act.source import open_source
from core.errors import ConfigError, ExportError
from core.export.onnx.convert import convert_to_onnx
from core.graph.program import Graph
from core.graph.trace import trace
from core.runtimes.foreign import fit_output, fitted_task
from core.runtimes.predictor import load_predictor
from core.task import build_task

Tool = Callable[..., tuple[Any, str]]
RED, BLUE = (200, 30, 40), (30, 40, 200)


def write_onnx(file: Path, shape: list[Any], kind: int = TensorProto.FLOAT) -> Path:
    """A network that tells red from blue, as no tool of ours writes it: its own names, two outputs.

    One output is the means of the channels, the other two probabilities.
    """
    weight = np.zeros((shape[1], 2), np.float32)
    weight[0], weight[2] = (8, -8), (-8, 8)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["as_float"], ["means"]),
        helper.make_node("Flatten", ["means"], ["features"]),
        helper.make_node("MatMul", ["features", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["chances"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("pixels", kind, shape)],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("chances", TensorProto.FLOAT, ["n", 2]),
        ],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(file))
    return file


@pytest.fixture(autouse=True)
def _no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open models here alone; that strangers' are tried out first, other tests show."""
    monkeypatch.setattr("core.runtimes.survived.try_out", lambda *given: None)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Two classes in folders, and a config of two lines."""
    for name, color in (("0 red", RED), ("1 blue", BLUE)):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for index in range(5):
            image = np.full((24 + index, 40, 3), color, np.uint8)
            cv2.imwrite(str(folder / f"{index}.png"), image[..., ::-1])
    (tmp_path / "own.yml").write_text("task: cls\ndata: {root: pictures, num_workers: 0}\n")
    return tmp_path


def test_an_onnx_file_is_measured_drawn_and_timed(call_tool: Tool, work: Path) -> None:
    write_onnx(work / "theirs.onnx", [1, 3, 20, 30])
    model = ["--model_dir", "theirs.onnx", "-c", "own.yml", "--output", "chances"]
    status, output = call_tool("eval.py", *model, "--save", "m.json", "--pictures", "p.png")
    assert status == 0, output
    drawn = cv2.imread(str(work / "p.png"))  # two samples, one of each class
    assert drawn is not None
    for color in (RED, BLUE):
        assert (drawn[..., ::-1] == color).all(axis=2).sum() > 1000
    assert "takes images of [3, 20, 30], so they are prepared like that" in output
    assert json.loads((work / "m.json").read_text())["top1"] == 1.0

    status, output = call_tool(
        "predict.py", *model, "--image_path", "pictures", "--save_dir", "seen"
    )
    assert status == 0, output
    predicted = json.loads((work / "seen" / "predictions.json").read_text())
    assert {entry["name"] for name, entry in predicted.items() if "red" in name} == {"0 red"}
    # probabilities are taken as such, not put through a second softmax
    assert predicted["0 red/0.png"]["score"] > 0.9

    status, output = call_tool(
        "benchmark.py", *model, "--runs", 1, "--warmup", 0, "--no_memory", "--save", "b.json"
    )
    assert status == 0, output
    assert len(json.loads((work / "b.json").read_text())["rows"]) == 2


class Telling(nn.Layer):
    """Tells red from blue by the means of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(3, 2)
        weight = np.float32([[8, -8], [0, 0], [-8, 8]])
        self.score.weight.set_value(weight)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        return self.score(image.mean([2, 3]))


def test_a_program_of_the_new_ir_is_measured_drawn_and_timed(call_tool: Tool, work: Path) -> None:
    """As `paddle.jit.save` writes it in Paddle 3, `inference.json` with its weights."""
    spec = [InputSpec([None, 3, 20, 30], "float32", "image")]
    paddle.jit.save(Telling(), str(work / "theirs" / "inference"), input_spec=spec)
    file = "theirs/inference.json"
    for model in ("theirs", file):
        status, output = call_tool(
            "eval.py", "--model_dir", model, "-c", "own.yml", "--save", "m.json"
        )
        assert status == 0, output
        assert "takes images of [3, 20, 30], so they are prepared like that" in output
        assert json.loads((work / "m.json").read_text())["top1"] == 1.0
    given = ["--model_dir", "theirs", "-c", "own.yml"]
    status, output = call_tool(
        "predict.py", *given, "--image_path", "pictures", "--save_dir", "seen"
    )
    assert status == 0, output
    predicted = json.loads((work / "seen" / "predictions.json").read_text())
    assert {entry["name"] for name, entry in predicted.items() if "blue" in name} == {"1 blue"}
    status, output = call_tool(
        "benchmark.py", "--model_dir", "theirs", "--runs", 1, "--warmup", 0, "--save", "b.json"
    )
    assert status == 0, output
    (row,) = json.loads((work / "b.json").read_text())["rows"]
    assert row["backend"] == "paddle"
    (work / "act.yml").write_text(
        "Global: {model_dir: theirs}\nDistillation: {}\nQuantAware: {}\n"
        "TrainConfig: {epochs: 1, learning_rate: 0.1}\n"
    )
    for arguments in (
        ["ptq.py", *given, "--save_dir", "q"],
        ["ptq.py", "--model_dir", file, "-c", "own.yml", "--save_dir", "q"],
        ["act.py", "--config_path", "act.yml", "-c", "own.yml", "--save_dir", "q"],
    ):
        status, output = call_tool(*arguments)
        assert status == 2, output
        assert output.splitlines()[-1].endswith(
            f"error: {file}: a program of Paddle 3's new IR, which eval, predict and benchmark "
            "read; ptq and act need .pdmodel: export it again under Paddle 3.1 (pip install "
            "paddlepaddle==3.1.1) with FLAGS_enable_pir_api=0 in the environment"
        ), output


def test_what_is_not_said_is_asked_for_in_one_line(call_tool: Tool, work: Path) -> None:
    write_onnx(work / "theirs.onnx", [None, 3, None, None])
    plain = ["eval.py", "--model_dir", "theirs.onnx"]
    for arguments, message in (
        (
            plain,
            "theirs.onnx: has no deploy.yml; name its config (-c), a file with two lines",
        ),
        (
            [*plain, "-c", "own.yml"],
            "--output: theirs.onnx has the outputs features [-1, 3], chances [-1, 2]; name the",
        ),
        ([*plain, "-c", "own.yml", "--output", "top"], "--output: theirs.onnx has no output 'top'"),
        (
            [*plain, "-c", "own.yml", "--output", "features"],
            "model.num_classes: the model answers [1, 3] to one picture, expected [1, 2]",
        ),
        (["eval.py", "--weights", "x", "--output", "y"], "--output: is for exported models"),
        (
            ["benchmark.py", "--model_dir", "theirs.onnx", "--no_memory"],
            "theirs.onnx: the size of input 'pixels' is not known; give --input_shape",
        ),
        (
            ["ptq.py", "--model_dir", "theirs.onnx", "--save_dir", "q", "-c", "own.yml"],
            "theirs.onnx: ONNX, which eval, predict and benchmark read; ptq and act need Paddle's",
        ),
        (
            ["predict.py", "--model_dir", "gone.onnx", "--image_path", "p", "--save_dir", "s"],
            "gone.onnx: no such file of an exported model",
        ),
    ):
        status, output = call_tool(*arguments)
        assert status == 2, output
        assert f"error: {message}" in output.splitlines()[-1], output
        if arguments[:3] == plain and "-c" in arguments:
            told = "takes images of any size, they are prepared as 224x224; this, data.mean and"
            assert f"theirs.onnx: {told} data.std should be as in its training" in output
    # a free size is the config's
    status, output = call_tool(
        *("benchmark.py", "--model_dir", "theirs.onnx", "-c", "own.yml", "--no_memory"),
        *("--runs", 1, "--warmup", 0, "-o", "data.image_size=[20,30]"),
    )
    assert status == 0, output


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ([1, 20, 30, 3], TensorProto.FLOAT, r"is \[1, 20, 30, 3\]; expected \[N, C, H, W\], chann"),
        ([1, 3, 20, 30], TensorProto.UINT8, r"takes uint8; expected floats"),
    ],
)
def test_inputs_that_are_no_normalised_images(
    work: Path, shape: list[int], kind: int, message: str
) -> None:
    file = write_onnx(work / "theirs.onnx", shape, kind)
    task = build_task("cls", {"model": {"name": "ResNet18"}, "data": {"root": "x"}})
    predictor = load_predictor(file, "onnxruntime")
    with pytest.raises(ExportError, match=message):
        fitted_task(task, predictor.description.inputs, file)


@pytest.mark.parametrize(
    ("task", "model", "size"),
    [
        ("seg", {"num_classes": 2}, {"data": {"size": [30, 20]}}),
        ("keypoint", {"name": "lite_hrnet_18"}, {"data": {"input_size": [64, 32]}}),
    ],
)
def test_other_tasks_take_their_size_from_the_model(
    task: str, model: dict[str, Any], size: dict[str, Any], work: Path
) -> None:
    built = build_task(task, {"model": model, "data": {"root": "x"}})
    expected = build_task(task, {"model": model, "data": {"root": "x", **size["data"]}})
    height, width = expected.input_spec()[0].shape[2:]
    file = write_onnx(work / "theirs.onnx", [1, 3, height, width])
    inputs = load_predictor(file, "onnxruntime").description.inputs
    assert fitted_task(built, inputs, file).config == expected.config
    predictor = load_predictor(file, "onnxruntime")
    with pytest.raises(ConfigError, match=r"^model\.num_\w+: the model answers \[1, 2\] to one"):
        fit_output(predictor, expected, "chances")


def test_one_of_several_outputs_of_a_program_is_kept(tmp_path: Path) -> None:
    class Two(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.conv = paddle.nn.Conv2D(3, 2, 1)
            self.more = paddle.nn.Conv2D(2, 5, 1)

        def forward(self, image: Any) -> dict[str, Any]:
            features = self.conv(image)
            return {"middle": features, "end": self.more(features)}

    graph = Graph.from_trace(trace(Two(), [InputSpec([None, 3, 8, 8], "float32", "pixels")]))
    graph.write(tmp_path / "model.pdmodel", tmp_path / "model.pdiparams")
    task = build_task("seg", {"model": {"num_classes": 2}, "data": {"root": "x"}})
    source = open_source(tmp_path)
    assert source.inputs[0].shape == (-1, 3, 8, 8)
    with pytest.raises(ConfigError, match=r"no output 'start': middle \[-1, 2, 8, 8\], end"):
        source.name_outputs(task, "start")
    source.name_outputs(task, "middle")
    assert source.graph.outputs == ["logits"]
    assert not any("more" in name for name in source.graph.weights)
    # and a program by its path
    graph = Graph.from_files(tmp_path / "model.pdmodel", tmp_path / "model.pdiparams")
    file = convert_to_onnx(graph)
    (tmp_path / "other.onnx").write_bytes(file)
    image = np.ones((1, 3, 8, 8), np.float32)
    answers = [
        load_predictor(tmp_path / name, backend).run(image)["middle"]
        for name, backend in (("model.pdmodel", "paddle"), ("other.onnx", "onnxruntime"))
    ]
    np.testing.assert_allclose(*answers, rtol=1e-5)


def test_an_onnx_file_in_a_script(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    file = write_onnx(work / "theirs.onnx", [1, 3, 20, 30])
    made = trislim.load(file, config=work / "own.yml", output="chances")
    assert isinstance(made, trislim.ExportedModel)
    assert made.size_mb == file.stat().st_size / 1e6
    for number, name in enumerate(("0 red", "1 blue")):
        said = made.predict(work / "pictures" / name / "0.png")
        assert (said["label"], said["name"]) == (number, name)
    assert made.evaluate()["top1"] == 1.0
    with pytest.raises(ExportError, match="name the one that answers"):
        trislim.load(file, config=work / "own.yml")
    with pytest.raises(ConfigError, match=r"theirs\.onnx: has no deploy\.yml; name its config"):
        trislim.load(file)
