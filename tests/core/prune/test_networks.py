"""Every network that the three tasks name loses half of its channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import CheckpointError, ExportError
from core.export.package import export
from core.graph.cost import count_macs, count_parameters
from core.prune.cut import ChannelEdit, apply_edit, check_cut, cut_for_now, plan_edit
from core.prune.pruner import Pruner
from core.prune.structure.analysis import Pins
from core.settings.config import load_yaml
from core.targets.names import BACKENDS
from core.task import build_task
from tests.core.prune.oracle import felt, random_keep, run, run_silenced, train_one_step
from tests.networks.rules import analyze

CONFIGS = Path(__file__).parents[3] / "configs"
CLASSIFIERS = (
    "MobileNetV1", "MobileNetV3_small_x1_0", "MobileNetV3_large_x1_0", "PPLCNet_x1_0",
    "PPLCNet_x2_5", "ResNet18_vd", "ResNet50_vd", "SqueezeNet1_1",
)  # fmt: skip
OTHERS = (
    "seg/bisenetv2_camvid", "seg/deeplabv3_resnet50_os8_cityscapes_1024x512",
    "seg/deeplabv3p_resnet50_os8_cityscapes_1024x512", "seg/gcnet_resnet50_os8_cityscapes_1024x512",
    "seg/pspnet_resnet50_os8_cityscapes_1024x512", "seg/stdc1_seg_cityscapes_1024x512",
    "seg/pp_liteseg_stdc1_cityscapes_1024x512", "keypoint/hrnet_w32_256x192",
    "keypoint/lite_hrnet_18_256x192_coco", "keypoint/lite_hrnet_30_256x192_coco",
    "keypoint/tinypose_256x192",
)  # fmt: skip
SPECS = [InputSpec([1, 3, 64, 64], "float32", "image")]


def build(name: str) -> Layer:
    if "/" not in name:
        settings: dict[str, Any] = {"model": {"name": name, "num_classes": 10}}
        return build_task("cls", {**settings, "data": {"root": "x"}}).build_model()
    task = name.partition("/")[0]
    settings = load_yaml(CONFIGS / f"{name}.yml")
    model = {**settings["model"], "pretrained": None}
    return build_task(task, {"model": model, "data": {**settings["data"]}}).build_model()


def count_by_hand(model: Layer, x: paddle.Tensor) -> tuple[int, list[list[int]]]:
    """Count the products of every convolution and linear layer while the model runs.

    Returns:
        Them, and the shapes of the outputs.
    """
    counted = []

    def listen(layer: Layer, inputs: Any, output: paddle.Tensor) -> None:
        transposed = isinstance(layer, nn.Conv2DTranspose)
        places = inputs[0] if transposed else output
        each = layer.weight.shape[:1] if isinstance(layer, nn.Linear) else layer.weight.shape[1:]
        counted.append(math.prod(places.shape) * math.prod(each))

    kinds = (nn.Conv2D, nn.Conv2DTranspose, nn.Linear)
    handles = [
        layer.register_forward_post_hook(listen)
        for layer in model.sublayers()
        if isinstance(layer, kinds)
    ]
    outputs = run(model, x)
    for handle in handles:
        handle.remove()
    return sum(counted), shapes(outputs)


def settle_statistics(model: Layer, x: paddle.Tensor) -> list[list[int]]:
    """Let norms see data once, or deep networks put out next to nothing; return shapes of heads."""
    norms = [each for each in model.sublayers() if isinstance(each, nn.layer.norm._BatchNormBase)]
    for layer in norms:
        layer._momentum = 0.0
    model.train()
    with paddle.no_grad():
        return shapes(model(x))


def shapes(outputs: Any) -> list[list[int]]:
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [list(output.shape) for output in outputs]


@pytest.mark.parametrize("name", [*CLASSIFIERS, *OTHERS])
def test_half_of_a_network_goes(name: str) -> None:
    paddle.seed(1)
    model, rng = build(name), np.random.default_rng(1)
    x = paddle.to_tensor(rng.normal(size=[1, 3, 64, 64]).astype("float32"))
    pair = paddle.concat([x, x.flip([3])])
    heads = settle_statistics(model, pair)
    before = run(model, x)

    cut = Pruner(model, SPECS).cut(lambda analysis: random_keep(analysis, rng, (0.5,)))
    assert cut.parameters[1] == count_parameters(model)
    assert cut.parameters[1] < 0.6 * cut.parameters[0]
    assert cut.macs[1] < 0.4 * cut.macs[0]
    if "gcnet" in name:  # it multiplies activations
        assert cut.macs[1] == count_macs(model, [tuple(SPECS[0].shape)], SPECS)
        assert shapes(run(model, x)) == shapes(before)
    else:
        assert (cut.macs[1], shapes(before)) == count_by_hand(model, x)
    assert train_one_step(model, pair) == heads
    cut.undo()

    spared = cut.keep.copy()
    spared[felt(cut.analysis)] = True
    silenced = run_silenced(model, cut.analysis, spared, x)
    apply_edit(model, plan_edit(model, cut.analysis, spared))
    for found, wanted, whole in zip(run(model, x), silenced, before, strict=True):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * scale)
        assert np.abs(whole - wanted).max() > 0.1 * scale


def test_numbers_in_code_are_found_and_pinned() -> None:
    """PaddleSeg's GCNet reshapes to `self.gc_channels`."""
    model, rng = build("seg/gcnet_resnet50_os8_cityscapes_1024x512"), np.random.default_rng(0)
    analysis = analyze(model, SPECS)
    keep = random_keep(analysis, rng, (0.5,))
    with cut_for_now(model, plan_edit(model, analysis, keep)):
        found = check_cut(model, SPECS, analysis, keep)
    owner = {op.index: op.layer for op in analysis.graphs[-1].graph.operators}
    assert {owner[index] for _, index in found} == {"head.gc_block"}
    again = analyze(model, SPECS, Pins(operators=frozenset(found)))
    fixed = {each.layer: each.reason for each in again.fixed}
    assert fixed["head.gc_block.channel_add_conv.3"].layer == "head.gc_block"
    assert "holds or computes numbers" in fixed["head.gc_block.channel_add_conv.3"].why
    keep = random_keep(again, rng, (0.5,))
    with cut_for_now(model, plan_edit(model, again, keep)):
        assert check_cut(model, SPECS, again, keep) == {}
        assert model.head.gc_block.conv_mask.weight.shape[1] == 512


