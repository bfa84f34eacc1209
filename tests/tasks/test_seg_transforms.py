"""Augmentation against plain numpy, Pillow and PaddleSeg."""

import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from tasks.seg import transforms
from tasks.seg.config import AugmentConfig

RNG = np.random.default_rng(5)
NOISE = RNG.integers(0, 256, (24, 36, 3), dtype=np.uint8)
SMOOTH = cv2.resize(NOISE, (180, 120), interpolation=cv2.INTER_CUBIC)


def augmented(image, label, seed, **settings_):
    config = AugmentConfig(**settings_)
    image, label, mirrored = transforms.augment(image, label, config, np.random.default_rng(seed))
    return image, label, mirrored


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(8, 90), st.integers(8, 90)),
    st.tuples(st.integers(4, 60), st.integers(4, 60)),
    st.sampled_from([0.0, 0.25]),
    st.integers(0, 10**6),
)
def test_image_and_label_stay_together(size, crop, step, seed):
    """The label is the image's red value: after any scaling and cropping it still is, nearly."""
    width, height = size
    ramp = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    image = np.repeat(ramp[..., None], 3, axis=2)
    result, label, _ = augmented(
        image, ramp, seed, scale_min=0.5, scale_max=2.0, scale_step=step, crop=crop
    )
    assert result.shape[:2] == label.shape
    assert label.shape[0] <= crop[1]
    assert label.shape[1] <= crop[0]
    assert set(np.unique(label)) <= set(np.unique(ramp))
    assert np.abs(result[..., 0].astype(int) - label).max() <= 3


def test_a_crop_is_a_part_of_the_image():
    label = np.arange(24 * 36, dtype=np.int32).reshape(24, 36)
    places = set()
    for seed in range(60):
        image, part, _ = augmented(NOISE, label, seed, crop=(10, 8))
        y, x = divmod(int(part[0, 0]), 36)
        np.testing.assert_array_equal(part, label[y : y + 8, x : x + 10])
        np.testing.assert_array_equal(image, NOISE[y : y + 8, x : x + 10])
        places.add((y, x))
    assert min(y for y, _ in places) <= 2
    assert max(y for y, _ in places) >= 14
    assert len(places) > 40


def test_scaling_then_cropping_is_what_paddleseg_does(monkeypatch):
    """The same scale and place through PaddleSeg's transforms give the same picture, nearly."""
    from paddleseg import transforms as theirs

    crop, scale = (64, 48), 1.5
    window = transforms.draw_window(
        180,
        120,
        AugmentConfig(crop=crop, scale_min=scale, scale_max=scale),
        np.random.default_rng(0),
    )
    ours = transforms.cut(SMOOTH, window, cv2.INTER_LINEAR)
    offsets = iter([round(window.top * scale), round(window.left * scale)])
    monkeypatch.setattr(np.random, "randint", lambda high: min(next(offsets), high - 1))
    data = {"img": SMOOTH.astype(np.float32), "trans_info": [], "gt_fields": []}
    data = theirs.ResizeStepScaling(scale, scale)(data)
    data = theirs.RandomPaddingCrop(crop)(data)
    assert ours.shape == data["img"].shape
    assert np.abs(ours.astype(np.float32) - data["img"]).mean() < 4


def test_scales():
    def drawn(**settings_):
        config = AugmentConfig(crop=(8, 8), **settings_)
        rng = np.random.default_rng(0)
        return [transforms.draw_scale(config, rng) for _ in range(300)]

    stepped = drawn(scale_min=0.5, scale_max=2.0, scale_step=0.25)
    assert set(stepped) == {0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0}
    free = drawn(scale_min=0.5, scale_max=2.0)
    assert len(set(free)) == 300
    assert 0.5 <= min(free) < 0.55 < 1.95 < max(free) <= 2.0
    assert set(drawn(scale_min=1.5, scale_max=1.5)) == {1.5}


@pytest.mark.parametrize("mirrored", [False, True])
def test_padding(mirrored):
    plane = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    padded = transforms.pad(plane, (4, 3), 9.0, mirrored)
    wanted = np.array([[0, 1, 2, 9], [3, 4, 5, 9], [9, 9, 9, 9]], np.float32)
    np.testing.assert_array_equal(padded[0], wanted[:, ::-1] if mirrored else wanted)
    same = transforms.pad(plane, (3, 2), 9.0, mirrored)
    np.testing.assert_array_equal(same, plane[..., ::-1] if mirrored else plane)


def test_normalize_is_paddlesegs_to_the_last_bit():
    from paddleseg.transforms import functional

    mean, std = (0.5, 0.4, 0.3), (0.5, 0.6, 0.7)
    wanted = functional.normalize(
        NOISE, np.array(mean, np.float32), np.array(std, np.float32)
    ).transpose(2, 0, 1)
    np.testing.assert_array_equal(transforms.normalize(NOISE, mean, std), wanted)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.4])
@pytest.mark.parametrize("kind", ["Brightness", "Contrast", "Color"])
def test_distortions_are_pillows(kind, factor):
    ours = {
        "Brightness": transforms.change_brightness,
        "Contrast": transforms.change_contrast,
        "Color": transforms.change_saturation,
    }[kind]
    wanted = np.asarray(getattr(ImageEnhance, kind)(Image.fromarray(NOISE)).enhance(factor))
    assert np.abs(ours(NOISE, factor).astype(int) - wanted).max() <= 2


@pytest.mark.parametrize("degrees", [-25.0, 0.0, 10.0, 180.0])
def test_hue_turns_the_circle(degrees):
    turned = transforms.change_hue(NOISE, degrees)
    for before, after in zip(NOISE[::5, ::7].reshape(-1, 3), turned[::5, ::7].reshape(-1, 3)):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        wanted = np.array(colorsys.hsv_to_rgb((hue + degrees / 360) % 1, saturation, value)) * 255
        assert np.abs(wanted - after).max() <= 8


def test_distortion_is_drawn_from_the_generator():
    config = AugmentConfig(distort=0.5)
    results = [
        transforms.distort(NOISE, config, np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    assert len({result.tobytes() for result in results}) >= 3


def test_flip_probability():
    label = np.zeros(NOISE.shape[:2], np.uint8)
    mirrored = [augmented(NOISE, label, seed, flip=0.25)[2] for seed in range(400)]
    assert 0.18 < np.mean(mirrored) < 0.32


def test_resize_before_all():
    label = np.zeros(NOISE.shape[:2], np.uint8)
    image, label, _ = augmented(NOISE, label, 0, resize=(20, 10))
    assert image.shape == (10, 20, 3)
    assert label.shape == (10, 20)
