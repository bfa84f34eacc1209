"""Transforms of the classification task against PIL, NumPy and PaddleClas."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from tasks.cls import mixing, policies, transforms
from tasks.cls.config import AugmentConfig, DataConfig


def picture(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """A smooth colourful picture with a little noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3)).astype(np.float32)
    smooth = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


def paddleclas_operators():
    from paddleclas.deploy.python import preprocess

    return preprocess


def test_normalize_is_the_formula():
    image, mean, std = picture(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = ((image.astype(np.float64) / 255 - mean) / std).transpose(2, 0, 1)
    result = transforms.Normalize(mean, std)(image[5:50, 3:40])
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result, expected[:, 5:50, 3:40], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(60, 80), (81, 60), (300, 401), (64, 64)])
def test_evaluation_equals_paddleclas(shape):
    operators = paddleclas_operators()
    image = picture(*shape)
    expected = image
    for step in (
        operators.ResizeImage(resize_short=64),
        operators.CropImage(48),
        operators.NormalizeImage(scale=1 / 255, order="hwc"),
        operators.ToCHWImage(),
    ):
        expected = step(expected)
    result = transforms.EvalTransform(DataConfig(root="x", image_size=48, resize_short=64))(image)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32), st.floats(0.01, 1.0))
def test_random_window_lies_in_the_picture(height, width, seed, low):
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    top, left, h, w = transforms._draw_window(image, rng, (low, 1.0), (3 / 4, 4 / 3))
    assert h >= 1
    assert w >= 1
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w


def test_random_windows_have_the_asked_areas_and_shapes():
    rng = np.random.default_rng(0)
    image = np.zeros((400, 400, 3), np.uint8)
    windows = [transforms._draw_window(image, rng, (0.1, 0.5), (0.5, 2.0)) for _ in range(2000)]
    areas = np.array([h * w / 160000 for _, _, h, w in windows])
    shapes = np.log([w / h for _, _, h, w in windows])
    assert areas.min() >= 0.095
    assert areas.max() <= 0.505
    np.testing.assert_allclose(areas.mean(), 0.3, atol=0.01)
    np.testing.assert_allclose(shapes.mean(), 0.0, atol=0.03)
    np.testing.assert_allclose(shapes.std(), np.log(4) / np.sqrt(12), atol=0.02)
    np.testing.assert_allclose(np.mean([t / (400 - h) for t, _, h, _ in windows]), 0.5, atol=0.02)


def test_same_generator_same_result_and_the_picture_stays():
    augment = AugmentConfig(
        policy="autoaugment", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, erasing=1.0
    )
    transform = transforms.TrainTransform(DataConfig("x", image_size=32, resize_short=32), augment)
    image = picture()
    before = image.copy()
    one = transform(image, np.random.default_rng([1, 2]))
    other = transform(image, np.random.default_rng([1, 2]))
    different = transform(image, np.random.default_rng([1, 3]))
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, different)
    assert one.shape == (3, 32, 32)
    np.testing.assert_array_equal(image, before)


def test_flip_happens_as_often_as_asked():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 255
    data = DataConfig("x", image_size=16, resize_short=16)
    transform = transforms.TrainTransform(data, AugmentConfig(scale=(1, 1), ratio=(1, 1), flip=0.3))
    rng = np.random.default_rng(0)
    flipped = np.mean([transform(image, rng)[0, 0, 0] > 0 for _ in range(1000)])
    assert 0.25 < flipped < 0.35


@pytest.mark.parametrize("factor", [0.1, 0.7, 1.0, 1.9])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (policies.adjust_brightness, ImageEnhance.Brightness),
        (policies.adjust_contrast, ImageEnhance.Contrast),
        (policies.adjust_saturation, ImageEnhance.Color),
        (policies.adjust_sharpness, ImageEnhance.Sharpness),
    ],
)
def test_enhancements_equal_pil(ours, theirs, factor):
    image = picture(seed=3)
    expected = np.asarray(theirs(Image.fromarray(image)).enhance(factor)).astype(int)
    # PIL cuts fractions off where OpenCV rounds, and each has its own integer grey
    assert np.abs(ours(image, factor).astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        (policies.equalize, ImageOps.equalize, 0),
        (policies.autocontrast, ImageOps.autocontrast, 1),
        (policies.invert, ImageOps.invert, 0),
        (lambda x: policies.posterize(x, 5), lambda x: ImageOps.posterize(x, 5), 0),
        (lambda x: policies.solarize(x, 100), lambda x: ImageOps.solarize(x, 100), 0),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_histogram_operations_equal_pil(ours, theirs, tolerance, seed):
    image = picture(seed=seed) // 2 + 20
    expected = np.asarray(theirs(Image.fromarray(image))).astype(int)
    assert np.abs(ours(image).astype(int) - expected).max() <= tolerance


def test_histogram_operations_leave_flat_pictures_alone():
    flat = np.full((8, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(policies.equalize(flat), flat)
    np.testing.assert_array_equal(policies.autocontrast(flat), flat)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x: policies.shear(x, x=0.2), (1, -0.2, 0, 0, 1, 0)),
        (lambda x: policies.shear(x, y=-0.3), (1, 0, 0, 0.3, 1, 0)),
        (lambda x: policies.translate(x, x=7), (1, 0, -7, 0, 1, 0)),
        (lambda x: policies.translate(x, y=-5), (1, 0, 0, 0, 1, 5)),
    ],
)
def test_affine_operations_equal_pil(ours, theirs):
    image = picture()
    pil = Image.fromarray(image)
    expected = pil.transform(
        pil.size, Image.AFFINE, theirs, Image.BILINEAR, fillcolor=(128, 128, 128)
    )
    # PIL's pixel centres lie at one half; only what is not on the border can agree
    difference = np.abs(ours(image).astype(int) - np.asarray(expected).astype(int))
    assert np.median(difference) <= 4
    assert np.mean(difference > 12) < 0.1


