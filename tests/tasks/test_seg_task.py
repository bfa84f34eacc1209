"""The task as a whole: training follows PaddleSeg, endings, prediction, drawing, its configs."""

import functools
from pathlib import Path

import numpy as np
import paddle
import pytest
from outside.configs import without_teaching

from core.errors import ConfigError
from core.settings.config import load_yaml, read
from core.task import Task as TaskProtocol
from core.task import build_task
from core.training.evaluation import eager_forward, evaluate_model
from core.training.loader import Loader
from tasks.seg import Config, Task, drawing

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "seg").glob("*.yml"))
OWN_SECTIONS = ("model", "data", "augment", "loss", "evaluation", "synthetic")


def task_of(**sections):
    sections.setdefault("model", {"num_classes": 4})
    return Task(read(Config, sections))


@pytest.fixture(scope="module")
def bisenet():
    task = task_of()
    paddle.seed(1)
    network = task.build_model()
    network.eval()
    return task, network


def promoting(operation):
    @functools.wraps(operation)
    def wrapped(self, other):
        if isinstance(other, paddle.Tensor):
            other = other.astype(self.dtype)
        return operation(self, other)

    return wrapped


def test_training_follows_paddlesegs_loss_curve(monkeypatch):
    """20 steps from the same weights on the same batches; all five heads count."""
    from paddleseg.core.train import loss_computation
    from paddleseg.models import BiSeNetV2
    from paddleseg.models.losses import CrossEntropyLoss

    coef = [1.0, 0.5, 0.5, 0.25, 0.25]
    task = task_of(loss={"coef": coef})
    paddle.seed(5)
    theirs = BiSeNetV2(4)
    ours = task.build_model()
    ours.set_state_dict(theirs.state_dict())
    peer_losses = {"types": [CrossEntropyLoss() for _ in coef], "coef": coef}
    rng = np.random.default_rng(0)
    batches = [
        (
            rng.normal(size=(2, 3, 32, 32)).astype(np.float32),
            rng.choice([0, 1, 2, 3, 255], (2, 32, 32)).astype(np.uint8),
        )
        for _ in range(20)
    ]

    def train(network, loss_of):
        paddle.seed(9)  # dropout
        network.train()
        optimizer = paddle.optimizer.Momentum(0.05, 0.9, network.parameters(), weight_decay=5e-4)
        curve = []
        for image, label in batches:
            loss = loss_of(network(paddle.to_tensor(image)), paddle.to_tensor(label))
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            curve.append(float(loss))
        return np.array(curve)

    curve = train(
        ours, lambda raw, y: sum(task.losses(task.name_outputs(raw), {"label": y}).values())
    )
    # its cross entropy multiplies float by int, which Paddle has come to refuse
    monkeypatch.setattr(paddle.Tensor, "__mul__", promoting(paddle.Tensor.__mul__))
    wanted = train(theirs, lambda raw, y: sum(loss_computation(raw, y, None, peer_losses)))
    np.testing.assert_allclose(curve, wanted, atol=1e-4)
    assert curve[-1] != pytest.approx(curve[0])


def test_the_task_keeps_the_protocol(bisenet):
    assert isinstance(bisenet[0], TaskProtocol)


def test_outputs_are_named(bisenet):
    task, network = bisenet
    image = paddle.randn([2, 3, 64, 64])
    assert list(task.name_outputs(network(image))) == ["logits"]
    network.train()
    names = list(task.name_outputs(network(image)))
    network.eval()
    assert names == ["logits", "aux_1", "aux_2", "aux_3", "aux_4"]
    assert list(task.name_outputs(image)) == ["logits"]


def test_endings(bisenet):
    task, network = bisenet
    image = paddle.randn([1, 3, 40, 56])
    logits = network(image)[0].numpy()
    outputs = {
        ending: task.deploy_model(network, ending) for ending in ("raw", "softmax", "argmax")
    }
    results = {
        ending: {name: value.numpy() for name, value in layer(image).items()}
        for ending, layer in outputs.items()
    }
    np.testing.assert_array_equal(results["raw"]["logits"], logits)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(
        results["softmax"]["probabilities"], powers / powers.sum(1, keepdims=True), atol=1e-5
    )
    np.testing.assert_array_equal(results["argmax"]["labels"], logits.argmax(1))
    assert results["argmax"]["labels"].dtype == np.int32
    with pytest.raises(ConfigError, match=r"^ending: .*'soft'.*'softmax'"):
        task.deploy_model(network, "soft")


