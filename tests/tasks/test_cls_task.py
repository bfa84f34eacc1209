"""The classification task as the core sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from outside.configs import without_teaching
from scipy.special import softmax

from core.errors import ConfigError
from core.settings.config import load_yaml, merge, read
from core.task import QuantHints, build_task
from core.training.run import read_run
from tasks.cls import foreign
from tasks.cls.config import Config
from tasks.cls.models import list_backbones

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "cls"


def make_task(root: Path, **sections):
    settings = {
        "model": {"name": "MobileNetV3_small_x0_35", "num_classes": 4},
        "data": {"root": str(root / "data"), "image_size": 64, "resize_short": 64},
        "synthetic": {"train_images": 8, "val_images": 4},
    }
    return build_task("cls", merge(settings, sections))


def as_arrays(outputs) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in outputs.items()}


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 4)).astype(np.float32)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yml")), ids=lambda path: path.stem)
def test_configs_are_readable(path):
    settings = without_teaching(load_yaml(path))
    if path.name == "imagenet.yml":  # what the others share
        settings = merge(settings, {"model": {"name": "ResNet50"}, "train": {"epochs": 1}})
    run = read_run(settings)
    assert run.task.config.model.name in list_backbones()


def test_endings_agree_with_scipy(tmp_path):
    paddle.seed(0)  # no two classes are as likely
    task = make_task(tmp_path)
    model = task.build_model()
    model.eval()
    image = paddle.rand([3, 3, 64, 64])
    raw = as_arrays(task.deploy_model(model, "raw")(image))["logits"]
    expected = softmax(raw, axis=1)
    ended = as_arrays(task.deploy_model(model, "softmax")(image))
    np.testing.assert_allclose(ended["probabilities"], expected, rtol=1e-5)
    ended = as_arrays(task.deploy_model(model, "argmax")(image))
    np.testing.assert_array_equal(ended["label"], raw.argmax(axis=1))
    np.testing.assert_allclose(ended["score"], expected.max(axis=1), rtol=1e-5)
    with pytest.raises(ConfigError, match=r"^ending: 'sofmax' is unknown .*'softmax'"):
        task.deploy_model(model, "sofmax")


def test_predictions_name_the_class(tmp_path, logits):
    task = make_task(tmp_path)
    task.build_dataset("val")
    scores = softmax(logits[0])
    best = int(scores.argmax())
    names = ["red disc", "red cross", "green disc", "green cross"]
    for outputs in ({"logits": logits}, {"probabilities": softmax(logits, axis=1)}):
        prediction = task.postprocess(outputs, None)
        assert (prediction["label"], prediction["name"]) == (best, names[best])
        assert prediction["score"] == pytest.approx(scores[best], rel=1e-5)
        order = [entry["label"] for entry in prediction["top"]]
        assert order == np.argsort(-scores).tolist()
    ended = {"label": np.array([2]), "score": np.array([0.5], np.float32)}
    expected = {"label": 2, "name": "green disc", "score": 0.5}
    assert task.postprocess(ended, None) == expected


def test_without_names_classes_are_numbers(tmp_path, logits):
    prediction = make_task(tmp_path).postprocess({"logits": logits}, None)
    assert prediction["name"] == f"class {prediction['label']}"


@pytest.mark.parametrize("shape", [(40, 30), (64, 200), (500, 375)])
def test_drawing_marks_the_picture_and_keeps_its_shape(tmp_path, shape):
    image = np.full((*shape, 3), 120, np.uint8)
    prediction = {"label": 0, "name": "a rather long name of a class", "score": 0.987}
    drawn = make_task(tmp_path).draw(image, prediction)
    assert drawn.shape == image.shape
    assert (image == 120).all()
    assert drawn.max() > 200
    assert (drawn[shape[0] // 2 :] == 120).all()


def test_preprocessing_is_the_evaluation_transform(tmp_path):
    task = make_task(tmp_path)
    dataset = task.build_dataset("val")
    from core.training.images import read_image

    sample, _ = task.preprocess(read_image(dataset.items.paths[1]))
    expected = dataset.sample(1, np.random.default_rng(0))
    np.testing.assert_array_equal(sample["image"], expected["image"])


def test_inference_of_a_batch_names_the_logits(tmp_path):
    task = make_task(tmp_path)
    seen = []

    def run(image):
        seen.append(image)
        return {"logits": image.sum(axis=(2, 3))}

    batch = {"image": np.ones((2, 3, 4, 4), np.float32), "label": np.array([0, 1])}
    outputs = task.infer(run, batch)
    assert seen[0] is batch["image"]
    assert outputs["logits"].shape == (2, 3)


def test_losses_train_every_parameter(tmp_path):
    task = make_task(tmp_path, loss={"label_smoothing": 0.1})
    model = task.build_model()
    batch = {"image": paddle.rand([4, 3, 64, 64]), "label": paddle.to_tensor([0, 1, 2, 3])}
    losses = task.losses(task.name_outputs(model(batch["image"])), batch)
    assert list(losses) == ["loss_ce"]
    losses["loss_ce"].backward()
    trained = [p for p in model.parameters() if not p.stop_gradient]
    assert trained
    assert all(p.grad is not None for p in trained)


def test_a_network_with_classes_of_its_own_is_refused(tmp_path):
    task = make_task(tmp_path)
    outputs = {"logits": paddle.zeros([2, 2])}
    with pytest.raises(ConfigError) as caught:
        task.losses(outputs, {"label": paddle.to_tensor([0, 3])})
    assert str(caught.value) == (
        "model.num_classes: MobileNetV3_small_x0_35 tells 2 classes apart, whatever is asked for; "
        "got 4"
    )


def test_hints_name_the_classifier(tmp_path):
    task = make_task(tmp_path)
    hints = task.slim_hints(task.build_model())
    assert hints.never_prune == ("fc",)
    assert hints.never_quantize == ()
    assert hints.ptq == QuantHints(zero_points=True, reconstruct=True)
    assert [(p.layer, p.output) for p in hints.distill_points] == [
        ("fc", "class_logits"),
        ("last_second_conv", "feature"),
    ]
    assert (task.qat_budget.learning_rate_scale, task.qat_budget.epochs_scale) == (0.1, 0.2)


def test_freezing_by_config(tmp_path):
    task = make_task(tmp_path, model={"freeze_at": 1, "freeze_norm": True})
    model = task.build_model()
    trained = {name for name, p in model.named_parameters() if not p.stop_gradient}
    assert "conv.conv.weight" not in trained
    assert "blocks.2.expand_conv.conv.weight" not in trained
    assert "blocks.3.expand_conv.conv.weight" in trained
    assert "blocks.3.expand_conv.bn.weight" not in trained
    with pytest.raises(ConfigError, match=r"^model\.freeze_at: expected a stage in 0\.\.3, got 9"):
        make_task(tmp_path, model={"freeze_at": 9}).build_model()


def test_cutting_by_config(tmp_path):
    task = make_task(tmp_path, model={"stop_after": "blocks[2]"})
    model = task.build_model()
    outputs = as_arrays(task.deploy_model(model, "raw")(paddle.rand([1, 3, 64, 64])))
    assert list(outputs) == ["features"]
    with pytest.raises(ConfigError, match=r"^model\.stop_after: the network has no classes"):
        task.postprocess(outputs, None)
    with pytest.raises(ConfigError, match=r"^model\.stop_after: the network has no layer 'fcc'"):
        make_task(tmp_path, model={"stop_after": "fcc"}).build_model()


def test_published_weights(tmp_path):
    assert "MobileNetV3_small_x0_35" in make_task(tmp_path).pretrained_url()


@pytest.mark.parametrize(
    ("output", "name"),
    [
        (np.array([3]), "label"),
        (np.array([3.0], np.float32), "label"),
        (np.array([[0.5, 0.25, 0.25]], np.float32), "probabilities"),
        (np.array([[5.0, -1.0, 0.0]], np.float32), "logits"),
        (np.array([0.5], np.float32), None),
        (np.array([0.5, 0.25, 0.25], np.float32), None),  # of all images in one row
        (np.zeros((1, 4), np.float32), None),
    ],
)
def test_what_models_of_others_answer(output: np.ndarray, name: str | None) -> None:
    config = read(Config, {"model": {"name": "any", "num_classes": 3}, "data": {"root": "none"}})
    if name is not None:
        assert foreign.name_of(config, output) == name
        return
    with pytest.raises(
        ConfigError, match=r"^model\.num_classes: the model answers .* expected \[1, 3\]"
    ):
        foreign.name_of(config, output)
