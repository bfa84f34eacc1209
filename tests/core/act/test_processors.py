"""Files of exported models for all processors, and for those with VNNI alone.

What a processor with VNNI does not show, these tests show under ONEDNN_MAX_CPU_ISA=AVX2, too.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paddle
import pytest
import yaml
from onnx import numpy_helper
from paddle import nn
from paddle.nn import Layer

from core.act import static_ptq
from core.act.config import OP_TYPES, StaticPtqConfig, read_act
from core.act.files import FileLayout, measure_files, write
from core.act.quantized import QuantizedProgram
from core.act.session import open_session
from core.act.source import open_source
from core.act.training import Training
from core.errors import ConfigError, ExportError
from core.export.package import Exported, export
from core.graph.program import Graph
from core.quant.quantizers import WeightType
from core.quant.weight_grid import quantize_weight
from core.runtimes.formats import format_of
from core.runtimes.predictor import BACKENDS, Backend, Predictor, load_predictor
from core.settings.config import read
from core.targets import instructions
from core.targets.instructions import multiplies_int8_exactly
from core.targets.names import DEFAULT_TARGET
from core.targets.presets import PRESETS
from core.task import build_task
from core.workflows.comparison_table import MeasuredMetric, MeasureMetric
from tests.wrong_kernels import needs_right_kernels

pytestmark = pytest.mark.int8

PER_CHANNEL: WeightType = "channel_wise_abs_max"
Models = Callable[..., QuantizedProgram]
ONE = [np.zeros((1, 3, 8, 8), np.float32)]
TOP1 = MeasuredMetric("top1", images=1000)
LAYERS = ("stem", "deep", "grouped", "slow", "project", "up", "sequence", "head")
SETTINGS: dict[str, Any] = {
    "Global": {"model_dir": "float", "calibration_batches": 2},
    "Distillation": {"loss": "l2"},
    "QuantAware": {},
    "TrainConfig": {"train_iter": 2, "learning_rate": 0.001},
}


class Wide(Layer):
    """Every kind of layer, with weights nearly all of which are large: sums of pairs overflow."""

    def __init__(self) -> None:
        super().__init__()
        same = {"padding": 1}
        self.stem = nn.Conv2D(3, 16, 3, **same)
        self.deep = nn.Conv2D(16, 16, 3, groups=16, **same)
        self.grouped = nn.Conv2D(16, 16, 3, groups=2, **same)
        self.slow = nn.Conv2D(16, 16, 3, groups=8, **same)
        self.project = nn.Conv2D(16, 12, 1)
        self.up = nn.Conv2DTranspose(12, 8, 2, stride=2)
        self.sequence, self.head = nn.Linear(256, 8), nn.Linear(64, 1)
        for layer in self.sublayers():
            shape = layer.weight.shape
            large = paddle.sign(paddle.rand(shape) - 0.3) * (paddle.rand(shape) * 0.3 + 0.7)
            layer.weight.set_value(large / 16)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = nn.functional.relu(self.stem(x))
        y = nn.functional.hardswish(self.deep(y))
        y = nn.functional.relu(self.grouped(y))
        y = nn.functional.relu6(self.slow(y))
        y = self.up(nn.functional.relu(self.project(y)))
        y = self.sequence(y.flatten(2))
        return self.head(y.flatten(1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    paddle.seed(0)
    task = build_task("outside.toy", {"data": {"root": str(folder / "data")}})
    export(task, Wide(), folder / "float")
    return folder / "float"


def images(count: int = 3) -> list[list[np.ndarray]]:
    """Return bright pictures: bytes of 255 in the files."""
    rng = np.random.default_rng(0)
    return [[rng.random((4, 3, 8, 8), np.float32) * 0.2 + 0.8] for _ in range(count)]


@contextlib.contextmanager
def quantized(exported: Path, weights: WeightType, trained: bool) -> Iterator[QuantizedProgram]:
    """Quantize by calibration alone, or with two steps of training."""
    source, data = open_source(exported), images()
    chosen = source.choose(OP_TYPES, (), weights == PER_CHANNEL, "never_quantize")
    with open_session(source, chosen) as session:
        if not trained:
            how = StaticPtqConfig(observer="abs_max", weight_quantize_type=weights)
            found = static_ptq.calibrate(session, lambda: iter(data), how)
            yield static_ptq.settle(session, *found, how.processors)
            return
        config = read_act({**SETTINGS, "QuantAware": {"weight_quantize_type": weights}})
        run = Training(session, config, [("l2", 1.0, ("level",))], None)
        batches = [{"image": image} for (image,) in data]
        run.calibrate(batches)
        assert list(run.steps(batches, 2))
        yield run.restore(run.state())


@pytest.fixture(scope="module")
def models(exported: Path) -> Iterator[Models]:
    """Return what quantizes the model, for files for all processors, each way once."""
    made: dict[tuple[WeightType, bool], QuantizedProgram] = {}
    with contextlib.ExitStack() as stack:

        def find(weights: WeightType = PER_CHANNEL, trained: bool = False) -> QuantizedProgram:
            key = weights, trained
            if key not in made:
                made[key] = stack.enter_context(quantized(exported, *key))
            return made[key]

        yield find


def written(model: QuantizedProgram, folder: Path, target: str = DEFAULT_TARGET) -> Exported:
    folder.mkdir()
    layout = FileLayout(("paddle", "onnx"), target, None)
    return write(model, folder, layout, images(1), lambda count: images(count // 4))


def onnx_steps(folder: Path) -> dict[str, np.ndarray]:
    """Return the int8 weights of an ONNX file by layer, output channels first, [C, K]."""
    found = {}
    for tensor in onnx.load(folder / "model.onnx").graph.initializer:
        if tensor.name.endswith(".weight") and tensor.data_type == onnx.TensorProto.INT8:
            name, steps = tensor.name.removesuffix(".weight"), numpy_helper.to_array(tensor)
            axis = 0 if steps.ndim == 4 and name != "up" else 1
            found[name] = np.moveaxis(steps, axis, 0).reshape(steps.shape[axis], -1).astype(int)
    return found


def paddle_steps(folder: Path) -> dict[str, np.ndarray]:
    """Return the weights of a program by layer."""
    graph = Graph.from_files(folder / "model.pdmodel", folder / "model.pdiparams")
    return {name: graph.weights[f"{name}.weight"] for name in LAYERS}


@pytest.mark.parametrize("trained", [False, True], ids=["static", "act"])
@pytest.mark.parametrize("weights", [PER_CHANNEL, "abs_max"])
def test_files_for_all_processors_answer_like_paddleslims_model(
    models: Models, tmp_path: Path, weights: WeightType, trained: bool
) -> None:
    model = models(weights, trained)
    made = written(model, tmp_path / "int8")
    assert {each.runtime for each in made.differences} == set(BACKENDS)
    for each in made.differences:
        assert each.passes
        assert each.effect is not None
        assert each.effect > 3e-4
    x = np.concatenate([array for (array,) in images(16)])
    for backend in BACKENDS:
        grids = model.grids_for(format_of(backend), PRESETS[DEFAULT_TARGET])
        wanted = model.session.on_grids(grids)(x)["level"].reshape(len(x), -1)
        found = load_predictor(tmp_path / "int8", backend).run(x)["level"].reshape(len(x), -1)
        far = np.abs(found - wanted).max(1) / np.abs(wanted).max()
        # the last bits, but where they decide how an activation is rounded: of 2 images in 100
        assert np.count_nonzero(far > 1e-5) <= 0.1 * len(x)
    described = yaml.safe_load((tmp_path / "int8" / "deploy.yml").read_text())
    assert described["quantization"]["processors"] == "any"
    (image,) = images(1)
    own = model.session.run(*image)["level"]
    for kind in ("paddle", "onnx"):
        run = model.session.on_grids(model.grids_for(kind, PRESETS[DEFAULT_TARGET]))
        assert np.abs(run(*image)["level"] - own).max() > 1e-4 * np.abs(own).max()
    np.testing.assert_array_equal(model.session.run(*image)["level"], own)


def test_weights_for_all_processors(
    models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pairs of steps add up to 128 in ONNX, steps are even for Paddle, slow layers in float."""
    caplog.set_level("INFO")
    model = models()
    written(model, tmp_path / "int8")
    steps = onnx_steps(tmp_path / "int8")
    assert steps.keys() == set(LAYERS)
    tight = 0
    for name, rows in steps.items():
        if name == "deep":  # depthwise: kernels add its products in 32 bits
            assert (np.abs(rows).max(1) == 127).all()
            continue
        sums = [np.sort(sign * rows, 1)[:, -2:].clip(0).sum(1) for sign in (1, -1)]
        largest = np.maximum(*sums)
        assert largest.max() <= 128, name
        tight += int((largest >= 126).sum())  # no smaller than it must be
    assert tight > 60
    for name, weight in paddle_steps(tmp_path / "int8").items():
        if name == "slow":
            np.testing.assert_array_equal(weight, model.graph.weights["slow.weight"])
            continue
        assert weight.dtype == np.int8
        odd = set(np.abs(weight[weight % 2 != 0].astype(int)).tolist())
        in_float = name in ("up", "sequence")  # Paddle Inference computes with their values
        assert len(odd) > 1 if in_float else odd == {127}, name
    assert "paddle: slow stays in float: groups of 2 to 2 channels are slow in int8" in caplog.text