def test_only_the_main_output_is_deployed():
    """Some networks of PaddleSeg return their auxiliary output in evaluation too."""
    task = task_of(model={"name": "FastSCNN", "num_classes": 4})
    network = task.build_model()
    network.eval()
    image = paddle.randn([1, 3, 64, 64])
    assert len(network(image)) == 2
    assert list(task.deploy_model(network, "raw")(image)) == ["logits"]


@pytest.mark.parametrize("ending", ["raw", "softmax", "argmax"])
def test_prediction_has_the_images_size(bisenet, ending):
    _, network = bisenet
    task = task_of(data={"size": [64, 48], "classes": ["a", "b", "c", "d"]})
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    sample, info = task.preprocess(image)
    assert list(sample) == ["image"]
    assert sample["image"].shape == (3, 48, 64)
    outputs = task.deploy_model(network, ending)(paddle.to_tensor(sample["image"][None]))
    prediction = task.postprocess({k: v.numpy() for k, v in outputs.items()}, info)
    assert prediction["mask"].shape == (50, 70)
    assert sum(prediction["classes"].values()) == pytest.approx(1)
    assert set(prediction["classes"]) <= set("abcd")
    drawn = task.draw(image, prediction)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (drawn != image).any()


def test_colours_are_distinct_and_stay():
    names = [f"class {index}" for index in range(64)]
    colours = drawing.palette(names)
    assert len({tuple(colour) for colour in colours}) == 64
    np.testing.assert_array_equal(colours[:19], drawing.palette(names[:19]))
    image = np.full((120, 160, 3), 100, np.uint8)
    mask = np.zeros((120, 160), np.int32)
    mask[:, 80:] = 2
    drawn = drawing.draw_mask(image, mask, ("ground", "b", "c"))
    half = (image[0, 0].astype(int) + drawing.palette(("ground", "b", "c"))[2]) / 2
    assert np.abs(drawn[100, 150] - half).max() <= 1
    assert (drawn[100, :80] == 100).all()  # the background stays as it is
    assert (image == 100).all()


