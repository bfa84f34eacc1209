"""Quantized models become int8 files that answer like them, or the layer is named that does not."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ExportError, RejectedError
from core.export.int8 import file_comparison, int8_files
from core.export.int8.paddle_writer import quantize_program
from core.export.package import export
from core.graph.batch_norm_folding import fold_batch_norms
from core.graph.program import Graph
from core.graph.trace import trace
from core.quant.apply import apply_quantization, record_of
from core.quant.grid_plan import GridPlan
from core.quant.layers import quantized_layers
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.quant.sites import float_sites, on_grids, scales_of
from core.runtimes.formats import format_of
from core.runtimes.predictor import load_predictor
from core.targets.instructions import multiplies_int8_exactly
from core.targets.names import BACKENDS, Format
from core.targets.paddle_inference import unsigned_inputs
from core.targets.presets import PRESETS
from core.targets.processors import Limit, largest_of_even, weight_limits, with_signed_bytes
from core.task import Task, build_task
from core.training import checkpoint
from core.workflows.comparison_table import ComparisonRow, MeasuredMetric, check_metrics
from tests.wrong_kernels import needs_right_kernels

pytestmark = pytest.mark.int8


class Deep(Layer):
    """Every kind of layer that is quantized, behind activations with and without a sign."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2D(3, 16, 3, padding=1, bias_attr=False), nn.BatchNorm2D(16)
        )
        self.depthwise = nn.Conv2D(16, 16, 3, padding=1, groups=16)
        self.up = nn.Conv2DTranspose(16, 8, 2, stride=2)
        self.project = nn.Conv2D(8, 16, 1)
        self.head = nn.Linear(16, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = nn.functional.relu(self.stem(x))
        y = nn.functional.hardswish(self.depthwise(y)) + y
        y = nn.functional.relu(self.project(self.up(y)))
        return self.head(y.mean([2, 3]))


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})


@pytest.fixture
def model() -> Layer:
    paddle.seed(0)
    return quantized(Deep())


def quantized(model: Layer, **rounding: Any) -> Layer:
    """Calibrate on pictures like those that an export is compared on."""
    model.eval()
    kinds, how = ("Conv2D", "Conv2DTranspose", "Linear"), Rounding(processors="any", **rounding)
    choice = select_layers(model, how, kinds, ())
    batches = [[paddle.rand([8, 3, 8, 8])] for _ in range(3)]
    norms = {"stem.0": "stem.1"} if hasattr(model, "stem") else {}
    apply_quantization(model, choice, how, batches, "abs_max", GridPlan(norms))
    return model


def graph_of(model: Layer, name: str = "x") -> Graph:
    graph = Graph.from_trace(trace(model, [InputSpec([None, 3, 8, 8], "float32", name)], model))
    fold_batch_norms(graph)
    return graph


def limits_of(graph: Graph, kind: Format) -> dict[str, Limit]:
    """Return the limits of the steps of weights by the layers' paths."""
    found = weight_limits(graph, kind, "any")
    return {weight.rpartition(".")[0]: limit for weight, limit in found.items()}


