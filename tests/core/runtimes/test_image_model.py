"""A model for images: with and without boxes, thresholds and words of its task."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import pytest

from core.errors import ConfigError, DataError
from core.runtimes.image_model import ImageModel, eager_model
from core.runtimes.predict_images import check_boxes
from core.task import Box, Finding, build_task
from core.training.evaluation import evaluate
from core.training.loader import Loader

IMAGE = np.full((20, 30, 3), 90, np.uint8)


@pytest.fixture
def toy(tmp_path):
    return build_task("outside.toy", {"data": {"root": str(tmp_path)}})


class Parts:
    """Answers with the mean of what is in a box."""

    name, threshold = "parts", 0.5

    def read_boxes(self, path, least_score):
        return lambda name: []

    def preprocess(self, image, box=None):
        if box and box.x >= image.shape[1]:
            raise DataError("the box lies outside")
        part = image if box is None else image[int(box.y) :, int(box.x) :]
        return {"image": part.astype(np.float32)}, None

    def postprocess(self, outputs, info):
        return {"level": float(outputs["level"][0])}

    def describe(self, prediction, threshold=None):
        least = self.threshold if threshold is None else threshold
        return Finding(f"level {prediction['level']:.0f}", prediction["level"] < least)

    def draw(self, image, prediction, threshold=None):
        assert threshold == 40
        return image + 1


@pytest.fixture
def parts():
    return ImageModel(Parts(), lambda image: {"level": image.mean((1, 2, 3))}, ("image",), 40)


def test_a_checkpoint_answers_as_its_network_in_evaluation_mode(toy):
    paddle.seed(0)
    network = toy.build_model()
    network.train()
    model = eager_model(toy, network)
    sample, _ = toy.preprocess(IMAGE)
    network.eval()
    expected = float(network(paddle.to_tensor(sample["image"][None]))[0, 0])
    prediction = model.predict(IMAGE)
    assert prediction == {"level": pytest.approx(expected, rel=1e-6)}
    assert model.describe(prediction) == Finding(f"level {expected:.4g}")
    assert not network.training


def test_each_box_has_an_answer(parts):
    image = IMAGE.copy()
    image[10:] = 30
    boxes = [Box(0, 0, 30, 20, 0.7), Box(3, 10, 27, 10)]
    prediction = parts.predict(image, boxes)
    assert prediction["boxes"] == [
        {"box": [0, 0, 30, 20], "box_score": 0.7, "level": 60.0},
        {"box": [3, 10, 27, 10], "box_score": None, "level": 30.0},
    ]
    assert (parts.draw(image, prediction) == image + 2).all()
    said = "2 boxes\n  [0, 0, 30, 20]: level 60\n  [3, 10, 27, 10]: level 30"
    assert parts.describe(prediction) == Finding(said)
    low = parts.predict(image, boxes[1:])
    assert parts.describe(low) == Finding("1 box\n  [3, 10, 27, 10]: level 30", unsure=True)
    assert parts.describe(parts.predict(image, [])) == Finding("no boxes")


def test_a_box_outside_has_no_answer(parts):
    boxes = [Box(30, 0, 5, 5), Box(0, 0, 30, 20)]
    with pytest.raises(DataError, match="lies outside"):
        parts.predict(IMAGE, boxes)
    told = []
    prediction = parts.predict(IMAGE, boxes, told.append)
    assert [each["box"] for each in prediction["boxes"]] == [[0, 0, 30, 20]]
    assert [str(error) for error in told] == ["the box lies outside"]


def test_boxes_and_thresholds_of_tasks_that_have_none(toy):
    model = eager_model(toy, toy.build_model())
    with pytest.raises(ConfigError, match=r"^--boxes: the task outside.toy answers for whole"):
        model.predict(IMAGE, [Box(0, 0, 3, 3)])
    with pytest.raises(ConfigError, match=r"^--threshold: what the task outside.toy predicts has"):
        replace(model, threshold=0.3)


def test_the_log_says_that_the_picture_is_the_box(parts, toy, caplog):
    with caplog.at_level("INFO"):
        parts.tell_of_boxes(given=True)
        eager_model(toy, toy.build_model()).tell_of_boxes(given=False)
    assert not caplog.text
    with caplog.at_level("INFO"):
        parts.tell_of_boxes(given=False)
    assert "the whole picture is taken for the box of one person" in caplog.text


def test_boxes_of_other_pictures_are_refused(tmp_path):
    names = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    check_boxes([None, None], names)
    check_boxes([[], [Box(0, 0, 1, 1)]], names)
    with pytest.raises(DataError, match=r"^--boxes: none of them belongs to a picture, of 2 like"):
        check_boxes([[], []], names)


def test_a_model_that_answers_with_nan(parts):
    model = replace(parts, run=lambda image: {"level": np.array([np.nan], np.float32)})
    with pytest.raises(DataError, match=r"^the model answers with NaN"):
        model.predict(IMAGE)


def test_an_evaluation_counts_answers_with_nan(toy, caplog):
    toy = build_task(
        "outside.toy", {"data": {"root": toy.config.data.root}, "synthetic": {"val_images": 5}}
    )
    seen = []

    def run(image):
        answers = np.zeros((len(image), 1), np.float32)
        answers[0] = np.nan if seen else 0
        seen.append(image)
        return {"level": answers}

    evaluate(toy, run, Loader(toy.build_dataset("val"), batch_size=2, train=False))
    assert "2 of 5 images: the model answers with NaN" in caplog.messages
    with pytest.raises(DataError, match=r"^the model answers all images with NaN$"):
        evaluate(
            toy,
            lambda image: {"level": np.full((len(image), 1), np.nan, np.float32)},
            Loader(toy.build_dataset("val"), batch_size=2, train=False),
        )