@pytest.mark.parametrize(
    ("names", "background"),
    [
        (("background", "cat", "dog"), True),
        (("_background_", "cat", "dog"), True),
        (("Void", "cat", "dog"), True),
        (("0", "1"), True),
        (("road", "sidewalk", "sky"), False),
        (("0", "1", "2"), False),
    ],
)
def test_a_first_class_that_is_something_has_a_colour(names, background):
    image, mask = np.full((60, 60, 3), 100, np.uint8), np.zeros((60, 60), np.int32)
    mask[30:] = -1  # of no class, as what a label map ignores
    drawn = drawing.draw_mask(image, mask, names)
    assert (drawn[45:] == 100).all()
    if background:
        assert not drawing.palette(names)[0].any()
        np.testing.assert_array_equal(drawn, image)
    else:
        colour = drawing.palette(names)[0]
        assert tuple(drawn[25, 55]) == tuple((colour.astype(int) + 100) // 2)
        assert drawn[25, 55].mean() > 100  # which does not blacken the street


def test_input_spec_and_hints(bisenet):
    task, network = bisenet
    assert task.input_spec()[0].shape == (-1, 3, -1, -1)
    assert task_of(data={"size": [64, 32]}).input_spec()[0].shape == (-1, 3, 32, 64)
    hints = task.slim_hints(network)
    paths = [path for path, _ in network.named_sublayers()]
    assert {point.output: point.layer for point in hints.distill_points} == {
        "class_logits": "head.conv_1x1",
        "feature": "head.conv_3x3",
    }
    assert set(hints.never_prune) == {p for p in paths if p.endswith("conv_1x1") and "head" in p}
    assert hints.never_quantize == ()
    assert (task.qat_budget.learning_rate_scale, task.qat_budget.epochs_scale) == (0.1, 0.2)


def test_evaluation_of_an_eager_model_whatever_the_batch(bisenet, tmp_path):
    _, network = bisenet
    task = task_of(
        data={"root": str(tmp_path / "set"), "num_workers": 0, "size": [32, 32]},
        synthetic={"train_images": 2, "val_images": 3, "size": [40, 36]},
    )
    results = [
        evaluate_model(task, network, Loader(task.build_dataset("val"), batch_size=n, train=False))
        for n in (1, 3)
    ]
    np.testing.assert_array_equal(results[0].matrix, results[1].matrix)
    assert results[0].matrix.sum() > 0


def test_generated_data_is_learnt(tmp_path):
    """A few steps of a small network on the generated data beat a network that always says 0."""
    task = task_of(
        model={"name": "PPHumanSegLite", "num_classes": 4},
        data={"root": str(tmp_path / "set"), "num_workers": 0},
        synthetic={"train_images": 16, "val_images": 8, "size": [64, 64]},
    )
    paddle.seed(0)
    network = task.build_model()
    optimizer = paddle.optimizer.Adam(5e-3, parameters=network.parameters())
    loader = Loader(task.build_dataset("train"), batch_size=8, train=True)
    network.train()
    for epoch in range(20):
        for batch in loader.epoch(epoch):
            loss = sum(task.losses(task.name_outputs(network(batch["image"])), batch).values())
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
    network.eval()
    metric = task.build_metric()
    trivial = task.build_metric()
    run = eager_forward(task, network)
    for batch in Loader(task.build_dataset("val"), batch_size=8, train=False).epoch():
        arrays = {name: value.numpy() for name, value in batch.items()}
        metric.update(task.infer(run, arrays), arrays)
        trivial.update({"labels": np.zeros_like(arrays["label"], np.int32)}, arrays)
    assert metric.compute()["mIoU"] > trivial.compute()["mIoU"] + 0.15


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_valid(path):
    content = without_teaching(load_yaml(path))
    task = build_task("seg", {key: content[key] for key in OWN_SECTIONS if key in content})
    known = {"task", "train", "seed", "device", *OWN_SECTIONS}
    assert set(content) <= known
    assert content["task"] == {"name": "seg"}
    assert {"epochs", "batch_size", "learning_rate"} <= set(content["train"])
    config = task.config
    if config.loss.coef:
        assert not config.loss.heads or len(config.loss.heads) == len(config.loss.coef)


def test_colours_of_the_masks_are_those_of_the_pictures():
    names, own = ("background", "sky", "red"), ((9, 9, 9), (40, 60, 220), (200, 0, 0))
    colours = drawing.palette(names, own)
    assert colours.tolist() == [[0, 0, 0], [40, 60, 220], [200, 0, 0]]  # the first is no tint
    assert drawing.palette(("road", *names[1:]), ((128, 64, 128), *own[1:])).tolist()[0][0] == 128
    for grey in (((0, 0, 0), (255, 255, 255)), ((0, 0, 0), (40, 60, 220), (7, 7, 7))):
        given = names[: len(grey)]
        np.testing.assert_array_equal(drawing.palette(given, grey), drawing.palette(given))
    data = {"classes": list(names), "colors": [list(each) for each in own]}
    task = task_of(data=data, model={"num_classes": 3})
    assert task.palette().tolist() == colours.tolist()
    image, mask = np.full((40, 40, 3), 100, np.uint8), np.full((40, 40), 1)
    drawn = task.draw(image, {"mask": mask})
    assert np.abs(drawn[35, 35].astype(int) - (70, 80, 160)).max() <= 1


def test_names_in_the_legend_have_letters_of_any_language():
    image, mask = np.full((200, 200, 3), 100, np.uint8), np.ones((200, 200), int)
    plain, other = (drawing.draw_mask(image, mask, ("bg", name)) for name in ("grun", "grün"))
    assert (plain != other).any()
    assert (plain[:30, 10:] == 255).any()
