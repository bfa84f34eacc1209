"""Files of models whose outputs are rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import paddle
import pytest
from paddle import nn

from core.errors import ExportError
from core.export.files import MODEL, PARAMS
from core.export.int8 import file_comparison, int8_files
from core.export.int8.onnx_writer import quantize_onnx
from core.export.onnx.cleanup import clean_up
from core.export.package import export
from core.graph.program import Graph
from core.quant.outputs import rounded_outputs
from core.quant.scales import Grid
from core.quant.sites import float_sites, on_grids, sites_of
from core.runtimes.predictor import load_predictor
from core.targets.names import BACKENDS
from core.targets.presets import PRESETS
from core.task import Task, build_task
from tests.networks.residual import network, quantized
from tests.wrong_kernels import needs_right_kernels

pytestmark = pytest.mark.int8


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})


@pytest.mark.parametrize("target", list(PRESETS))
@pytest.mark.parametrize("outputs", ["residual", "all"])
def test_files_answer_like_the_model(task: Task, tmp_path: Path, outputs: Any, target: str) -> None:
    model = quantized(task, outputs, target)
    made = export(task, model, tmp_path / "out", ("paddle", "onnx"), target=target)
    assert {each.runtime for each in made.differences} == set(BACKENDS)
    x = np.random.default_rng(1).random((2, 3, 8, 8), np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", options)
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    with on_grids(model, set(sites_of(model)) if PRESETS[target].unsigned else ()):
        wanted = model(paddle.to_tensor(x)).numpy()
    # operators one by one: nothing but roundings that fall to the other side
    with float_sites(model):
        effect = np.abs(model(paddle.to_tensor(x)).numpy() - wanted).max()
    assert np.abs(found - wanted).max() <= 0.05 * effect


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "paddle"])
@pytest.mark.parametrize("ending", ["blocks.0", "blocks.0,blocks.1.conv1"])
def test_files_that_end_in_layers(task: Task, tmp_path: Path, ending: str, target: str) -> None:
    model = quantized(task, "all", target)
    layout = target if target in PRESETS else "openvino"
    formats = ("paddle", "onnx")
    made = export(task, model, tmp_path / "out", formats, ending=ending, target=layout)
    assert {(each.runtime, each.output) for each in made.differences} == {
        (backend, path) for backend in BACKENDS for path in ending.split(",")
    }
    quantization = made.description.quantization
    assert quantization is not None
    assert quantization.layers == 3 + ending.count(",")
    # what is put out is not rounded, in the model that the files are compared with neither: that
    # would be the effect once more; one rounding that falls to the other side is an eighth of it
    for each in made.differences:
        if each.runtime != "onnxruntime":  # rounds biases, too
            assert each.relative < 0.25 * each.effect
    x = np.random.default_rng(1).random((2, 3, 8, 8), np.float32)
    steps = load_predictor(made.folder, "onnxruntime").run(x)["blocks.0"]
    step = float(rounded_outputs(model)["blocks.0"].grid().step)
    assert np.abs(steps / step - np.rint(steps / step)).max() > 0.1
    assert np.unique(steps).size > 256


class Dropping(nn.Layer):
    """A residual connection around layers that end in dropout, as in transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2D(3, 8, 3, padding=1), nn.Conv2D(8, 8, 1)
        self.drop, self.norm = nn.Dropout(0.1), nn.BatchNorm2D(8)
        self.head = nn.Linear(8, 16)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = nn.functional.hardswish(self.stem(x))
        y = self.norm(y + self.drop(self.inner(nn.functional.hardswish(y))))
        return self.head(y.mean([2, 3]))


@pytest.mark.parametrize("target", list(PRESETS))
def test_what_passes_a_dropout_is_rounded_in_every_file(
    task: Task, tmp_path: Path, target: str
) -> None:
    paddle.seed(0)
    model = Dropping()
    model.eval()
    quantized(task, "all", target, model=model)
    assert rounded_outputs(model).keys() & {"drop", "inner"}
    made = export(task, model, tmp_path / "out", ("paddle", "onnx"), target=target)
    assert {each.runtime for each in made.differences} == set(BACKENDS)


@pytest.mark.parametrize("target", list(PRESETS))
@pytest.mark.parametrize("activation", ["relu", "swish"])
def test_batch_norms_with_an_activation(
    task: Task, tmp_path: Path, activation: str, target: str
) -> None:
    paddle.seed(0)
    model = nn.Sequential(
        *(nn.Conv2D(3, 8, 3, bias_attr=False), nn.BatchNorm(8, act=activation)),
        *(nn.Conv2D(8, 8, 1, bias_attr=False), nn.BatchNorm(8, act=activation)),
        *(nn.Flatten(), nn.Linear(288, 16), nn.BatchNorm(16, act=activation)),
    )
    for norm in (model[1], model[3], model[6]):
        norm._mean.set_value(paddle.randn(norm._mean.shape) * 0.1)
    model.eval()
    quantized(task, "all", target, model=model)
    made = export(task, model, tmp_path / "out", ("paddle", "onnx"), target=target)
    assert {each.runtime for each in made.differences} == set(BACKENDS)