@pytest.mark.parametrize("target", list(PRESETS))
@pytest.mark.parametrize(
    "rounding",
    [
        *({}, {"weight_type": "abs_max"}, {"activation_type": "lsq"}, {"pact": True}),
        {"zero_points": True},
    ],
    ids=["plain", "one grid", "lsq", "pact", "zero points"],
)
def test_files_answer_like_the_model_on_their_grids(
    task: Task, tmp_path: Path, target: str, rounding: dict[str, Any]
) -> None:
    paddle.seed(0)
    model = quantized(Deep(), **rounding)
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    made = export(task, model, tmp_path / "out", ("paddle", "onnx"), target=target)
    assert {each.runtime for each in made.differences} == set(BACKENDS)
    assert all(each.effect is not None and each.effect > 0 for each in made.differences)
    assert made.description.quantization is not None
    assert made.description.quantization.layers == len(quantized_layers(model)) == 5
    # below zero, too, where calibration never was: grids from zero on clip that
    image = np.random.default_rng(1).normal(0.2, 0.5, (2, 3, 8, 8)).astype(np.float32)
    graph = graph_of(model)
    for backend in BACKENDS:
        unsigned = set(quantized_layers(model)) if target != "tensorrt" else set()
        unsigned = set() if backend == "paddle" else unsigned
        largest = largest_of_even("any")
        with on_grids(model, unsigned, (), limits_of(graph, format_of(backend)), largest):
            wanted = model(paddle.to_tensor(image)).numpy()
        with float_sites(model):
            effect = np.abs(model(paddle.to_tensor(image)).numpy() - wanted).max()
        found = load_predictor(tmp_path / "out", backend).run(image)["level"]
        assert np.abs(found - wanted).max() <= effect + 1e-4 * np.abs(wanted).max()
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_the_files_are_small(task: Task, tmp_path: Path) -> None:
    paddle.seed(0)
    wide = nn.Sequential(
        nn.Conv2D(3, 64, 3), nn.ReLU(), nn.Conv2D(64, 256, 3), nn.AdaptiveAvgPool2D(1),
        nn.Flatten(), nn.Linear(256, 1),
    )  # fmt: skip
    made = export(task, quantized(wide), tmp_path / "out", ("paddle", "onnx"))
    for name in ("model.pdiparams", "model.onnx"):
        assert made.file_bytes[name] < 0.3 * made.float_bytes[name]
    assert made.float_bytes["model.pdiparams"] > 4 * (64 * 27 + 256 * 64 * 9)


