"""Networks of the classification task against PaddleClas itself."""

from __future__ import annotations

import copy
import logging

import numpy as np
import paddle
import pytest

from core.errors import ConfigError
from core.graph.trace import trace
from tasks.cls.models import build_backbone, list_backbones, pretrained_url, stage_names
from tasks.cls.models.anatomy import dissect
from tasks.cls.models.outputs import Deployed, name_outputs
from tasks.cls.models.stages import freeze_norms, freeze_up_to, run_up_to

SMALL = "MobileNetV3_small_x0_35"


def noise(side: int = 32, count: int = 2) -> paddle.Tensor:
    rng = np.random.default_rng(0)
    return paddle.to_tensor(rng.normal(size=(count, 3, side, side)).astype(np.float32))


def named_by_the_seeds() -> list[str]:
    return [
        "MobileNetV1",
        "MobileNetV3_small_x1_0",
        "MobileNetV3_large_x1_0",
        "PPLCNet_x1_0",
        "PPLCNet_x2_5",
        "ResNet18_vd",
        "ResNet50",
        "ResNet50_vd",
        "SqueezeNet1_1",
    ]


def test_the_networks_of_the_seeds_are_known_and_have_published_weights():
    names = list_backbones()
    assert len(names) > 300
    assert set(named_by_the_seeds()) <= set(names)
    for name in named_by_the_seeds():
        assert pretrained_url(name).startswith("https://")
        assert pretrained_url(name).endswith(".pdparams")


@pytest.mark.parametrize("name", [SMALL, "PPLCNet_x0_25", "MobileNetV1_x0_25", "SqueezeNet1_1"])
def test_names_and_outputs_are_those_of_paddleclas(name):
    from paddleclas.ppcls.arch import backbone

    ours = build_backbone(name, 7)
    with paddle.utils.unique_name.guard():
        theirs = getattr(backbone, name)(class_num=7)
    expected = theirs.state_dict()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in expected.items()
    }
    for key, tensor in ours.state_dict().items():
        tensor.set_value(expected[key])
    ours.eval()
    theirs.eval()
    np.testing.assert_allclose(ours(noise()).numpy(), theirs(noise()).numpy(), rtol=1e-6)


def test_stages_of_pplcnet_have_the_shapes_of_the_guide():
    model = build_backbone("PPLCNet_x2_5", return_stages=True)
    model.eval()
    with paddle.no_grad():
        outputs = model(paddle.rand([1, 3, 224, 224]))
    assert {name: value.shape for name, value in outputs.items()} == {
        "logits": [1, 1000],
        "blocks2": [1, 80, 112, 112],
        "blocks3": [1, 160, 56, 56],
        "blocks4": [1, 320, 28, 28],
        "blocks5": [1, 640, 14, 14],
        "blocks6": [1, 1280, 7, 7],
    }


def test_stages_by_number_by_pattern_and_by_path():
    assert stage_names(SMALL) == ["blocks[0]", "blocks[2]", "blocks[7]", "blocks[10]"]
    assert stage_names("SqueezeNet1_1") == []
    model = build_backbone(SMALL, 3, return_stages=[1, "blocks[7]", "conv"])
    model.eval()
    outputs = model(noise(64))
    assert list(outputs) == ["logits", "conv", "blocks[2]", "blocks[7]"]
    plain = build_backbone(SMALL, 3)
    plain.set_state_dict(model.state_dict())
    plain.eval()
    assert list(plain.state_dict()) == list(model.state_dict())
    np.testing.assert_array_equal(plain(noise(64)).numpy(), outputs["logits"].numpy())
    expected = run_up_to(plain, "blocks.7", noise(64))
    np.testing.assert_array_equal(outputs["blocks[7]"].numpy(), expected.numpy())


def test_branches_are_named_one_by_one():
    raw = {"logits": paddle.zeros([1, 2]), "st4": [paddle.zeros([1, 3]), paddle.zeros([1, 4])]}
    assert list(name_outputs(raw)) == ["logits", "st4[0]", "st4[1]"]


