"""The backbones of PaddleClas under the light decoder."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import paddleclas
import pytest

from core.errors import ConfigError
from core.network.weights import assign, complete_backbone
from tasks.keypoint.models import ModelConfig, build_network, published_url

# PaddleClas' names of the layers that end the strides 4, 8, 16 and 32
STAGES = {
    "PPLCNet_x1_0": ("blocks3", "blocks4", "blocks5", "blocks6"),
    "MobileNetV3_small_x1_0": ("blocks[0]", "blocks[2]", "blocks[7]", "last_second_conv"),
    "MobileNetV3_large_x0_5": ("blocks[2]", "blocks[5]", "blocks[11]", "last_second_conv"),
    "MobileNetV1_x0_25": ("blocks[2]", "blocks[4]", "blocks[10]", "blocks[12]"),
    "ResNet18_vd": ("blocks[1]", "blocks[3]", "blocks[5]", "blocks[7]"),
}


def image() -> paddle.Tensor:
    pixels = np.random.default_rng(1).standard_normal((2, 3, 96, 64))
    return paddle.to_tensor(pixels.astype("float32"))


@pytest.mark.parametrize("name", STAGES)
def test_backbone_returns_the_stages_of_paddleclas(name: str) -> None:
    reference = getattr(paddleclas, name)(return_patterns=list(STAGES[name]))
    network = build_network(ModelConfig("upsampling", backbone=name))
    published = {key: value.numpy() for key, value in reference.state_dict().items()}
    assign(network, complete_backbone(network, published, name), name)
    reference.eval()
    network.eval()
    with paddle.no_grad():
        expected = reference(image())
        maps = network.backbone(image())
        heatmaps = network(image())
    assert heatmaps.shape == [2, 17, 24, 16]
    assert [m.shape[-2:] for m in maps] == [[24, 16], [12, 8], [6, 4], [3, 2]]
    assert network.backbone.channels == tuple(m.shape[1] for m in maps)
    for found, stage in zip(maps, STAGES[name], strict=True):
        np.testing.assert_array_equal(found.numpy(), expected[stage].numpy())


def test_classifier_is_left_out() -> None:
    network = build_network(ModelConfig("upsampling", backbone="MobileNetV3_small_x1_0"))
    parts = {".".join(name.split(".")[:2]) for name in network.state_dict()}
    assert parts == {
        *("backbone.conv", "backbone.blocks", "backbone.last_second_conv"),
        *("decoder.laterals", "decoder.merges", "final_conv.weight", "final_conv.bias"),
    }


def test_a_deep_copy_shares_nothing() -> None:
    network = build_network(ModelConfig("upsampling", backbone="PPLCNet_x0_25"))
    network.eval()
    twin = copy.deepcopy(network)
    before = network(image()).numpy()
    for parameter in twin.parameters():
        parameter.set_value(paddle.zeros_like(parameter))
    assert not twin(image()).numpy().any()
    np.testing.assert_array_equal(network(image()).numpy(), before)


def test_building_leaves_training_mode_and_fresh_statistics() -> None:
    network = build_network(ModelConfig("upsampling", backbone="PPLCNet_x0_25"))
    assert all(layer.training for layer in network.sublayers(include_self=True))
    state = network.state_dict()
    assert not any(state[key].numpy().any() for key in state if key.endswith("._mean"))


def test_decoder_has_the_widths_asked_for() -> None:
    config = ModelConfig("upsampling", backbone="PPLCNet_x0_25", decoder_widths=(48, 32, 24, 16))
    network = build_network(config)
    assert [lateral.conv.weight.shape[0] for lateral in network.decoder.laterals] == [
        48,
        32,
        24,
        16,
    ]
    assert network.final_conv.weight.shape == [17, 16, 1, 1]
    assert network(image()).shape == [2, 17, 24, 16]


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("PPLCNet_x1_1", r"no network 'PPLCNet_x1_1' \(did you mean 'PPLCNet_x1_"),
        ("Nonsense", r"no network 'Nonsense', for instance PPLCNet_x1_0"),
        ("HRNet_W18_C", r"HRNet_W18_C cannot be followed .* at stride 8, 16, 32"),
        ("ViT_small_patch16_224", r"ViT_small_patch16_224 cannot be used: Input image size"),
    ],
)
def test_unfit_backbones_are_named(backbone: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.backbone: .*{message}"):
        build_network(ModelConfig("upsampling", backbone=backbone))


def test_pretrained_backbone_is_that_of_imagenet() -> None:
    url = published_url(ModelConfig("upsampling", backbone="PPLCNet_x2_5"))
    assert url.endswith("/PPLCNet_x2_5_pretrained.pdparams")
    with pytest.raises(
        ConfigError, match=r"^model\.pretrained: PaddleClas publishes no weights of"
    ):
        published_url(ModelConfig("upsampling", backbone="PPHGNet_base"))
