"""HRNet and Lite-HRNet against PaddleDetection's; every keypoint network traced, frozen, edited."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.nn import Conv2D, Layer
from paddle.static import InputSpec

from core.errors import ConfigError
from core.graph.trace import old_ir, trace
from core.network.layers import get, replace
from core.settings.config import read
from tasks.keypoint.models import ModelConfig, build_network, published_url

FOLDER = Path(__file__).parent
FACTS = json.loads((FOLDER / "keypoint_oracle.json").read_text(encoding="utf-8"))
PUBLISHED = (
    *("lite_hrnet_18", "lite_hrnet_30", "lite_hrnet_naive", "lite_hrnet_wider_naive"),
    *("hrnet_w32", "hrnet_w48"),
)


def _load_oracle() -> Any:
    spec = importlib.util.spec_from_file_location("oracle", FOLDER / "make_keypoint_oracle.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ORACLE = _load_oracle()


def settings(name: str, **more: Any) -> ModelConfig:
    backbone = "PPLCNet_x0_25" if name == "upsampling" else None
    return ModelConfig(name, backbone=backbone, **more)


@pytest.fixture(scope="module")
def network() -> Callable[[str], Layer]:
    """Networks with the oracle's weights; a test that edits one must build its own."""

    @cache
    def build(name: str) -> Layer:
        built = build_network(settings(name))
        ORACLE.fill(built)
        return built

    return build


def pixels(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(ORACLE.numbers("pixels", shape))


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_have_the_names_and_shapes_of_paddledetection(
    name: str, network: Callable[[str], Layer]
) -> None:
    own = {key: tuple(value.shape) for key, value in network(name).state_dict().items()}
    assert ORACLE.digests(own) == FACTS[name]["weights"]


# In double precision the networks are up to 9e-7 and, with norms of the batch, 1.2e-5 away from the
# facts, which are computed in float32; two builds of Paddle round apart by up to twice that.
ROUNDED = {"eval": 2e-6, "train": 2.5e-5}


@pytest.mark.parametrize("name", PUBLISHED)
def test_heatmaps_are_those_of_paddledetection(name: str, network: Callable[[str], Layer]) -> None:
    for mode, rounded in ROUNDED.items():  # in this order: training changes the statistics
        heatmaps = ORACLE.heatmaps(network(name), train=mode == "train")
        found = heatmaps[tuple(zip(*ORACLE.PLACES))]
        limit = rounded * np.abs(heatmaps).max()
        np.testing.assert_allclose(found, FACTS[name][mode], rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("name", "parameters", "macs", "tolerance"),
    [
        ("lite_hrnet_18", 1.1e6, 0.20e9, 0.03),
        ("lite_hrnet_30", 1.8e6, 0.31e9, 0.03),
        # PaddleDetection's model zoo: 1.36e6 and 0.32e9, statistics of norms included
        ("lite_hrnet_wider_naive", 1.33e6, 0.31e9, 0.03),
        # the paper says 7.1 for w32, but PaddleDetection's model zoo 7.68 of the same network
        ("hrnet_w32", 28.5e6, 7.68e9, 0.01),
        ("hrnet_w48", 63.6e6, 14.6e9, 0.08),
    ],
)
def test_cost_at_256x192_is_what_is_published(
    name: str,
    parameters: float,
    macs: float,
    tolerance: float,
    network: Callable[[str], Layer],
) -> None:
    model = network(name)
    trained = sum(int(p.size) for p in model.parameters() if not p.stop_gradient)
    assert trained == pytest.approx(parameters, rel=0.03)
    assert _count_macs(model, (1, 3, 256, 192)) == pytest.approx(macs, rel=tolerance)


def _count_macs(model: Layer, shape: tuple[int, ...]) -> int:
    costs = []
    handles = [
        layer.register_forward_post_hook(
            lambda conv, _, out: costs.append(out.size * int(np.prod(conv.weight.shape[1:])))
        )
        for layer in model.sublayers()
        if isinstance(layer, Conv2D)
    ]
    model.eval()
    with paddle.no_grad():
        model(pixels(*shape))
    for handle in handles:
        handle.remove()
    return sum(costs)


@pytest.mark.parametrize("name", ["lite_hrnet_30", "hrnet_w32", "upsampling"])
def test_traced_graph_takes_any_batch_and_answers_as_eager(
    name: str, network: Callable[[str], Layer]
) -> None:
    model = network(name)
    model.eval()
    image = pixels(3, 3, 64, 96)
    with paddle.no_grad():
        expected = model(image).numpy()
    traced = trace(model, [InputSpec([None, 3, 64, 96], "float32", "image")])
    with old_ir():
        executor, scope = paddle.static.Executor(paddle.CPUPlace()), paddle.static.Scope()
        for key, value in traced.weights.items():
            scope.var(key).get_tensor().set(value.numpy(), paddle.CPUPlace())
        (found,) = executor.run(
            traced.program,
            feed={"image": image.numpy()},
            fetch_list=list(traced.outputs.values()),
            scope=scope,
        )
    assert found.shape == (3, 17, 16, 24)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["lite_hrnet_18", "hrnet_w32", "upsampling"])