def test_stages_survive_a_deep_copy():
    model = build_backbone(SMALL, 3, return_stages=True)
    model.eval()
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.set_value(paddle.zeros_like(parameter))
    assert float(twin(noise())["blocks[0]"].abs().max()) == 0
    outputs = model(noise())
    assert len(outputs) == 5
    assert float(outputs["blocks[0]"].abs().max()) > 0


def test_stages_are_traced():
    model = Deployed(build_backbone(SMALL, 3, return_stages=[0, 3]), "raw")
    spec = paddle.static.InputSpec([None, 3, 64, 64], "float32", "image")
    assert set(trace(model, [spec], model.model).outputs) == {"logits", "blocks[0]", "blocks[10]"}


def test_cut_networks_run_and_trace_only_what_is_left():
    model = build_backbone(SMALL, 3)
    cut = Deployed(model, "raw", stop_after="blocks.2")
    cut.eval()
    features = cut(noise(64))["features"]
    assert features.shape == [2, 8, 8, 8]
    np.testing.assert_array_equal(features.numpy(), run_up_to(model, "blocks.2", noise(64)).numpy())
    spec = paddle.static.InputSpec([None, 3, 64, 64], "float32", "image")
    traced = trace(cut, [spec], model)
    assert set(traced.outputs) == {"features"}
    assert not [name for name in traced.weights if name.startswith(("fc", "blocks.3"))]
    assert model(noise(64)).shape == [2, 3]
    with pytest.raises(ConfigError, match=r"^ending: 'softmax' is unknown behind 'blocks\.2'"):
        Deployed(model, "softmax", stop_after="blocks.2")
    model.unused = paddle.nn.ReLU()
    with pytest.raises(ConfigError, match=r"^model\.stop_after: the network never calls"):
        run_up_to(model, "unused", noise())


def test_frozen_layers_keep_weights_and_statistics():
    model = build_backbone(SMALL, 3)
    freeze_up_to(model, "blocks.2")
    model.train()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
    for _ in range(2):
        model(noise(64, 4)).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
    after = model.state_dict()
    frozen = ("conv.", "blocks.0.", "blocks.1.", "blocks.2.")
    for name, value in before.items():
        same = np.array_equal(value, after[name].numpy())
        assert same == name.startswith(frozen), name


def test_frozen_norms_stay_frozen_when_training_resumes():
    model = build_backbone(SMALL, 3)
    freeze_norms(model)
    model.eval()
    model.train()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
    model(noise(64, 4)).square().mean().backward()
    optimizer.step()
    changed = {
        name
        for name, value in model.state_dict().items()
        if not np.array_equal(before[name], value.numpy())
    }
    assert changed
    assert not [name for name in changed if ".bn." in name]


def test_networks_with_fixed_parameter_names_can_be_built_twice():
    first, second = build_backbone("SqueezeNet1_1", 3), build_backbone("SqueezeNet1_1", 3)
    names = [parameter.name for model in (first, second) for parameter in model.parameters()]
    assert len(set(names)) == len(names)


def test_auxiliary_outputs_are_named_and_left_out_of_deployment():
    model = build_backbone("GoogLeNet", 3)
    model.eval()
    with paddle.no_grad():
        outputs = name_outputs(model(noise(224, 1)))
        assert list(outputs) == ["logits", "auxiliary_1", "auxiliary_2"]
        assert list(Deployed(model, "raw")(noise(224, 1))) == ["logits"]
    anatomy = dissect(model, 3, (3, 224, 224))
    assert anatomy.classifiers == ("_fc_out", "_out1", "_out2")


