"""Quantized layers one at a time: what is in front of them, and weights that are hard to store.

The files are for any processor, and each layer answers in every runtime as the eager one does on
its grids, to 1e-5 of its largest answer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from core.export import parity
from core.export.files import LITE, MODEL, ONNX, PARAMS, write_files
from core.export.int8.exporter import Int8Exporter
from core.graph.batch_norm_folding import fold_batch_norms
from core.graph.program import Graph
from core.graph.trace import trace
from core.quant.apply import apply_quantization
from core.quant.grid_plan import GridPlan
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.runtimes.formats import format_of
from core.runtimes.predictor import load_predictor
from core.targets.names import BACKENDS, Format
from core.targets.presets import PRESETS
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


def quantized(front: str, weight_type: str) -> tuple[nn.Layer, np.ndarray]:
    """Return the model, and images [2, C, H, W] that reach both ends of the grids of its inputs."""
    rng = np.random.default_rng(len(front))
    model = Layers(front)
    for kind in LAYERS:
        hard(getattr(model, kind), rng)
    model.eval()
    images = rng.normal(size=(2, CHANNELS, SIZE, SIZE)).astype("float32")
    images[1] = np.where(images[1] < 0, -1, 1) * abs(images).max()  # all inputs at the ends
    how = Rounding(processors="any", weight_type=weight_type)
    choice = select_layers(model, how, ("Conv2D", "Conv2DTranspose", "Linear"), ())
    plan = GridPlan({}, frozenset(LAYERS), {})  # from zero on, where the values allow it
    apply_quantization(model, choice, how, [[paddle.to_tensor(images)]], "abs_max", plan)
    return model, images


@pytest.mark.parametrize("front", FRONTS)
def test_each_layer_is_exact_in_every_runtime(front: str, tmp_path: Path) -> None:
    for weight_type in ("channel_wise_abs_max", "abs_max"):
        model, images = quantized(front, weight_type)
        specs = [InputSpec([None, CHANNELS, SIZE, SIZE], "float32", "image")]
        graph = Graph.from_trace(trace(model, specs, model))
        fold_batch_norms(graph)
        whole = tmp_path / weight_type
        whole.mkdir()
        write_files(graph, whole, FORMATS)
        for target in PRESETS:
            names = (MODEL, PARAMS, ONNX, LITE)
            exporter = Int8Exporter(model, model, graph, target, write_files, names)
            folder = whole / target
            folder.mkdir()
            formats = FORMATS if target == "openvino" else ("onnx",)
            exporter.write_some(folder, formats, whole, None)
            exporter.prove(folder, formats)
            for made in formats:
                compare(exporter, folder, made, images)


def compare(exporter: Int8Exporter, folder: Path, made: Format, images: np.ndarray) -> None:
    """Compare the layers of a file one by one, and what the whole file answers."""
    backends = [each for each in BACKENDS if format_of(each) == made]
    answers, alone = exporter.layer_by_layer(folder, made, backends, [[images]])
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
    (entry,) = (each for each in exporter._table("onnx").layers if each.weight == f"{kind}.weight")
    largest = float(abs(getattr(exporter.model, kind).weight.numpy()).max())
    return entry.input.step * largest / 64 / 2