@pytest.mark.parametrize("size", [(96, 72), (100, 60)])
def test_sizes_that_do_not_divide_by_32_work(
    name: str, size: tuple[int, int], network: Callable[[str], Layer]
) -> None:
    model = network(name)
    model.eval()
    with paddle.no_grad():
        heatmaps = model(pixels(1, 3, *size))
    assert heatmaps.shape == [1, 17, size[0] // 4, size[1] // 4]


@pytest.mark.parametrize("name", ["lite_hrnet_18", "hrnet_w32", "upsampling"])
def test_every_parameter_learns(name: str) -> None:
    model = build_network(settings(name, num_joints=3))
    model.train()
    model(pixels(2, 3, 64, 64)).square().mean().backward()
    trained = {key: p for key, p in model.named_parameters() if not p.stop_gradient}
    assert [key for key, p in trained.items() if p.grad is None] == []
    assert trained["final_conv.weight"].shape[0] == 3


@pytest.mark.parametrize(("name", "std"), [("lite_hrnet_18", 0.001), ("hrnet_w32", 0.01)])
def test_fresh_weights_are_drawn_as_in_the_original(name: str, std: float) -> None:
    model = build_network(settings(name))
    for path, layer in model.named_sublayers():
        if isinstance(layer, Conv2D) and layer.weight.size > 2000 and path != "final_conv":
            assert float(layer.weight.std()) == pytest.approx(std, rel=0.15), path
        if isinstance(layer, Conv2D) and layer.bias is not None:
            assert not layer.bias.numpy().any(), path
    assert float(model.final_conv.weight.std()) == pytest.approx(0.001, rel=0.15)


@pytest.mark.parametrize("name", ["lite_hrnet_18", "hrnet_w32", "upsampling"])
def test_freeze_norm_keeps_statistics_scale_and_shift(name: str) -> None:
    model = build_network(settings(name, freeze_norm=True))
    changed = _changed_by_training(model)
    norms = {path for path, layer in model.named_sublayers() if "BatchNorm" in type(layer).__name__}
    assert changed == {key for key in model.state_dict() if key.rpartition(".")[0] not in norms}


@pytest.mark.parametrize(
    ("name", "last", "frozen", "trained"),
    [
        ("lite_hrnet_18", 0, "backbone.stem.", "backbone.transition0."),
        ("lite_hrnet_18", 2, "backbone.stage1.", "backbone.transition2."),
        ("hrnet_w32", 1, "backbone.la1.", "backbone.tr1."),
        ("upsampling", 0, "backbone.blocks3.", "backbone.blocks4."),
        ("upsampling", 3, "backbone.blocks6.", "decoder."),
    ],
)
def test_freeze_at_keeps_all_up_to_a_stage(name: str, last: int, frozen: str, trained: str) -> None:
    model = build_network(settings(name, freeze_at=last))
    changed = _changed_by_training(model)
    names = list(model.state_dict())
    first_trained = next(i for i, key in enumerate(names) if key.startswith(trained))
    last_frozen = max(i for i, key in enumerate(names) if key.startswith(frozen))
    assert changed == set(names[first_trained:])
    assert last_frozen == first_trained - 1


def _changed_by_training(model: Layer) -> set[str]:
    """Return the weights and statistics that one step of training changes."""
    ORACLE.fill(model)
    before = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    model.train()
    (model(pixels(2, 3, 64, 64)) - 1.0).square().sum().backward()
    optimizer.step()
    after = model.state_dict()
    return {key for key in before if not np.array_equal(before[key], after[key].numpy())}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("lite_hrnet_18", "backbone.stage1.3.fuse_layers.0.2.0"),
        (
            "hrnet_w32",
            "backbone.st3.stage_st3_2.branches_func.bb_st3_2_branch_layer_1_1.conv1.conv",
        ),
        ("hrnet_w32", "backbone.la1.block_layer2_2"),
        ("upsampling", "backbone.blocks5"),
    ],
)
def test_a_layer_that_is_replaced_is_called(name: str, path: str) -> None:
    model = build_network(settings(name))
    seen = []

    class Spy(Layer):
        def __init__(self, inner: Layer) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            seen.append(x.shape)
            return self.inner(x)

    replace(model, path, Spy(get(model, path)))
    model(pixels(1, 3, 64, 64))
    assert len(seen) == 1


