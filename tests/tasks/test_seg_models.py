"""Networks by name, against PaddleSeg's own."""

import os
import subprocess
import sys

import numpy as np
import paddle
import pytest

from core.errors import ConfigError
from tasks.seg.config import BackboneConfig, ModelConfig
from tasks.seg.models import build_network, find_heads, published_url

LIGHT = BackboneConfig("MobileNetV2_x0_25")


def test_bisenet_is_paddlesegs():
    from paddleseg.models import BiSeNetV2

    ours, theirs = build_network(ModelConfig(num_classes=4)), BiSeNetV2(4)
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    ours.set_state_dict(theirs.state_dict())
    image = paddle.randn([1, 3, 64, 96])
    for network in (ours, theirs):
        network.eval()
    np.testing.assert_array_equal(ours(image)[0].numpy(), theirs(image)[0].numpy())


@pytest.mark.parametrize(
    ("config", "outputs", "logits", "class_layers"),
    [
        (ModelConfig(num_classes=4), 5, "head.conv_1x1", 5),
        (
            ModelConfig("PPLiteSeg", 4, BackboneConfig("STDC1")),
            3,
            "seg_heads.0.conv_out",
            3,
        ),
        (ModelConfig("STDCSeg", 4, BackboneConfig("STDC1")), 4, "conv_out.conv_out", 3),
        (
            ModelConfig(
                "OCRNet", 4, BackboneConfig("HRNet_W18_Small_V1"), {"backbone_indices": [0]}
            ),
            2,
            "head.cls_head",
            2,
        ),
        (
            ModelConfig("PSPNet", 4, BackboneConfig("ResNet18_vd"), {"pp_out_channels": 64}),
            2,
            "head.conv",
            2,
        ),
        (ModelConfig("MobileSeg", 4, BackboneConfig("MobileNetV2_x1_0")), 3, None, 3),
    ],
)
def test_heads_are_found(config, outputs, logits, class_layers):
    network = build_network(config)
    network.train()
    raw = network(paddle.randn([2, 3, 64, 64]))
    assert len(raw) == outputs
    heads = find_heads(config)
    layers = dict(network.named_sublayers())
    assert logits in (None, heads.logits)
    assert heads.logits in heads.class_layers
    assert len(heads.class_layers) == class_layers
    assert heads.feature in layers
    assert {layers[path].weight.shape[0] for path in heads.class_layers} == {4}


def test_finding_heads_leaves_no_trace():
    config = ModelConfig(num_classes=4)
    paddle.seed(7)
    wanted = paddle.randn([3]).numpy()
    paddle.seed(7)
    name = paddle.utils.unique_name.generate("x")
    find_heads(config)
    np.testing.assert_array_equal(paddle.randn([3]).numpy(), wanted)
    stem, _, number = name.rpartition("_")
    assert paddle.utils.unique_name.generate("x") == f"{stem}_{int(number) + 1}"


@pytest.mark.parametrize("classes", [11, 19])
def test_espnet_takes_any_number_of_classes(classes):
    from paddleseg.models import ESPNetV1

    config = ModelConfig("ESPNetV1", classes, arguments={"level3_depth": 1})
    network = build_network(config)
    network.eval()
    assert network(paddle.randn([1, 3, 64, 64]))[0].shape == [1, classes, 64, 64]
    theirs = ESPNetV1(classes, level3_depth=1).state_dict()
    ours = network.state_dict()
    assert set(ours) == set(theirs)
    changed = {name for name in ours if ours[name].shape != theirs[name].shape}
    assert all(name.startswith("encoder.proj1.") for name in changed)
    assert bool(changed) == (classes != 19)


def test_two_networks_whose_weights_have_fixed_names():
    config = ModelConfig("PortraitNet", 3, BackboneConfig("MobileNetV2_x1_0"))
    networks = [build_network(config) for _ in range(2)]
    names = [parameter.name for network in networks for parameter in network.parameters()]
    assert len(names) == len(set(names))


def test_a_vision_transformer_is_built_without_weights():
    arguments = {"depth": 1, "img_size": 32, "embed_dim": 24, "num_heads": 2}
    config = ModelConfig("LinearSegmenter", 3, BackboneConfig("VisionTransformer", arguments))
    assert build_network(config)(paddle.randn([1, 3, 32, 32]))[0].shape == [1, 3, 32, 32]
    from paddleseg.models import backbones

    with pytest.raises(TypeError):  # the library itself is as it was
        backbones.VisionTransformer(**arguments)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig("BiSeNetv2"), r"^model\.name: .*did you mean 'BiSeNetV2'"),
        (
            ModelConfig(arguments={"lamda": 0.5}),
            r"^model\.arguments\.lamda: BiSeNetV2 takes no such argument.*'lambd'",
        ),
        (ModelConfig(arguments={"num_classes": 3}), r"^model\.arguments\.num_classes: cannot be"),
        (ModelConfig(arguments={"lambd": "x"}), r"^model\.arguments: BiSeNetV2 cannot be built"),
        (ModelConfig(backbone=LIGHT), r"^model\.backbone: BiSeNetV2 has no exchangeable"),
        (ModelConfig("PSPNet"), r"^model\.backbone: PSPNet needs one"),
        (ModelConfig("ESPNetV1", 3), r"^model\.num_classes: ESPNetV1 cannot tell 3 classes apart"),
        (
            ModelConfig("PSPNet", backbone=BackboneConfig("ResNet50vd")),
            r"^model\.backbone\.name: .*'ResNet50_vd'",
        ),
        (
            ModelConfig("PSPNet", backbone=BackboneConfig("ResNet50_vd", {"outputstride": 8})),
            r"^model\.backbone\.arguments\.outputstride: .*'output_stride'",
        ),
        (
            ModelConfig("PSPNet", backbone=BackboneConfig("ResNet50_vd", {"layers": 18})),
            r"^model\.backbone\.arguments\.layers: ResNet50_vd takes no such argument",
        ),
        (
            ModelConfig("PSPNet", backbone=BackboneConfig("ResNet50_vd", {"pretrained": "x"})),
            r"^model\.backbone\.arguments\.pretrained: cannot be set here",
        ),
    ],
)
def test_settings_that_build_no_network(config, message):
    with pytest.raises(ConfigError, match=message):
        build_network(config)


def test_published_weights():
    assert published_url(ModelConfig()).endswith(
        "/cityscapes/bisenet_cityscapes_1024x1024_160k/model.pdparams"
    )
    with pytest.raises(ConfigError, match=r"^model\.pretrained: .* BiSeNetV2 with 3 classes"):
        published_url(ModelConfig(num_classes=3))


SILENT = """
import os, sys, warnings, paddle
from tasks.seg.config import ModelConfig
from tasks.seg.models import build_network
assert "paddleseg" not in sys.modules
before = dict(os.environ), list(warnings.filters), os.listdir(os.environ["HOME"])
build_network(ModelConfig(num_classes=2))
assert (dict(os.environ), list(warnings.filters), os.listdir(os.environ["HOME"])) == before
assert paddle.in_dynamic_mode()
"""


def test_paddleseg_is_imported_late_and_without_a_trace(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", SILENT],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_building_prints_nothing(capsys):
    build_network(ModelConfig("FCN", 3, BackboneConfig("ResNet18_vd")))
    assert capsys.readouterr().out == ""