@pytest.mark.parametrize("weights", [PER_CHANNEL, "abs_max"])
def test_weights_for_processors_with_vnni(
    models: Models, tmp_path: Path, weights: WeightType
) -> None:
    model = replace(models(weights), processors="vnni")
    made = written(model, tmp_path / "int8")
    in_paddle, in_onnx = paddle_steps(tmp_path / "int8"), onnx_steps(tmp_path / "int8")
    for name in LAYERS:
        axis = 1 if name in ("up", "sequence", "head") else 0
        weight = model.graph.weights[f"{name}.weight"]
        steps, _ = quantize_weight(weight, axis, "none", weights == PER_CHANNEL)
        rows = np.moveaxis(steps, axis, 0).reshape(steps.shape[axis], -1)
        np.testing.assert_array_equal(in_onnx[name], rows)
        as_stored = steps.T if name == "head" else steps  # which is a convolution there
        np.testing.assert_array_equal(in_paddle[name].ravel(), as_stored.ravel())
    assert made.description.quantization is not None
    assert made.description.quantization.processors == "vnni"
    for each in made.differences:
        if multiplies_int8_exactly(each.runtime):
            assert each.relative is not None
            assert each.relative < 1e-5


@needs_right_kernels
def test_files_for_vnni_where_there_is_none(
    models: Models,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a file says is compared; what the processor makes of it is told."""
    monkeypatch.setattr(instructions, "multiplies_int8_exactly", lambda backend: False)
    model = replace(models(), processors="vnni")
    made = written(model, tmp_path / "int8")
    assert [each.limit for each in made.differences] == [math.inf] * 3
    for backend in BACKENDS:
        assert f"{backend}: this processor has no VNNI" in caplog.text
    measure_files(model, made, 1.0, metric_where_off("paddle", "openvino"), TOP1, ONE)
    for backend in ("paddle", "openvino"):
        assert f"int8, {backend}: top1 of the file is 0.5000" in caplog.text
    assert "int8, onnxruntime" not in caplog.text
    coarse = [replace(each.input, absmax=8 * each.input.absmax) for each in model.table]
    wrong = [replace(each, input=grid) for each, grid in zip(model.table, coarse)]
    with pytest.raises(ExportError, match=r"^paddle: output 'level' .* as it is written, differs"):
        written(replace(model, table=wrong), tmp_path / "wrong")


def test_the_metric_binds_in_the_runtime_of_each_file(models: Models, tmp_path: Path) -> None:
    made = written(models(), tmp_path / "int8")
    for off in ("paddle", "openvino"):
        with pytest.raises(ExportError, match=f"^int8, {off}: top1 of the file is 0.5000, of"):
            measure_files(models(), made, 1.0, metric_where_off(off), TOP1, ONE)
    rows = measure_files(models(), made, 1.0, metric_where_off("onnxruntime"), TOP1, ONE)
    assert [row.metric for row in rows] == [0.8, 0.5, 0.8]  # the file is for OpenVINO


def metric_where_off(*backends: Backend) -> MeasureMetric:
    """Return a metric that is worse in some runtimes than in others and in PaddleSlim."""

    def measure(run: Any) -> float:
        return 0.5 if isinstance(run, Predictor) and run.backend in backends else 0.8

    return measure


@pytest.mark.parametrize(
    ("weights", "trained", "layer"),
    [(PER_CHANNEL, False, "stem"), ("abs_max", False, "slow"), (PER_CHANNEL, True, "slow")],
)
def test_weights_of_another_model_are_refused(
    exported: Path, weights: WeightType, trained: bool, layer: str
) -> None:
    with quantized(exported, weights, trained) as model:
        grids = model.grids_for("paddle", PRESETS[DEFAULT_TARGET])
        assert grids.floats.keys() == {"slow.weight"}
        model.session.on_grids(grids)
        steps, absmax = grids.weights["stem.weight"]
        other = {
            "stem": replace(grids, weights={"stem.weight": (steps[::-1], absmax)}),
            "slow": replace(grids, floats={"slow.weight": grids.floats["slow.weight"] * 1.1}),
        }
        with pytest.raises(ExportError, match=f"{layer}.weight: is another weight in PaddleSlim's"):
            model.session.on_grids(other[layer])


def test_unknown_processors() -> None:
    with pytest.raises(ConfigError, match=r"^processors: expected one of any, vnni, got 'vni'"):
        read(StaticPtqConfig, {"processors": "vni"})
    with pytest.raises(ConfigError, match=r"^QuantAware.processors: expected one of any, vnni"):
        read_act({**SETTINGS, "QuantAware": {"processors": "all"}})
    assert read_act(SETTINGS).QuantAware.processors == StaticPtqConfig().processors == "any"