def test_published_weights_are_found_by_network_and_size() -> None:
    seeds = "https://paddle-model-ecology.bj.bcebos.com/model/hrnet_pose/"
    assert published_url(settings("hrnet_w32")) == seeds + "hrnet_w32_256x192.pdparams"
    assert published_url(settings("lite_hrnet_30")) == seeds + "lite_hrnet_30_256x192_coco.pdparams"
    zoo = "https://bj.bcebos.com/v1/paddledet/models/keypoint/"
    light, tiny = settings("lite_hrnet_18"), settings("lite_hrnet_wider_naive")
    assert published_url(light, 384) == zoo + "lite_hrnet_18_384x288_coco.pdparams"
    assert published_url(light, 128) == zoo + "lite_hrnet_18_256x192_coco.pdparams"
    assert published_url(tiny, 384) == zoo + "tinypose_256x192.pdparams"
    assert published_url(tiny, 192) == zoo + "tinypose_128x96.pdparams"
    with pytest.raises(ConfigError, match=r"^model\.pretrained: no published .* 'hrnet_w48'"):
        published_url(settings("hrnet_w48"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "lite_hrnet_19"}, r"^model\.name: .*did you mean 'lite_hrnet_18'"),
        (
            {"name": "upsampling"},
            r"^model\.backbone: 'upsampling' needs .* PPLCNet_x1_0, got nothing",
        ),
        (
            {"name": "hrnet_w32", "backbone": "PPLCNet_x1_0"},
            r"^model\.backbone: 'hrnet_w32' has its",
        ),
        ({"name": "hrnet_w32", "num_joints": 0}, r"^model\.num_joints: expected 1 or more, got 0"),
        ({"name": "hrnet_w32", "freeze_at": -1}, r"^model\.freeze_at: expected a stage from 0 on"),
        (
            {"name": "hrnet_w32", "decoder_widths": [64]},
            r"^model\.decoder_widths: expected 4 values",
        ),
        (
            {"name": "upsampling", "backbone": "X", "decoder_widths": [64, 64, 64, 0]},
            r"^model\.decoder_widths: expected positive numbers, got \[64, 64, 64, 0\]",
        ),
    ],
)
def test_wrong_settings_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(ModelConfig, given, "model")


def test_unknown_network_and_stage_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model\.name: no network 'hrnet_w33' \(did you mean"):
        build_network(ModelConfig("hrnet_w33"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^model\.freeze_at: .* stages 0 to 3, got 4"):
        build_network(settings("lite_hrnet_18", freeze_at=4))