class Branching(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 1)
        self.choice = Choice()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.choice(self.stem(x))


class Choice(Layer):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x[:, :2] if float(x.mean()) > 0 else x[:, :3]


def test_a_network_that_looks_at_values_is_refused_by_name() -> None:
    with pytest.raises(ExportError, match=r"^choice: cannot be traced"):
        analyze(Branching(), SPECS)


def a_cut_of(model: Layer) -> ChannelEdit:
    analysis = analyze(model, SPECS)
    keep = random_keep(analysis, np.random.default_rng(0), (0.5,))
    return ChannelEdit.from_record(plan_edit(model, analysis, keep).to_record())


def plain(*widths: int) -> Layer:
    """Depthwise convolutions between dense ones."""
    layers: list[Layer] = []
    for before, after in zip((3, *widths), widths):
        layers += [nn.Conv2D(before, after, 1), nn.Conv2D(after, after, 3, groups=after)]
    return nn.Sequential(*layers, nn.Conv2D(widths[-1], 2, 1))


@pytest.mark.parametrize(
    ("other", "weight"),
    [
        (lambda: plain(16, 4), "2.weight"),  # a narrower one
        (lambda: plain(16), "3.weight"),  # a shorter one
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU()), "1.weight"),
    ],
)
def test_a_record_of_another_model_names_the_weight(
    other: Callable[[], Layer], weight: str
) -> None:
    model = other()
    shapes_before = {name: p.shape for name, p in model.named_parameters()}
    with pytest.raises(CheckpointError, match=rf"^{weight}: "):
        apply_edit(model, a_cut_of(plain(16, 16)))
    assert {name: p.shape for name, p in model.named_parameters()} == shapes_before


def test_a_record_of_other_layers_names_the_layer() -> None:
    """Nothing tells them apart but what a layer holds."""
    edit = ChannelEdit({}, {"0": {"_groups": 4}})
    with pytest.raises(CheckpointError, match=r"^0._groups: "):
        apply_edit(nn.Sequential(nn.Linear(3, 4)), edit)


def test_a_cut_lite_hrnet_answers_alike_in_every_runtime(tmp_path: Path) -> None:
    """Its heatmaps begin as zeros, which hide whatever a runtime does wrong with its shuffles."""
    settings = load_yaml(CONFIGS / "keypoint/lite_hrnet_18_lsp.yml")
    data = {**settings["data"], "root": str(tmp_path / "none"), "input_size": [64, 64]}
    task = build_task("keypoint", {"model": settings["model"], "data": data})
    paddle.seed(1)
    model, rng = task.build_model(), np.random.default_rng(1)
    for weight in model.parameters():
        if weight.ndim == 4:
            scale = math.prod(weight.shape[1:]) ** -0.5
            weight.set_value(rng.normal(scale=scale, size=weight.shape).astype("float32"))
    Pruner(model, SPECS).cut(lambda analysis: random_keep(analysis, rng, (0.5,)))

    made = export(task, model, tmp_path / "out", ("paddle", "onnx"))
    assert {difference.runtime for difference in made.differences} == set(BACKENDS)