class Reduced(nn.Layer):
    """Means and maxima behind factors of channels that no layer takes in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8)
        self.head = nn.Linear(16, 16)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.norm(nn.functional.hardswish(self.conv(x)))
        return self.head(paddle.concat([y.flatten(2).mean(-1), y.max([2, 3])], axis=1))


class Vectors(nn.Layer):
    """A norm between two reshapes, as in LeViT: OpenVINO did not load its files."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2D(3, 16, 1), nn.Linear(16, 32, bias_attr=False)
        self.norm, self.last = nn.BatchNorm1D(32), nn.Linear(32, 16)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.first(nn.functional.hardswish(self.stem(x)).flatten(2).transpose([0, 2, 1]))
        y = paddle.reshape(self.norm(y.flatten(0, 1)), [-1, *y.shape[1:]])
        return self.last(nn.functional.hardswish(y)).mean(1)


@pytest.mark.parametrize("network", [Reduced, Vectors])
def test_factors_of_channels_that_no_layer_takes_in(
    task: Task, tmp_path: Path, network: type[Reduced | Vectors]
) -> None:
    paddle.seed(0)
    model = network()
    model.norm.weight.set_value(paddle.rand(model.norm.weight.shape) + 0.5)
    model.eval()
    quantized(task, "none", "openvino", model=model)
    made = export(task, model, tmp_path / "out", ("onnx",), target="openvino")
    assert {each.runtime for each in made.differences} == {"onnxruntime", "openvino"}
    assert all(each.passes for each in made.differences), made.differences


class Patches(nn.Layer):
    """A convolution that oneDNN computes wrongly on processors with AMX."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.patches = nn.Conv2D(3, 16, 1), nn.Conv2D(16, 16, 8, stride=8)
        self.head = nn.Linear(16, 16)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.patches(nn.functional.hardswish(self.stem(x)))
        return self.head(nn.functional.relu(y).flatten(1))


def test_what_is_wrong_with_amx_stays_in_float(task: Task, tmp_path: Path) -> None:
    paddle.seed(0)
    model = Patches()
    model.eval()
    quantized(task, "none", "lite", model=model)  # which has kernels of its own
    made = export(task, model, tmp_path / "out", ("paddle", "onnx"), target="openvino")
    assert {each.runtime for each in made.differences} == set(BACKENDS)
    stored = onnx.load(tmp_path / "out" / "model.onnx").graph.initializer
    kinds = {each.name: each.data_type for each in stored}
    assert kinds["patches.weight"] == onnx.TensorProto.FLOAT
    assert kinds["stem.weight"] == kinds["head.weight"] == onnx.TensorProto.INT8
    program = Graph.from_files(*(tmp_path / "out" / each for each in (MODEL, PARAMS)))
    assert program.weights["patches.weight"].dtype == np.float32
    assert program.weights["stem.weight"].dtype == np.int8


def test_onnx_runtime_computes_every_convolution_in_int8(task: Task, tmp_path: Path) -> None:
    kinds = {}
    for outputs in ("none", "all"):
        model = quantized(task, outputs)
        export(task, model, tmp_path / outputs, ("paddle", "onnx"), target="onnxruntime")
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{outputs}.onnx")
        onnxruntime.InferenceSession(tmp_path / outputs / "model.onnx", options)
        nodes = onnx.load(tmp_path / f"{outputs}.onnx", load_external_data=False).graph.node
        kinds[outputs] = [node.op_type for node in nodes]
    assert kinds["none"].count("QLinearConv") == 2  # each block's first, in front of the second
    assert kinds["all"].count("QLinearConv") == 6
    assert {"FusedConv", "Conv"}.isdisjoint(kinds["all"])
    assert kinds["all"].count("QLinearAdd") == 2


@needs_right_kernels
def test_the_output_that_drifts_is_named(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, honest = quantized(task), int8_files.quantize_onnx

    def other_grid(proto: Any, table: Any, preset: Any, outputs: Any) -> Any:
        bent = {
            name: Grid(grid.absmax / 9) if grid.absmax == end else grid
            for name, grid in outputs.items()
        }
        return honest(proto, table, preset, bent)

    end = rounded_outputs(model)["norm"].grid().absmax
    monkeypatch.setattr(int8_files, "quantize_onnx", other_grid)
    with pytest.raises(ExportError, match=r"^norm: the model rounds its output to a grid of"):
        export(task, model, tmp_path / "out", ("paddle", "onnx"), target="onnxruntime")
    # as it is where a runtime does what its files do not say
    monkeypatch.setattr(file_comparison.layerwise, "check_outputs", lambda *_: None)
    monkeypatch.setattr(file_comparison.layerwise, "compare", lambda *_: [])
    with pytest.raises(ExportError, match="it agrees, with the output of norm it does not"):
        export(task, model, tmp_path / "out", ("paddle", "onnx"), target="onnxruntime")


def test_a_tensor_that_a_graph_does_not_have(task: Task, tmp_path: Path) -> None:
    export(task, network(), tmp_path / "float", ("paddle", "onnx"))
    proto = onnx.load(tmp_path / "float" / "model.onnx")
    with pytest.raises(ExportError, match="nowhere: is to be rounded, but the ONNX graph has no"):
        quantize_onnx(proto, [], PRESETS["openvino"], {"nowhere": Grid(1.0)})
    clean_up(proto.graph)  # once more changes nothing
    assert proto == onnx.load(tmp_path / "float" / "model.onnx")
