"""Each layer of an int8 file must be the eager one; one that is not is named."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paddle
import pytest
from onnx import numpy_helper
from paddle import nn
from paddle.static import InputSpec

from core.errors import ExportError
from core.export.files import MODEL, ONNX, PARAMS
from core.export.int8 import layerwise
from core.export.int8.exporter import Int8Exporter
from core.export.int8.file_comparison import FileComparison
from core.export.int8.isolated import IsolatedLayer, Stored
from core.export.int8.layerwise import LIMIT, LayerDifference
from core.graph.operators import only
from core.graph.program import Graph
from core.graph.trace import trace
from core.quant.apply import apply_quantization
from core.quant.grid_plan import plan_grids, trace_float
from core.quant.layers import quantized_layers
from core.quant.outputs import rounded_outputs
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.targets.names import BACKENDS, Backend, Format
from core.targets.presets import PRESETS
from core.targets.processors import MIDDLE
from core.task import build_task
from tests.networks.compared_layers import (
    CORRUPTIONS,
    KINDS,
    RUNTIMES,
    Net,
    Odd,
    Pair,
    Skip,
    corrupt,
    differences,
    grow,
    images,
    prepared,
    quantized,
    randomize,
    wrong,
)

pytestmark = pytest.mark.int8


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Int8Exporter, Path]]:
    made = {}
    for target in ("openvino", "onnxruntime"):
        folder = tmp_path_factory.mktemp(target)
        rounded = prepared(quantized(randomize(Net())), target)
        rounded.write(folder, KINDS)
        made[target] = rounded, folder
    return made


@pytest.mark.parametrize("weight_type", ["channel_wise_abs_max", "abs_max"])
@pytest.mark.parametrize("target", PRESETS)
def test_all_layers_agree_in_all_runtimes(target: str, weight_type: str, tmp_path: Path) -> None:
    model = quantized(randomize(Net()), weight_type=weight_type)
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    rounded = prepared(model, target)
    rounded.write(tmp_path, KINDS)
    found = differences(rounded, tmp_path)
    paths = list(quantized_layers(model))
    assert [(each.runtime, each.layer) for each in found] == [
        (runtime, path) for runtime in BACKENDS for path in paths
    ]
    assert max(each.relative for each in found) < LIMIT / 4
    assert all(each.passes for each in found)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


@pytest.mark.parametrize("rounding", [{"activation_type": "lsq"}, {"pact": True}])
def test_learned_grids_agree(rounding: dict[str, Any], tmp_path: Path) -> None:
    rounded = prepared(quantized(randomize(Net()), **rounding))
    rounded.write(tmp_path, KINDS)
    assert max(each.relative for each in differences(rounded, tmp_path)) < LIMIT / 4


@pytest.mark.parametrize("target", PRESETS)
def test_layers_that_are_not_what_they_seem(target: str, tmp_path: Path) -> None:
    """Shared under two norms, padded with no zeros, with biases not theirs, fed with one vector."""
    rounded = prepared(quantized(randomize(Odd()), 40), target, 40)
    rounded.write(tmp_path, KINDS)
    found = differences(rounded, tmp_path, 40)
    assert {each.layer for each in found} == set(quantized_layers(rounded.model))
    assert max(each.relative for each in found) < LIMIT / 4, layerwise.summary(found)


@pytest.mark.parametrize("what", CORRUPTIONS)
@pytest.mark.parametrize("layer", ["stem", "depthwise", "grouped", "up", "tokens", "head"])
def test_a_single_wrong_number_is_found_in_every_runtime(
    layer: str, what: str, written: dict[str, tuple[Int8Exporter, Path]], tmp_path: Path
) -> None:
    rounded, folder = written["openvino"]
    for kind in KINDS:
        copy = tmp_path / kind
        shutil.copytree(folder, copy)
        corrupt(copy, kind, layer, what, {"stem": "norm"})
        found = FileComparison(rounded, copy).layer_by_layer(kind, RUNTIMES[kind], images())[1]
        assert wrong(found) == {(runtime, layer) for runtime in RUNTIMES[kind]}
        with pytest.raises(ExportError, match=f"^{layer}: this layer of the int8 file, run by its"):
            layerwise.check(found)


@pytest.mark.parametrize("layer", ["tokens", "head"])
def test_a_wrong_int32_bias_is_found(
    layer: str, written: dict[str, tuple[Int8Exporter, Path]], tmp_path: Path
) -> None:
    rounded, folder = written["onnxruntime"]
    shutil.copytree(folder, tmp_path / "copy")
    corrupt(tmp_path / "copy", "onnx", layer, "bias", {})
    found = FileComparison(rounded, tmp_path / "copy").layer_by_layer(
        "onnx", RUNTIMES["onnx"], images()
    )[1]
    assert wrong(found) == {(runtime, layer) for runtime in RUNTIMES["onnx"]}


def test_the_worst_layer_is_named_first() -> None:
    found = [
        LayerDifference("a", "paddle", 2e-5),
        LayerDifference("b", "openvino", 3e-3),
        LayerDifference("c", "openvino", 2e-3),
        LayerDifference("d", "openvino", 1e-7),
    ]
    message = r"^b: .* in openvino, differs .* 3.0e-03 .* at most 1e-05 wanted; so does c; name it"
    with pytest.raises(ExportError, match=message):
        layerwise.check(found)
    layerwise.check(found[-1:])
    many = [LayerDifference(name, "paddle", 1.0) for name in "vwxyz"]
    with pytest.raises(ExportError, match=r"^v: .* wanted; so do w, x, y and 1 more; name it"):
        layerwise.check(many)
    assert layerwise.summary(found)["openvino"] == "3 layers, each by itself, within 3.0e-03 (b)"
    assert not LayerDifference("a", "paddle", float("nan")).passes


def test_differences_are_relative_to_the_sums_too() -> None:
    """What remains where a bias cancels them out has their errors."""
    stored = Stored(np.ones((2, 1, 1, 1), np.int8), np.ones((2, 1, 1, 1), np.float32))
    layer = IsolatedLayer("conv", "conv.weight", "x", "y", stored, np.float64([-1000.0, 0.0]))
    wanted = np.ones((3, 2, 4, 4), np.float32)
    found = wanted + np.float32(5e-3)
    assert layerwise._relative(layer, wanted, found) == pytest.approx(5e-3 / 1001, rel=1e-3)
    bare = replace(layer, bias=None)
    assert layerwise._relative(bare, wanted, found) == pytest.approx(5e-3, rel=1e-3)
    drawn = wanted.copy()
    drawn[-1] = 100.0
    assert layerwise._relative(bare, drawn, drawn + found - wanted) == pytest.approx(5e-3, rel=1e-3)
    drawn[-2], drawn[-1] = 100.0, 1e-3  # of two that are drawn, one cancels out
    far = [layerwise._relative(bare, drawn, drawn + found - wanted, count) for count in (1, 2)]
    assert far == [pytest.approx(5, rel=1e-3), pytest.approx(5e-3, rel=1e-3)]
    assert layerwise._relative(bare, wanted, found * np.float32("nan")) == float("inf")
    assert layerwise._relative(bare, wanted, found[:, :, :2]) == float("inf")
    nothing = 0 * wanted, 0 * wanted + np.float32(1e-30)  # the bias of an ONNX file that has none
    assert layerwise._relative(bare, *nothing) < 1e-20
    filled = replace(layer, bias=np.full(2, 1e-30), input_step=0.01)
    assert layerwise._relative(filled, *nothing) < 1e-20


@pytest.mark.parametrize("kind", KINDS)
def test_grids_of_outputs_are_those_of_the_model(kind: Format, tmp_path: Path) -> None:
    """An addition reads what no layer reads on this grid."""
    task = build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})
    model = randomize(Skip())
    layers = [path for path, each in model.named_sublayers() if hasattr(each, "weight")]
    layout = plan_grids(trace_float(task, model), model, "paddle", layers, "residual")
    assert set(layout.outputs) == {"act", "acts.1"}
    how = Rounding(processors="any")
    choice = select_layers(model, how, ("Conv2D", "Linear"), ())
    apply_quantization(model, choice, how, [[paddle.rand([8, 3, 8, 8])]], "abs_max", layout)
    rounded = prepared(model, size=8)
    rounded.write(tmp_path, KINDS)
    found = FileComparison(rounded, tmp_path).layer_by_layer(kind, RUNTIMES[kind], images(8))[1]
    assert wrong(found) == set()
    tensor = rounded.graph.made["act"]
    if kind == "onnx":
        file = onnx.load(tmp_path / ONNX)
        (pair,) = (
            n for n in file.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == tensor
        )
        (scale,) = (each for each in file.graph.initializer if each.name == pair.input[1])
        scale.CopyFrom(numpy_helper.from_array(grow(numpy_helper.to_array(scale)), scale.name))
        (tmp_path / ONNX).write_bytes(file.SerializeToString())
    else:
        graph = Graph.from_files(tmp_path / MODEL, tmp_path / PARAMS)
        (op,) = (
            op
            for op in graph.operators
            if op.type == "quantize_linear" and only(op.inputs, "X") == tensor
        )
        graph.weights[only(op.inputs, "Scale")] = grow(graph.weights[only(op.inputs, "Scale")])
        graph.write(tmp_path / MODEL, tmp_path / PARAMS)
    end = rounded_outputs(model)["act"].grid().absmax
    message = (
        f"^act: the model rounds its output to a grid .* {end:.6g}, the file to one that "
        f"ends at {end * 1.01:.6g}"[:-1]
    )
    with pytest.raises(ExportError, match=message):
        FileComparison(rounded, tmp_path).layer_by_layer(kind, RUNTIMES[kind], images(8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_the_file_has_in_float_is_named(kind: Format, tmp_path: Path) -> None:
    model = quantized(randomize(Net()))
    rounded = prepared(model)
    float_files = tmp_path / "float"
    float_files.mkdir()
    rounded.write_float(float_files, KINDS)
    rounded.write_some(tmp_path, KINDS, float_files, set(quantized_layers(model)) - {"grouped"})
    with pytest.raises(ExportError, match=r"^grouped: is quantized, but not in int8 in the file"):
        FileComparison(rounded, tmp_path).layer_by_layer(kind, RUNTIMES[kind], images())


def test_ties_of_weights_are_no_differences(tmp_path: Path) -> None:
    """In the middle between two steps, the arithmetic of files and of training fall apart."""
    model = randomize(Net())
    weight = model.grouped.weight.numpy()
    halves = ((np.arange(weight[0].size) % 126 + 0.5) / 127).astype("float32")
    for channel, scale in zip(weight, np.linspace(0.3, 3, len(weight), dtype="float32")):
        channel.reshape(-1)[:] = scale * halves
        channel.reshape(-1)[0] = scale
    model.grouped.weight.set_value(weight)
    rounded = prepared(quantized(model))
    rounded.write(tmp_path, KINDS)
    stored = Graph.from_files(tmp_path / MODEL, tmp_path / PARAMS).weights["grouped.weight"]
    ours = model.grouped.rounded_weight().numpy()
    step = np.abs(ours).max(axis=(1, 2, 3), keepdims=True) / 127
    apart = np.rint(ours / step).astype(int) - stored
    assert np.abs(apart).max() == 1  # otherwise this test tells nothing
    found = differences(rounded, tmp_path)
    assert wrong(found) == set()
    np.testing.assert_array_equal(model.grouped.weight.numpy(), weight)  # is as it was


def test_ties_of_even_steps_that_folding_moves_are_no_differences(tmp_path: Path) -> None:
    """A norm folded in other arithmetic moves weights by 3e-6 of themselves, as in PPLCNet."""
    model = randomize(Net())
    weight = model.grouped.weight.numpy()
    odd = ((np.arange(weight[0].size) % 62 * 2 + 1) / MIDDLE).astype("float32")
    for channel, scale in zip(weight, np.linspace(0.3, 3, len(weight), dtype="float32")):
        channel.reshape(-1)[:] = scale * odd * np.float32(1 - 2e-6)  # below the middle
        channel.reshape(-1)[0] = scale
    model.grouped.weight.set_value(weight)
    prepared(quantized(model)).write(tmp_path, KINDS)
    moved = weight * np.float32(1 + 4e-6)  # above it
    moved[:, 0, 0, 0] = weight[:, 0, 0, 0]
    model.grouped.weight.set_value(moved)
    assert wrong(differences(prepared(model), tmp_path)) == set()


def test_ties_with_the_highest_even_step_are_no_differences(tmp_path: Path) -> None:
    """127 steps lie between 126 and the highest even step, which is stored as 127."""
    model = randomize(Net())
    weight = model.grouped.weight.numpy() / 1e3
    moved = weight.copy()
    for values, factor in ((weight, 1 - 2e-6), (moved, 1 + 2e-6)):  # below the middle, and above it
        values.reshape(len(values), -1)[:, 0] = 1
        values.reshape(len(values), -1)[:, 1] = -127 / MIDDLE * factor
    model.grouped.weight.set_value(weight)
    prepared(quantized(model)).write(tmp_path, KINDS)
    stored = Graph.from_files(tmp_path / MODEL, tmp_path / PARAMS).weights["grouped.weight"]
    assert (stored.reshape(len(stored), -1)[:, 1] == -126).all()
    model.grouped.weight.set_value(moved)
    rounded = prepared(model)
    with rounded.grids.rounding_as("paddle"):
        now = model.grouped.rounded_weight().numpy().reshape(len(moved), -1)
    np.testing.assert_array_equal(now[:, 1], -now[:, 0])  # both at the highest step
    assert wrong(differences(rounded, tmp_path)) == set()


@pytest.mark.parametrize("rest", [0.5, 0.4])
def test_ties_of_one_grid_before_the_even_one_are_no_differences(
    rest: float, tmp_path: Path
) -> None:
    """A weight with one grid is rounded twice: two of its steps may be even steps far apart."""
    model = randomize(Net())
    weight = model.grouped.weight.numpy()
    between = (np.arange(weight[0].size) % 80 + rest) / 127
    for number, channel in enumerate(weight):
        channel.reshape(-1)[:] = between * (1 - 2e-6)  # just below the middle
        channel.reshape(-1)[0] = 1 if number == 0 else (90 + 2 * number) / 127
    model.grouped.weight.set_value(weight)
    prepared(quantized(model, weight_type="abs_max")).write(tmp_path, KINDS)
    moved = weight * (1 + 4e-6) if rest == 0.5 else weight + 0.2 / 127  # above it
    moved[:, 0, 0, 0] = weight[:, 0, 0, 0]
    model.grouped.weight.set_value(moved.astype("float32"))
    found = differences(prepared(model), tmp_path)
    # what is moved from 0.4 to above 0.5 is no tie
    assert wrong(found) == (set() if rest == 0.5 else {(each, "grouped") for each in BACKENDS})


def test_a_kernel_that_rounds_outputs_wrongly_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ONNX Runtime has int8 convolutions for rounded outputs only."""
    rounded = prepared(quantized(randomize(Pair())), "onnxruntime")
    rounded.write(tmp_path, KINDS)
    honest, steps = layerwise._run, [0.4]

    def run(folder: Path, backend: Backend, layers: Any, eager: Any) -> list[np.ndarray]:
        found = honest(folder, backend, layers, eager)
        for layer, made in zip(layers, found):
            if layer.ending is not None:
                assert backend == "onnxruntime"
                assert layer.path == "first"
                made[0, 0, 0, 0] += np.float32(steps[0] * layer.ending.step)
        return found

    monkeypatch.setattr(layerwise, "_run", run)
    assert wrong(differences(rounded, tmp_path)) == set()
    steps[0] = 1.2
    assert wrong(differences(rounded, tmp_path)) == {("onnxruntime", "first")}


class Auxiliary(nn.Layer):
    """Has a second head that runs in evaluation mode too, and is not exported."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 3)
        self.head, self.aux = nn.Conv2D(8, 4, 1), nn.Conv2D(8, 4, 1)

    def forward(self, image: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        features = paddle.nn.functional.relu(self.stem(image))
        return self.head(features), self.aux(features)


class First(nn.Layer):
    def __init__(self, whole: nn.Layer) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        answer: paddle.Tensor = self.whole(image)[0]
        return answer


def test_layers_that_are_not_exported_have_no_place_in_files(tmp_path: Path) -> None:
    model = quantized(Auxiliary())
    model.eval()
    layer, specs = First(model), [InputSpec([None, 3, 12, 12], "float32", "image")]
    exporter = Int8Exporter(model, layer, Graph.from_trace(trace(layer, specs, model)), "openvino")
    assert exporter.grids.layers() == {"stem", "head"}
    exporter.write(tmp_path, KINDS)
    assert not wrong(differences(exporter, tmp_path))