def test_rotation_equals_pil():
    image = picture(61, 61)
    expected = Image.fromarray(image).rotate(20, Image.BILINEAR, fillcolor=(128, 128, 128))
    difference = np.abs(policies.rotate(image, 20).astype(int) - np.asarray(expected).astype(int))
    assert np.median(difference) <= 2
    assert np.mean(difference > 8) < 0.05


def test_hue_turns_red_to_green():
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    green = policies.shift_hue(red, 1 / 3)
    assert np.abs(green.astype(int) - (0, 200, 0)).max() <= 3
    image = picture()
    assert np.abs(policies.shift_hue(image, 0.0).astype(int) - image).mean() < 2


@pytest.mark.parametrize("name", sorted(policies._OPERATIONS))
@pytest.mark.parametrize("level", [0, 10])
def test_every_operation_keeps_the_picture_a_picture(name, level):
    image = picture(33, 47)
    result = policies.apply(image, np.random.default_rng(0), name, level)
    assert result.shape == image.shape
    assert result.dtype == np.uint8


def test_policies_name_known_operations_with_published_strengths():
    assert len(policies.AUTOAUGMENT) == 25
    assert len(policies.RANDAUGMENT) == 14
    used = {name for pair in policies.AUTOAUGMENT for name, _, _ in pair}
    assert used | set(policies.RANDAUGMENT) <= set(policies._OPERATIONS)
    for pair in policies.AUTOAUGMENT:
        for _, probability, level in pair:
            assert 0 <= probability <= 1
            assert 0 <= level <= 9


def test_randaugment_draws_all_operations_and_zero_strength_moves_nothing():
    image = picture()
    rng = np.random.default_rng(0)
    results = {policies.randaugment(image, rng, 1, 9.0).tobytes() for _ in range(200)}
    assert len(results) >= 14
    for name in ("rotate", "shear_x", "translate_y", "color", "contrast", "solarize", "posterize"):
        unchanged = policies.apply(image, rng, name, 0)
        assert np.abs(unchanged.astype(int) - image).max() <= 1, name


def test_random_erasing_covers_the_asked_share():
    augment = AugmentConfig(erasing=1.0, erasing_area=(0.1, 0.2), erasing_fill="noise")
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        image = np.full((3, 64, 64), 9.0, np.float32)
        transforms.random_erase(image, rng, augment)
        shares.append(np.mean(image != 9.0))
    assert min(shares) > 0.08
    assert max(shares) < 0.22
    np.testing.assert_allclose(np.mean(shares), 0.15, atol=0.01)


def make_batch(count: int = 5, classes: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=count)
    images = rng.normal(size=(count, 3, 8, 10)).astype(np.float32)
    return {"image": images, "label": mixing.one_hot(labels, classes)}


def test_mixup_blends_pictures_and_targets_alike():
    batch = make_batch()
    mixed = mixing.mixup(batch, 0.4, np.random.default_rng(7))
    rng = np.random.default_rng(7)
    share, order = rng.beta(0.4, 0.4), rng.permutation(5)
    for key in batch:
        expected = share * batch[key] + (1 - share) * batch[key][order]
        np.testing.assert_allclose(mixed[key], expected, atol=1e-6)
        assert mixed[key].dtype == np.float32
    np.testing.assert_allclose(mixed["label"].sum(axis=1), 1, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.1, 2.0))
def test_cutmix_targets_follow_the_areas(seed, alpha):
    classes = 6
    labels = np.arange(classes)
    images = np.broadcast_to(labels[:, None, None, None], (classes, 3, 8, 10)).astype(np.float32)
    batch = {"image": images, "label": mixing.one_hot(labels, classes)}
    mixed = mixing.cutmix(batch, alpha, np.random.default_rng(seed))
    assert mixed["label"].dtype == np.float32
    for image, target in zip(mixed["image"], mixed["label"]):
        areas = [np.mean(image == label) for label in labels]
        np.testing.assert_allclose(target, areas, atol=1e-6)
