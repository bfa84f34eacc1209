"""Quantized layers one at a time: what is in front of them, and weights that are hard to store.

The files are for any processor, and each layer answers in every runtime as the eager one does on
its grids, to 1e-5 of its largest answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from core.export import parity
from core.export.files import write_files
from core.export.int8.exporter import Int8Exporter
from core.export.int8.file_comparison import FileComparison
from core.export.int8.int8_files import check_overflow
from core.graph.batch_norm_folding import trace_folded
from core.quant.apply import apply_quantization
from core.quant.grid_plan import GridPlan
from core.quant.layers import quantized_layers
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.runtimes.formats import format_of
from core.runtimes.predictor import load_predictor
from core.targets.names import BACKENDS, Format
from core.targets.presets import PRESETS, UNSIGNED_TARGETS
from tests.networks.int8_layers import axis_of

pytestmark = pytest.mark.int8

LIMIT = 1e-5
CHANNELS, SIZE = 8, 6
FORMATS: tuple[Format, ...] = ("paddle", "onnx")
LAYERS: dict[str, Callable[[], nn.Layer]] = {
    "convolution": lambda: nn.Conv2D(CHANNELS, CHANNELS, 3, padding=1),
    "strided": lambda: nn.Conv2D(CHANNELS, 12, 3, stride=2, dilation=2),
    "pointwise": lambda: nn.Conv2D(CHANNELS, CHANNELS, 1),
    "grouped": lambda: nn.Conv2D(CHANNELS, CHANNELS, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2D(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
    "transposed": lambda: nn.Conv2DTranspose(CHANNELS, CHANNELS, 2, stride=2),
    "vector": lambda: nn.Linear(CHANNELS, 4),
    "sequence": lambda: nn.Linear(CHANNELS, 4),
}
FRONTS: dict[str, Callable[[], nn.Layer]] = {
    "nothing": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "prelu": lambda: nn.PReLU(CHANNELS, init=0.3),
    "prelu of all": lambda: nn.PReLU(1, init=-0.2),
    "hard swish": nn.Hardswish,
    "leaky relu": lambda: nn.LeakyReLU(0.1),
}


class Layers(nn.Layer):
    """Layers of every kind, each behind the same function of the image [N, C, H, W]."""

    def __init__(self, front: str) -> None:
        super().__init__()
        self.front = FRONTS[front]()
        for kind, build in LAYERS.items():
            self.add_sublayer(kind, build())

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        y = self.front(image)
        fed = dict.fromkeys(LAYERS, y)
        fed["vector"], fed["sequence"] = y[:, :, 0, 0], y.flatten(2).transpose([0, 2, 1])
        return {kind: getattr(self, kind)(fed[kind]) for kind in LAYERS}


def hard(layer: nn.Layer, rng: np.random.Generator) -> None:
    """Give a layer a channel of zeros, one with one huge weight, and one of nothing but maxima."""
    weight = rng.normal(size=layer.weight.shape).astype("float32")
    channels = np.moveaxis(weight, axis_of(layer), 0)
    channels[0] = 0
    channels[1].flat[channels[1].size // 2] = 1000
    channels[2] = np.where(channels[2] < 0, -1, 1)
    layer.weight.set_value(weight)
    layer.bias.set_value(rng.normal(size=layer.bias.shape).astype("float32"))


def quantized(
    front: str, weight_type: str, zero_points: bool = False
) -> tuple[nn.Layer, np.ndarray]:
    """Return the model, and images [2, C, H, W] that reach both ends of the grids of its inputs."""
    rng = np.random.default_rng(len(front))
    model = Layers(front)
    for kind in LAYERS:
        hard(getattr(model, kind), rng)
    model.eval()
    images = rng.normal(size=(2, CHANNELS, SIZE, SIZE)).astype("float32")
    # all inputs at the ends; those of a symmetric range lie between two steps around a zero point
    images[1] = np.where(images[1] < 0, -0.7 if zero_points else -1, 1) * abs(images).max()
    images[0] = images[0].clip(images[1].min())
    how = Rounding(processors="any", weight_type=weight_type, zero_points=zero_points)
    choice = select_layers(model, how, ("Conv2D", "Conv2DTranspose", "Linear"), ())
    plan = GridPlan({}, frozenset(LAYERS), {})  # from zero on, where the values allow it
    apply_quantization(model, choice, how, [[paddle.to_tensor(images)]], "abs_max", plan)
    return model, images


@pytest.mark.parametrize("front", FRONTS)
def test_each_layer_is_exact_in_every_runtime(front: str, tmp_path: Path) -> None:
    for weight_type in ("channel_wise_abs_max", "abs_max"):
        write_and_compare(*quantized(front, weight_type), tmp_path / weight_type, PRESETS)


@pytest.mark.parametrize("front", ["nothing", "leaky relu", "hard swish"])
def test_so_it_is_on_grids_with_a_zero_point(front: str, tmp_path: Path) -> None:
    model, images = quantized(front, "channel_wise_abs_max", zero_points=True)
    assert all(each.input_quantizer.grid().zero_point for each in quantized_layers(model).values())
    write_and_compare(model, images, tmp_path / "files", UNSIGNED_TARGETS)


def write_and_compare(
    model: nn.Layer, images: np.ndarray, folder: Path, targets: Iterable[str]
) -> None:
    """Write the files for each target, prove that no processor overflows on them, and compare."""
    specs = [InputSpec([None, CHANNELS, SIZE, SIZE], "float32", "image")]
    graph = trace_folded(model, specs, model)
    folder.mkdir()
    write_files(graph, folder, FORMATS)
    for target in targets:
        exporter = Int8Exporter(model, model, graph, target)
        place = folder / target
        place.mkdir()
        formats = FORMATS if target == "openvino" else ("onnx",)
        exporter.write_some(place, formats, folder)
        check_overflow(place, formats, exporter.processors)
        for made in formats:
            compare(exporter, place, made, images)


def compare(exporter: Int8Exporter, folder: Path, made: Format, images: np.ndarray) -> None:
    """Compare the layers of a file one by one, and what the whole file answers."""
    backends = [each for each in BACKENDS if format_of(each) == made]
    answers, alone = FileComparison(exporter, folder).layer_by_layer(made, backends, [[images]])
    assert {each.layer for each in alone} == LAYERS.keys()
    assert {each.runtime for each in alone} == set(backends)
    assert max(each.relative for each in alone) < LIMIT
    for backend in backends:
        found = parity.run(load_predictor(folder, backend, own=True), [images])
        for kind, wanted in answers[0].items():
            limit = LIMIT * abs(wanted).max()
            if exporter.target == "onnxruntime" and kind in ("vector", "sequence"):
                limit += half_a_step_of_bias(exporter, kind)
            assert abs(found[kind] - wanted).max() <= limit, (exporter.target, backend, kind)


def half_a_step_of_bias(exporter: Int8Exporter, kind: str) -> float:
    """Return how far off the int32 bias may be that a linear layer for ONNX Runtime adds.

    Its steps are those of the input times those of the weights; the largest weight has at least 64.
    """
    (entry,) = (
        each
        for each in exporter.grids.scale_table("onnx").layers
        if each.weight == f"{kind}.weight"
    )
    largest = float(abs(getattr(exporter.model, kind).weight.numpy()).max())
    return entry.input.step * largest / 64 / 2