@pytest.mark.parametrize(
    ("name", "side", "classifier", "logits", "feature"),
    [
        (SMALL, 64, "fc", "fc", "last_second_conv"),
        ("PPLCNet_x0_25", 64, "fc", "fc", "blocks6"),
        ("ResNet18_vd", 64, "fc", "fc", "blocks"),
        ("SqueezeNet1_1", 64, "_conv9", "_avg_pool", "_conv8"),
    ],
)
def test_anatomy(name, side, classifier, logits, feature):
    model = build_backbone(name, 5)
    model.train()
    anatomy = dissect(model, 5, (3, side, side))
    assert anatomy.classifiers == (classifier,)
    assert (anatomy.logits, anatomy.feature) == (logits, feature)
    assert all(layer.training for layer in model.sublayers())


def test_a_transformer_has_no_last_feature_map():
    assert dissect(build_backbone("SVTR_tiny", 5), 5, (3, 32, 32)).feature is None


def test_options_go_to_the_network():
    model = build_backbone(SMALL, 3, options={"dropout_prob": 0.4})
    assert model.dropout.p == 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "MobilNetV3_small_x1_0"},
            r"^model\.name: PaddleClas has no network 'MobilNetV3_small_x1_0' "
            r"\(did you mean 'MobileNetV3_small_x1_0'\?\)",
        ),
        ({"name": "qq"}, r"^model\.name: PaddleClas has no network 'qq'"),
        (
            {"name": "HRNet_W60_C"},  # its code asks for an address of weights that it has not
            r"^model\.name: the code of HRNet_W60_C in PaddleClas does not build it: KeyError",
        ),
        (
            {"name": SMALL, "options": {"dropout_probb": 0.1}},
            r"^model\.options\.dropout_probb: unknown argument .*did you mean 'dropout_prob'",
        ),
        ({"name": SMALL, "options": {"class_num": 4}}, r"^model\.options\.class_num: is set by"),
        ({"name": SMALL, "options": {"scale": 2.0}}, r"^model\.options: .* refuses"),
        ({"name": SMALL, "return_stages": [4]}, r"^model\.return_stages: .* 0\.\.3, got 4"),
        (
            {"name": SMALL, "return_stages": ["block.3"]},
            r"^model\.return_stages: the network has no layer 'block\.3' .*did you mean",
        ),
        (
            {"name": "SqueezeNet1_1", "return_stages": True},
            r"^model\.return_stages: PaddleClas names no stages of SqueezeNet1_1",
        ),
    ],
)
def test_what_a_network_does_not_have(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(num_classes=3, **arguments)


def test_unpublished_weights():
    with pytest.raises(ConfigError, match=r"^model\.pretrained: PaddleClas publishes no weights"):
        pretrained_url("SVTR_tiny")


def test_building_leaves_logging_alone():
    levels = {name: logging.getLogger(name).level for name in ("ppcls", "faiss.loader")}
    build_backbone(SMALL, 3)
    assert levels == {name: logging.getLogger(name).level for name in levels}


def test_no_network_fetches_weights_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from paddleclas.ppcls.arch.backbone.model_zoo import uniformer

    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("weights are fetched")

    monkeypatch.setattr(uniformer, "load_dygraph_pretrain", fetch)
    assert build_backbone("UniFormer_small", 3)


def test_arguments_without_defaults_are_asked_for() -> None:
    with pytest.raises(ConfigError) as caught:
        build_backbone("WideResNet", 3)
    told = "model.options: WideResNet needs depth, widen_factor, dropout, which are not given"
    assert str(caught.value) == told
    assert build_backbone("WideResNet", 3, options={"depth": 10, "widen_factor": 1, "dropout": 0.0})


def test_a_size_that_a_network_refuses_is_told_in_one_line() -> None:
    model = build_backbone("DeiT_tiny_patch16_224", 3)
    with pytest.raises(ConfigError) as caught:
        dissect(model, 3, (3, 96, 96))
    assert str(caught.value) == (
        "model.name: VisionTransformer does not run on a picture of 96x96 (data.image_size), its "
        "code raises AssertionError: Input image size (96*96) doesn't match model (224*224)."
    )
