"""Evaluation at the label's size, through windows, scales and mirror images."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from core.errors import ConfigError
from tasks.seg import inference
from tasks.seg.config import EvaluationConfig, SlidingWindowConfig

CLASSES = 3
RNG = np.random.default_rng(2)
MIX = RNG.normal(size=(CLASSES, 3)).astype(np.float32)
PLAIN = EvaluationConfig()


def network(image):
    """Logits that depend on the pixel and on its place, so flips and windows matter."""
    pixels = np.einsum("kc,nchw->nkhw", MIX, image)
    ramp = np.linspace(0, 1, image.shape[3], dtype=np.float32)
    return {"logits": pixels + ramp}


def images(height, width, count=2):
    return RNG.normal(size=(count, 3, height, width)).astype(np.float32)


def interpolate(array, size):
    tensor = paddle.to_tensor(np.ascontiguousarray(array))
    return F.interpolate(tensor, size, mode="bilinear").numpy()


def test_logits_come_back_at_the_labels_size_as_in_paddleseg():
    from paddleseg.core.infer import inference as theirs

    image = images(12, 16, 1)
    batch = {
        "image": image,
        "image_size": np.array([[12, 16]]),
        "label": np.zeros((1, 20, 30), np.uint8),
        "label_size": np.array([[20, 30]]),
    }
    result = inference.infer(network, batch, PLAIN)["logits"]

    def model(tensor):
        return [paddle.to_tensor(network(tensor.numpy())["logits"])]

    labels, logits = theirs(model, paddle.to_tensor(image), [("resize", (20, 30))])
    np.testing.assert_allclose(result, logits.numpy(), atol=1e-4)
    np.testing.assert_array_equal(result.argmax(1), labels.numpy()[:, 0])


def test_a_batch_of_many_sizes_equals_one_image_at_a_time():
    sizes, label_sizes = [(8, 12), (10, 9), (8, 12)], [(16, 20), (10, 9), (7, 12)]
    singles = [images(*size, 1) for size in sizes]
    image = np.zeros((3, 3, 10, 12), np.float32)
    for i, one in enumerate(singles):
        image[i, :, : one.shape[2], : one.shape[3]] = one[0]
    batch = {
        "image": image,
        "image_size": np.array(sizes),
        "label": np.full((3, 16, 20), 255, np.uint8),
        "label_size": np.array(label_sizes),
    }
    result = inference.infer(network, batch, PLAIN)["logits"]
    assert result.shape == (3, CLASSES, 16, 20)
    for i, (height, width) in enumerate(label_sizes):
        alone = interpolate(network(singles[i])["logits"], (height, width))
        np.testing.assert_allclose(result[i, :, :height, :width], alone[0], atol=1e-4)


def test_an_image_without_label_keeps_its_size():
    image = images(8, 12)
    result = inference.infer(network, {"image": image}, PLAIN)
    np.testing.assert_array_equal(result["logits"], network(image)["logits"])


@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [
        ((10, 17), (6, 4), (3, 2)),
        ((10, 17), (6, 4), (6, 4)),
        ((8, 8), (8, 8), (4, 4)),
        ((9, 20), (8, 12), (5, 7)),
    ],
)
def test_windows_average_where_they_overlap(size, crop, stride):
    window = SlidingWindowConfig(crop, stride)
    image = images(*size)
    seen = []

    def run(part):
        seen.append(part.shape[2:])
        return network(part)

    name, scores = inference.slide(run, image, window)
    assert name == "logits"
    assert set(seen) == {(crop[1], crop[0])}
    # as PaddleSeg's slide_inference does (which numpy 1.24 keeps from running)
    (height, width), (crop_w, crop_h), (step_w, step_h) = size, crop, stride
    padded = np.pad(image, ((0, 0), (0, 0), (0, max(crop_h - height, 0)), (0, 0)))
    height_padded = padded.shape[2]
    total = np.zeros((2, CLASSES, height_padded, width))
    count = np.zeros((height_padded, width))
    rows = max(int(np.ceil((height - crop_h) / step_h)), 0) + 1
    columns = max(int(np.ceil((width - crop_w) / step_w)), 0) + 1
    for row in range(rows):
        for column in range(columns):
            bottom = min(row * step_h + crop_h, height_padded)
            right = min(column * step_w + crop_w, width)
            rows_of, columns_of = slice(bottom - crop_h, bottom), slice(right - crop_w, right)
            part = padded[:, :, rows_of, columns_of]
            total[:, :, rows_of, columns_of] += network(part)["logits"]
            count[rows_of, columns_of] += 1
    np.testing.assert_allclose(scores, (total / count)[:, :, :height], atol=1e-5)


def test_an_image_smaller_than_the_window_is_filled_up(caplog):
    window = SlidingWindowConfig((16, 12), (8, 8))
    image = images(9, 10)

    def fixed(part):
        assert part.shape == (2, 3, 12, 16)
        return network(part)

    _, scores = inference.slide(fixed, image, window)
    assert scores.shape == (2, CLASSES, 9, 10)
    assert not caplog.records
    inference.slide(fixed, images(4, 11), window)
    assert [each.getMessage() for each in caplog.records] == [
        "evaluation.sliding_window.crop: windows of 16x12 pixels are over 4 times as large as "
        "pictures; what they are filled up with takes its time, too"
    ]


def test_scales_and_flip_average_probabilities():
    config = EvaluationConfig(scales=(0.5, 1.0, 1.5), flip=True)
    image = images(12, 16)
    result = inference.infer(network, {"image": image}, config)["probabilities"]
    total = 0
    for scale in config.scales:
        scaled = interpolate(image, (int(12 * scale), int(16 * scale)))
        for turn in (slice(None), slice(None, None, -1)):
            logits = network(scaled[..., turn])["logits"][..., turn]
            total = total + F.softmax(paddle.to_tensor(interpolate(logits, (12, 16))), 1).numpy()
    np.testing.assert_allclose(result, total / 6, atol=1e-5)
    np.testing.assert_allclose(result.sum(1), 1, atol=1e-5)


def test_flip_alone_is_paddlesegs():
    from paddleseg.core.infer import aug_inference

    image = images(12, 16, 1)
    result = inference.infer(network, {"image": image}, EvaluationConfig(flip=True))

    def model(tensor):
        return [paddle.to_tensor(network(tensor.numpy())["logits"])]

    _, theirs = aug_inference(model, paddle.to_tensor(image), [], 1.0, flip_horizontal=True)
    np.testing.assert_allclose(2 * result["probabilities"], theirs.numpy(), atol=1e-5)


def test_a_graph_that_ends_in_labels():
    def run(image):
        return {"labels": network(image)["logits"].argmax(1).astype(np.int32)}

    image = images(8, 12)
    batch = {
        "image": image,
        "image_size": np.array([[8, 12]] * 2),
        "label": np.zeros((2, 16, 24), np.uint8),
        "label_size": np.array([[16, 24]] * 2),
    }
    labels = inference.infer(run, batch, PLAIN)["labels"]
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, run(image)["labels"].repeat(2, 1).repeat(2, 2))
    for config, key in (
        (EvaluationConfig(flip=True), "scales"),
        (EvaluationConfig(sliding_window=SlidingWindowConfig((4, 4), (4, 4))), "sliding_window"),
    ):
        with pytest.raises(ConfigError, match=rf"^evaluation\.{key}: .* ends in labels"):
            inference.infer(run, batch, config)


def test_a_network_that_says_nothing_known():
    with pytest.raises(ConfigError, match="expected one of logits, probabilities, labels"):
        inference.infer(lambda image: {"heat": image}, {"image": images(4, 4)}, PLAIN)
