"""The naive networks: shuffle units against NumPy, TinyPose's configs, pruned and int8 files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.nn import Layer

from core.export.package import export
from core.network.weights import assign, load_arrays, save_for_paddle
from core.prune.pruner import Pruner, fixed_specs
from core.quant.apply import apply_quantization
from core.quant.grid_plan import GridPlan
from core.quant.layers import quantized_layers
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.settings.config import load_yaml, merge
from core.targets.names import BACKENDS
from core.task import Task, build_task
from core.training.run import read_run
from tasks.keypoint.models import HeatmapNetwork, ModelConfig, build_network
from tasks.keypoint.models.lite_hrnet import Anatomy, LiteHRNet, ShuffleUnit
from tests.core.prune.oracle import random_keep

CONFIGS = Path(__file__).parents[2] / "configs" / "keypoint"
JOINTS = 4


def draw_weights(model: Layer, rng: np.random.Generator) -> None:
    """Draw weights with which every layer has a say; fresh ones make heatmaps of zeros."""
    for name, value in model.state_dict().items():
        drawn = rng.normal(size=value.shape)
        if name.endswith("_variance"):
            drawn = 1 + 0.1 * np.abs(drawn)
        elif value.ndim == 1:
            drawn = 0.1 * drawn + (1.0 if name.endswith("weight") else 0.0)
        else:
            drawn = drawn / math.sqrt(math.prod(value.shape[1:]))
        value.set_value(drawn.astype("float32"))


def test_a_shuffle_unit_is_the_one_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    unit = ShuffleUnit(6)
    draw_weights(unit, rng)
    unit.eval()
    image = rng.normal(size=(2, 6, 5, 4)).astype("float32")
    weights = {name: value.numpy().astype(float) for name, value in unit.state_dict().items()}
    found = unit(paddle.to_tensor(image)).numpy()
    np.testing.assert_allclose(found, _shuffle_unit(image, weights), rtol=0, atol=1e-5)


def _shuffle_unit(image: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Split in halves, 1x1, 3x3 of each channel alone, 1x1, and deal the channels out in turn."""
    half = image.shape[1] // 2
    kept, x = image[:, :half], image[:, half:].astype(float)
    for index in range(3):
        kernel = weights[f"branch2.{index}.conv.weight"]
        if index == 1:
            rows, columns = x.shape[2:]
            padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
            x = sum(
                kernel[None, :, 0, i, j, None, None] * padded[:, :, i : i + rows, j : j + columns]
                for i in range(3)
                for j in range(3)
            )
        else:
            x = np.einsum("oi,nihw->nohw", kernel[:, :, 0, 0], x)
        norm = {
            name: weights[f"branch2.{index}.norm.{name}"][:, None, None]
            for name in ("weight", "bias", "_mean", "_variance")
        }
        x = (x - norm["_mean"]) / np.sqrt(norm["_variance"] + 1e-5) * norm["weight"] + norm["bias"]
        if index != 1:
            x = np.maximum(x, 0)
    mixed = np.empty_like(image, dtype=float)
    mixed[:, 0::2], mixed[:, 1::2] = kept, x
    return mixed


@pytest.mark.parametrize(
    ("name", "entries", "values"),
    [("lite_hrnet_naive", 1342, 788_141), ("lite_hrnet_wider_naive", 1342, 1_355_521)],
)
def test_the_naive_networks_have_so_many_weights(name: Any, entries: int, values: int) -> None:
    state = build_network(ModelConfig(name)).state_dict()
    assert len(state) == entries
    assert sum(int(value.size) for value in state.values()) == values


def test_a_published_file_loads_strictly(tmp_path: Path) -> None:
    """A file with the names and shapes of the published one, as Paddle writes it."""
    config = ModelConfig("lite_hrnet_wider_naive")
    source, loaded = build_network(config), build_network(config)
    draw_weights(source, np.random.default_rng(0))
    path = tmp_path / "tinypose.pdparams"
    save_for_paddle(path, source.state_dict())
    assign(loaded, load_arrays(path), str(path))
    wanted = source.state_dict()
    for name, value in loaded.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), wanted[name].numpy())


@pytest.mark.parametrize(
    ("config", "size", "published"),
    [
        ("tinypose_256x192", (256, 192), "tinypose_256x192.pdparams"),
        ("tinypose_128x96", (128, 96), "tinypose_128x96.pdparams"),
    ],
)
def test_the_configs_decode_as_published(
    config: str, size: tuple[int, int], published: str
) -> None:
    task = read_run(merge(load_yaml(CONFIGS / f"{config}.yml"), {})).task
    codec, data = task.config.codec, task.config.data
    assert task.config.model.name == "lite_hrnet_wider_naive"
    assert task.pretrained_url().endswith(f"/{published}")
    assert (data.input_size, data.box_ends) == (size, "last_pixel")
    assert (codec.udp, codec.decoding, codec.blur_kernel) == (False, "dark", 3)
    assert not task.config.evaluation.flip_test


@pytest.fixture
def task(tmp_path: Path) -> Task:
    model = {"name": "lite_hrnet_naive", "num_joints": JOINTS}
    data = {"root": str(tmp_path / "none"), "input_size": [64, 64], "num_workers": 0}
    rest = {"joints": {"flip_pairs": [[0, 1]]}, "augment": {"half_body": 0}}
    return build_task("keypoint", {"model": model, "data": data, **rest})


@pytest.mark.int8
def test_a_naive_network_is_pruned_trained_on_grids_and_exported(
    task: Task, tmp_path: Path
) -> None:
    """One module in each stage and narrow branches; whatever is in the large one is in it."""
    paddle.seed(0)
    rng = np.random.default_rng(0)
    backbone = LiteHRNet(Anatomy((1, 1, 1), (12, 16, 20, 24), naive=True))
    model = HeatmapNetwork(backbone, backbone.out_channels, JOINTS)
    draw_weights(model, rng)
    cut = Pruner(model, fixed_specs(task)).cut(lambda found: random_keep(found, rng, (0.6,)))
    assert cut.macs[1] < 0.7 * cut.macs[0]
    assert any(layer.order for layer in model.sublayers() if hasattr(layer, "order"))

    model.eval()
    rounding = Rounding(processors="any")
    choice = select_layers(model, rounding, ("Conv2D",), ())
    pictures = [[paddle.randn([4, 3, 64, 64])] for _ in range(2)]
    apply_quantization(model, choice, rounding, pictures, "abs_max", GridPlan({}))
    before = model.final_conv.weight.numpy()
    _train_a_step(model, pictures[0][0])
    assert np.abs(model.final_conv.weight.numpy() - before).max() > 0

    made = export(task, model, tmp_path / "int8", ("paddle", "onnx"))
    assert made.description.quantization is not None
    assert (
        made.description.quantization.layers == len(quantized_layers(model)) == len(choice.layers)
    )
    assert {each.runtime for each in made.differences} == set(BACKENDS)


def _train_a_step(model: Layer, image: paddle.Tensor) -> None:
    model.train()
    model(image).square().mean().backward()
    trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    assert all(parameter.grad is not None for parameter in trained)
    optimizer = paddle.optimizer.SGD(1e-3, parameters=trained)
    optimizer.step()
    optimizer.clear_grad()
    model.eval()
