"""The task as the engine and the tools see it: config, flip test, endings, drawing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from outside.configs import without_teaching
from paddle import nn

from core.errors import ConfigError, DataError
from core.export.package import export
from core.quant.grid_plan import choose_layers_and_grids
from core.quant.post_training import PtqConfig
from core.quant.selection import select_with_hints
from core.runtimes.predictor import load_predictor
from core.settings.config import load_yaml, read, to_mapping
from core.targets.names import BACKENDS
from core.task import Box, QuantHints, build_task
from core.training.evaluation import eager_forward
from core.training.run import read_run
from tasks.keypoint import Config, Task
from tasks.keypoint.codec import Codec
from tasks.keypoint.config import CodecConfig
from tasks.keypoint.drawing import limb_color

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "keypoint"


class TinyNetwork(nn.Layer):
    """A stand-in of the contract of the real ones: image to heatmaps at a quarter of its size."""

    def __init__(self, num_joints: int = 17) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2D(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2D(8, 8, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.final_conv = nn.Conv2D(8, num_joints, 1)

    def forward(self, image):
        return self.final_conv(self.backbone(image))


@pytest.fixture
def network():
    paddle.seed(0)
    model = TinyNetwork()
    model.eval()
    return model


def build(root="nowhere", **sections) -> Task:
    settings = {
        "model": {"name": "lite_hrnet_18"},
        "data": {
            "root": str(root),
            "train_annotations": "train.json",
            "val_annotations": "val.json",
            "input_size": [64, 64],
            "num_workers": 0,
        },
        "synthetic": {"train_images": 4, "val_images": 4, "size": [64, 64]},
        **sections,
    }
    task = build_task("keypoint", settings)
    assert isinstance(task, Task)
    return task


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yml")), ids=lambda path: path.stem)
def test_every_config_can_be_read(path):
    run = read_run(without_teaching(load_yaml(path)))
    assert run.task.name == "keypoint"
    again = read(Config, to_mapping(run.task.config))
    assert again == run.task.config


def test_only_the_backbone_line_changes():
    wide, light = (
        to_mapping(read_run(load_yaml(CONFIGS / f"{name}_256x192_coco.yml")).task.config)
        for name in ("pplcnet_x2_5", "mobilenetv3_small_x1_0")
    )
    assert wide["model"].pop("backbone") == "PPLCNet_x2_5"
    assert light["model"].pop("backbone") == "MobileNetV3_small_x1_0"
    assert wide == light


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"name": "lite_hrnet_18", "num_joints": 4}}, "joints.flip_pairs: needed for"),
        ({"joints": {"sigmas": [0.1]}}, "joints.sigmas: expected 17 values"),
        ({"joints": {"skeleton": [[0, 17]]}}, "joints.skeleton: expected joints 0 to 16, got 17"),
        ({"joints": {"flip_pairs": [[0, 1], [1, 2]]}}, "joints.flip_pairs: expected each joint in"),
        ({"joints": {"sigmas": [0.0] * 17}}, "joints.sigmas: expected numbers > 0"),
        ({"loss": {"kind": "ohkm", "top_k": 18}}, "loss.top_k: expected at most 17, got 18"),
        ({"loss": {"kind": "mse", "joint_weights": [1.0]}}, "loss.joint_weights: expected 17"),
        ({"loss": {"kind": "l3"}}, "loss.kind: got 'l3'"),
        ({"codec": {"decoding": "darc"}}, "codec.decoding: expected one of .*did you mean 'dark'"),
        ({"evaluation": {"oks_nms": 2.0}}, "evaluation.oks_nms: expected 0 < oks_nms <= 1"),
        ({"evaluation": {"pck_threshold": 0.0}}, "evaluation.pck_threshold: expected > 0"),
        ({"data": {"root": "x", "input_size": [250, 192]}}, "data.input_size: expected .* of 32"),
        ({"data": {"root": "x", "padding": 0.0}}, "data.padding: expected > 0"),
        ({"synthetic": {"val_images": 0}}, "synthetic.val_images: expected 1 or more"),
        ({"synthetic": {"size": [32, 32]}}, "synthetic.size: expected at least 64"),
        ({"augment": {"flips": 0.5}}, "augment.flips: unknown key .did you mean 'flip'"),
    ],
)
def test_wrong_settings_are_refused_by_their_key(sections, message):
    with pytest.raises(ConfigError, match=message):
        build(**sections)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "joints.upper_body: needed for augment.half_body"),
        ({"augment": {"half_body": 0.0}, "evaluation": {"pck_unit": "torso"}}, "joints.torso: nee"),
        ({"augment": {"half_body": 0.0}}, "synthetic: draws 17 joints, but model.num_joints is 4"),
    ],
)
def test_other_joints_need_their_own_settings(changes, message):
    four = {"model": {"name": "lite_hrnet_18", "num_joints": 4}, "joints": {"flip_pairs": [[0, 1]]}}
    with pytest.raises(ConfigError, match=message):
        build(**four, **changes)


def test_a_training_step_moves_the_loss(tmp_path, network):
    task = build(tmp_path / "data")
    dataset = task.build_dataset("train")
    rng = np.random.default_rng(0)
    arrays = dataset.collate([dataset.sample(i, rng) for i in range(4)], rng)
    batch = {name: paddle.to_tensor(array) for name, array in arrays.items()}
    optimizer = paddle.optimizer.Adam(0.01, parameters=network.parameters())
    losses = []
    for _ in range(5):
        terms = task.losses(task.name_outputs(network(batch["image"])), batch)
        assert list(terms) == ["heatmap"]
        terms["heatmap"].backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(terms["heatmap"]))
    assert losses[-1] < losses[0]


def test_targets_as_answer_score_one(tmp_path):
    task = build(tmp_path / "data")
    dataset, metric = task.build_dataset("val"), task.build_metric()
    rng = np.random.default_rng(0)
    batch = dataset.collate([dataset.sample(i, rng) for i in range(4)], rng)
    metric.update({"heatmaps": batch["target"]}, batch)
    assert metric.compute()["AP"] > 0.95
    assert metric.compute()["PCK"] == 1


@pytest.mark.parametrize("shift", [True, False])
def test_flip_test_averages_with_the_mirror_image(network, shift):
    task = build(codec={"udp": not shift})
    run = eager_forward(task, network)
    image = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    plain = run(image)["heatmaps"]
    mirrored = run(image[..., ::-1].copy())["heatmaps"]
    expected = np.empty_like(plain)
    order = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    for k in range(17):
        for x in range(16):
            column = 15 - (max(x - 1, 0) if shift else x)
            expected[:, k, :, x] = (plain[:, k, :, x] + mirrored[:, order[k], :, column]) / 2
    np.testing.assert_allclose(task.infer(run, {"image": image})["heatmaps"], expected, rtol=1e-6)


def test_flip_test_does_not_touch_decoded_points_and_can_be_off(network):
    calls = []

    def run(image):
        calls.append(image)
        return {"points": np.zeros((1, 17, 3), np.float32)}

    batch = {"image": np.zeros((1, 3, 64, 64), np.float32)}
    build().infer(run, batch)
    assert len(calls) == 1
    plain = build(evaluation={"flip_test": False})
    forward = eager_forward(plain, network)
    got = plain.infer(forward, batch)["heatmaps"]
    np.testing.assert_array_equal(got, forward(batch["image"])["heatmaps"])


@pytest.mark.parametrize("udp", [True, False])
def test_decoded_points_are_the_codec_in_the_graph(network, udp):
    task = build(codec={"udp": udp, "decoding": "quarter"})
    image = paddle.to_tensor(np.random.default_rng(1).normal(size=(3, 3, 64, 64)).astype("float32"))
    heatmaps = task.deploy_model(network, "raw")(image)["heatmaps"].numpy()
    points = task.deploy_model(network, "points")(image)["points"].numpy()
    config = CodecConfig(udp=udp, decoding="quarter")
    np.testing.assert_allclose(points, Codec(config, (64, 64)).decode(heatmaps), atol=1e-4)


def test_decoded_points_in_every_runtime(tmp_path, network):
    task = build(tmp_path / "data", codec={"decoding": "quarter"})
    folder = tmp_path / "exported"
    export(task, network, folder, ("paddle", "onnx"), "points")
    image = np.random.default_rng(2).normal(size=(3, 3, 64, 64)).astype(np.float32)
    expected = task.deploy_model(network, "points")(paddle.to_tensor(image))["points"].numpy()
    for backend in ("paddle", "onnxruntime", "openvino"):
        got = load_predictor(folder, backend).run(image)["points"]
        np.testing.assert_allclose(got, expected, atol=1e-3, err_msg=backend)


def test_an_unknown_ending_is_refused(network):
    with pytest.raises(ConfigError, match=r"ending: got 'point'.*did you mean 'points'"):
        build().deploy_model(network, "point")


def test_hints_name_layers_that_exist(network):
    task = build()
    hints = task.slim_hints(network)
    layers = dict(network.named_sublayers())
    assert [(point.layer, point.output) for point in hints.distill_points] == [
        ("final_conv", "heatmap"),
        ("backbone", "feature"),
    ]
    assert set(hints.never_prune) <= set(layers)
    assert (task.qat_budget.learning_rate_scale, task.qat_budget.epochs_scale) == (0.2, 0.25)
    everything = QuantHints("output_mse", zero_points=True, balance=True, reconstruct=True)
    assert hints.ptq == hints.qat == everything
    assert not hints.never_quantize


def test_layers_of_lite_hrnet_that_stay_in_float():
    task = build()
    model = task.build_model()
    choice = select_with_hints(task, model, PtqConfig(target="lite"))
    inside = {path.split(".")[1] for path in choice.layers}
    assert inside == {"stage0", "stage1", "stage2"}
    floats = {path.split(".")[1] for path in choice.left if path.startswith("backbone.")}
    assert floats == {"stem", "transition0", "transition1", "transition2", "head_layer"}
    layers = dict(model.named_sublayers())
    groups = {path: layers[path].weight.shape[1] for path in choice.layers}
    for target in BACKENDS:
        dense = select_with_hints(task, model, PtqConfig(target=target)).layers
        assert set(dense) == {path for path, channels in groups.items() if channels > 1}
        assert 0 < len(dense) < len(groups)


@pytest.mark.parametrize(("asked", "rounded"), [(None, False), ("residual", True)])
def test_outputs_of_lite_hrnet_have_no_grids_unless_asked_for(asked, rounded):
    task = build()
    model = task.build_model()
    config = PtqConfig(target="onnxruntime", quantize_outputs=asked)
    settings = config.completed(task.slim_hints(model).ptq)
    _, plan, _ = choose_layers_and_grids(task, model, settings)
    assert bool(plan.outputs) == rounded


def test_a_box_far_beyond_the_image_is_drawn_inside_of_it():
    task = build()
    image = np.zeros((60, 80, 3), np.uint8)
    prediction = {"keypoints": [[40.0, 30.0, 1.0]] * 17, "box": [-1e9, -1e9, 2e9, 2e9]}
    whole = {**prediction, "box": [0.0, 0.0, 80.0, 60.0]}
    np.testing.assert_array_equal(task.draw(image, prediction), task.draw(image, whole))


def test_a_box_brings_the_points_to_its_place():
    task = build()
    image = np.random.default_rng(0).integers(0, 255, (120, 200, 3), dtype=np.uint8)
    for box, center in ((None, (100, 60)), (Box(10, 20, 40, 60), (30, 50))):
        sample, info = task.preprocess(image, box)
        assert sample["image"].shape == (3, 64, 64)
        heatmaps = np.zeros((1, 17, 16, 16), np.float32)
        heatmaps[0, :, 7:9, 7:9] = 1  # its middle lies at the middle of the input
        keypoints = task.postprocess({"heatmaps": heatmaps}, info)["keypoints"]
        assert len(keypoints) == 17
        pixel = 1.25 * max(200 if box is None else 40, 120 if box is None else 60) / 16
        assert np.hypot(*(np.array(keypoints[0][:2]) - center)) < pixel
        points = np.full((1, 17, 3), 31.5, np.float32)
        placed = task.postprocess({"points": points}, info)["keypoints"][0]
        assert placed == pytest.approx([*center, 31.5], abs=1e-3)


def test_a_box_ends_with_the_image():
    task = build()
    image = np.random.default_rng(0).integers(0, 255, (120, 200, 3), dtype=np.uint8)
    inside, _ = task.preprocess(image, Box(150, 0, 50, 60))
    beyond, _ = task.preprocess(image, Box(150, -40, 90, 100))
    np.testing.assert_array_equal(inside["image"], beyond["image"])
    with pytest.raises(DataError, match=r"200x120, and the box \[200, 5, 9, 9\] lies outside of"):
        task.preprocess(image, Box(200, 5, 9, 9))


def test_joints_below_the_threshold_are_neither_told_nor_drawn():
    task = build()
    prediction = {"keypoints": [[10.0 * i, 50.0, 0.02 * i] for i in range(17)], "box": [0, 0, 9, 9]}
    found = task.describe(prediction)  # evaluation.joint_score, 0.2
    assert found.text == "7 of 17 joints score 0.2 or more, their mean score 0.26"
    assert not found.unsure
    found = task.describe(prediction, 0.5)
    assert (found.text, found.unsure) == ("no joint scores 0.5 or more, the highest 0.32", True)
    image = np.zeros((100, 200, 3), np.uint8)
    for least, visible in ((0.2, True), (0.5, False)):
        drawn = task.draw(image, prediction, least)
        assert drawn[8, :9].all()  # the box
        assert drawn[20:].any() == visible


def test_the_skeleton_is_drawn_over_a_copy():
    task = build(joints={"skeleton": [[0, 1], [1, 2]]})
    image = np.zeros((100, 100, 3), np.uint8)
    keypoints = [[10.0, 50.0, 0.9], [90.0, 50.0, 0.9], [90.0, 95.0, 0.1]] + [[0.0, 0.0, 0.0]] * 14
    drawn = task.draw(image, {"keypoints": keypoints})
    assert not image.any()
    assert tuple(drawn[50, 50]) == limb_color(0, 2)
    assert not drawn[75:].any()  # the last joint is not sure enough for a limb


def test_published_weights_follow_name_and_size():
    small, large = (
        build(model={"name": "hrnet_w32"}, data={"root": "x", "input_size": size}).pretrained_url()
        for size in ([256, 192], [384, 288])
    )
    assert "256x192" in small
    assert "384x288" in large
