"""The networks that are measured, with random weights in which every layer has a say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle.nn import Layer

from benchmarks.comparison import DOCS
from core.export.parity import real_batches
from core.network.batch_norms import is_batch_norm
from core.settings.config import load_yaml, merge
from core.task import Task, build_task
from core.training.run import read_run

Entry = dict[str, Any]


ROOT = DOCS.parent

CLASSIFIERS = (
    *("MobileNetV1", "MobileNetV3_small_x1_0", "MobileNetV3_large_x1_0", "PPLCNet_x1_0"),
    *("PPLCNet_x2_5", "ResNet18_vd", "ResNet50_vd", "SqueezeNet1_1", "ShuffleNetV2_x1_0"),
)

CONFIGS = (
    "seg/bisenetv2_cityscapes_1024x2048",
    "seg/deeplabv3_resnet50_os8_cityscapes_1024x512",
    "seg/deeplabv3p_resnet50_os8_cityscapes_1024x512",
    "seg/gcnet_resnet50_os8_cityscapes_1024x512",
    "seg/pspnet_resnet50_os8_cityscapes_1024x512",
    "seg/stdc1_seg_cityscapes_1024x512",
    "seg/pp_liteseg_stdc1_cityscapes_1024x512",
    "keypoint/hrnet_w32_256x192",
    "keypoint/lite_hrnet_18_256x192_coco",
    "keypoint/lite_hrnet_30_256x192_coco",
    "keypoint/tinypose_128x96",
    "keypoint/tinypose_256x192",
)

NETWORKS = (*CLASSIFIERS, *(name.partition("/")[2] for name in CONFIGS))
SEG_SIZE = [512, 256]  # width, height

# its pyramid averages 6 x 6 parts of the feature map, an eighth of the image; where they are not of
# one size, ONNX has no operator for it, and the export says so
PSP_SIZE = [576, 288]


def build(network: str) -> tuple[Task, Layer]:
    """Build a network with the same random weights every time."""
    if network in CLASSIFIERS:
        model = {"name": network, "num_classes": 1000}
        task = build_task("cls", {"model": model, "data": {"root": ""}})
    else:
        (config,) = (name for name in CONFIGS if name.endswith(f"/{network}"))
        changes: Entry = {"model": {"pretrained": None}, "data": {"root": "nowhere"}}
        if config.startswith("seg/"):
            changes["data"]["size"] = PSP_SIZE if network.startswith("psp") else SEG_SIZE
        task = read_run(merge(load_yaml(ROOT / "configs" / f"{config}.yml"), changes)).task
    paddle.seed(0)
    model = task.build_model()
    enliven(model)
    return task, model


def enliven(model: Layer) -> None:
    """Draw weights with which every layer has a say (LeCun et al., 1998).

    Lite-HRNet begins with heatmaps of zeros, and zeros are alike whatever is wrong. Norms halve, or
    its 30-layer version is so steep that one unit in the last place of its input moves its output
    by 1e-4, as far as runtimes may be apart.
    """
    rng = np.random.default_rng(0)
    for weight in model.parameters():
        if weight.ndim >= 2:
            fan_in = math.prod(weight.shape[1:]) if weight.ndim > 2 else weight.shape[0]
            values = rng.standard_normal(weight.shape, "float32") / np.float32(fan_in**0.5)
            weight.set_value(values)
    for layer in model.sublayers():
        if is_batch_norm(layer):
            layer.weight.set_value(layer.weight * 0.5)


def images(task: Task) -> list[paddle.Tensor]:
    """Return two images, of the kind that an export without data is compared on."""
    return [paddle.to_tensor(array) for array in real_batches(task, task.input_spec())[-1]]


def labels(
    task: Task, outputs: dict[str, paddle.Tensor], size: Sequence[int]
) -> dict[str, paddle.Tensor]:
    """Return random labels for images [N, C, H, W] and what the model made of them."""
    rng = np.random.default_rng(1)
    if task.name == "keypoint":
        shape = next(iter(outputs.values())).shape
        target = rng.random(shape).astype("float32")
        weight = np.ones(shape[:2], "float32")
        return {"target": paddle.to_tensor(target), "target_weight": paddle.to_tensor(weight)}
    classes = task.config.model.num_classes
    places = size[:1] if task.name == "cls" else [size[0], *size[2:]]
    return {"label": paddle.to_tensor(rng.integers(0, classes, places))}