def with_other_grid(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """Write ONNX files with a grid of its own for one layer."""
    honest = int8_files.quantize_onnx

    def other_grid(proto: Any, table: Any, preset: Any, outputs: Any) -> Any:
        bent = [
            replace(each, input=replace(each.input, absmax=each.input.absmax / 9))
            if each.weight == f"{wrong}.weight"
            else each
            for each in table
        ]
        return honest(proto, bent, preset, outputs)

    monkeypatch.setattr(int8_files, "quantize_onnx", other_grid)


@pytest.mark.parametrize("wrong", ["depthwise", "project", "head"])
def test_a_layer_that_differs_is_named(
    task: Task, model: Layer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    with_other_grid(monkeypatch, wrong)
    with pytest.raises(ExportError, match=f"^{wrong}: this layer of the int8 file, run by itself"):
        export(task, model, tmp_path / "out", ("paddle", "onnx"))
    assert not (tmp_path / "out").exists()


@needs_right_kernels
@pytest.mark.parametrize("wrong", ["depthwise", "project", "head"])
def test_the_first_layer_that_drifts_is_named(
    task: Task, model: Layer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Where layers are right one by one, and together nothing of the model is left."""
    with_other_grid(monkeypatch, wrong)
    monkeypatch.setattr(file_comparison.layerwise, "compare", lambda *_: [])
    with pytest.raises(ExportError, match=f"in int8 it agrees, with {wrong} it does not"):
        export(task, model, tmp_path / "out", ("paddle", "onnx"))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_stored_is_refused(task: Task, tmp_path: Path, model: Layer) -> None:
    with pytest.raises(ExportError, match=r"no preset 'openvio' .did you mean 'openvino'"):
        export(task, model, tmp_path / "out", target="openvio")
    model.head.input_quantizer.absmax.set_value(paddle.zeros([1]))
    with pytest.raises(ExportError, match="head: its inputs have no grid: absmax: expected"):
        export(task, model, tmp_path / "out")
    four = quantized(Deep(), weight_bits=4)
    with pytest.raises(ExportError, match="int8 files hold weights of 8 bits, not of 4"):
        export(task, four, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_restored_checkpoint_exports_the_same_bytes(task: Task, tmp_path: Path) -> None:
    model = task.build_model()
    quantized(model)
    edits = [("qat", record_of(model))]
    description = checkpoint.describe(task, edits)
    checkpoint.save(tmp_path / "saved", description, model.state_dict())
    _, again = checkpoint.restore(tmp_path / "saved")
    for name, each in (("one", model), ("two", again)):
        export(task, each, tmp_path / name, ("paddle", "onnx"))
    for file in ("model.pdmodel", "model.pdiparams", "model.onnx", "deploy.yml"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


class Pattern(Layer):
    """Convolutions wired by a function of the layer and the image."""

    def __init__(self, wire: Any) -> None:
        super().__init__()
        self.a = nn.Conv2D(3, 8, 3, padding=1)
        self.b, self.c = (nn.Conv2D(8, 8, 3, padding=1) for _ in range(2))
        self.wire = wire

    def forward(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return {"y": self.wire(self, nn.functional.relu(self.a(x)), self.a(x))}


# what reads the ReLU of a shared layer, and the layer itself, beside convolutions
PATTERNS = {
    "residual": lambda net, relu, plain: net.c(plain + net.b(plain)),
    "residual of relu": lambda net, relu, plain: net.c(relu + net.b(relu)),
    "relu of sum": lambda net, relu, plain: net.c(nn.functional.relu(plain + net.b(relu))),
    "concat": lambda net, relu, plain: paddle.concat([net.b(relu), net.c(plain), relu], 1),
    "an output too": lambda net, relu, plain: net.b(relu).mean() + net.c(relu) + relu,
    "pooled": lambda net, relu, plain: net.b(nn.functional.max_pool2d(relu, 2)),
    "behind a relu and not": lambda net, relu, plain: paddle.concat([net.b(relu), net.b(plain)], 1),
    "behind two": lambda net, relu, plain: net.b(nn.functional.relu(net.b(relu))),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_paddle_rounds_nothing_but_what_the_table_says(name: str, tmp_path: Path) -> None:
    """Inputs of layers, not what others read of the same tensors; two roundings deep at most."""
    paddle.seed(0)
    model = quantized(Pattern(PATTERNS[name]))
    graph = graph_of(model)
    x = np.random.default_rng(1).random((2, 3, 8, 8), np.float32)
    for processors in ("any", "vnni") if multiplies_int8_exactly("paddle") else ("any",):
        limits = {}
        if processors == "any":
            graph = with_signed_bytes(graph)
            limits = limits_of(graph, "paddle")
        else:
            graph = graph_of(model)
        unsigned = {weight.rpartition(".")[0] for weight in unsigned_inputs(graph)}
        with on_grids(model, unsigned, (), limits, largest_of_even(processors)):
            wanted = model(paddle.to_tensor(x))["y"].numpy()
            made = quantize_program(graph, scales_of(model))
        made.write(tmp_path / "model.pdmodel", tmp_path / "model.pdiparams")
        found = load_predictor(tmp_path, own=True).run(x)["y"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@needs_right_kernels
@pytest.mark.parametrize(
    ("target", "binding"),
    [
        ("openvino", {"openvino", "paddle"}),
        ("onnxruntime", {"onnxruntime"}),  # Paddle Inference rounds no outputs
        ("tensorrt", {"onnxruntime", "paddle"}),  # it is not here
    ],
)
def test_the_metric_binds_where_files_are_meant_to_run(
    target: str, binding: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    for off in BACKENDS:
        rows = [ComparisonRow(f"int8, {each}", 0.90 if each == off else 0.921) for each in BACKENDS]
        caplog.clear()
        if off in binding:
            with pytest.raises(ExportError, match=f"int8, {off}: top1 of the file is 0.9000, of"):
                check_metrics(0.92, rows, MeasuredMetric("top1", images=1000), target)
        else:
            check_metrics(0.92, rows, MeasuredMetric("top1", images=1000), target)
            assert f"int8, {off}: top1 of the file is 0.9000" in caplog.text
            assert f"laid out for {target}" in caplog.text
    check_metrics(0.92, rows, MeasuredMetric("top1", images=50), target)  # two images are as much
    check_metrics(None, rows, MeasuredMetric("top1", images=1000), target)


def test_a_better_metric_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows = [ComparisonRow("int8, openvino", 0.5)]
    top1 = MeasuredMetric("top1", images=1000)
    error = MeasuredMetric("mae", higher_is_better=False, images=1000)
    check_metrics(0.2, rows, top1, "openvino")
    assert "top1 of the file is 0.5000, of the quantized model 0.2000; better is" in caplog.text
    with pytest.raises(RejectedError, match=r"at most 0\.0100 worse wanted"):
        check_metrics(0.2, rows, error, "openvino")
    check_metrics(0.8, rows, error, "openvino")
    with pytest.raises(RejectedError, match="is nan"):
        check_metrics(0.8, [ComparisonRow("int8, openvino", math.nan)], top1, "openvino")
