"""The one affine map, against the definitions in the papers and plain numpy."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.keypoint.config import AugmentConfig
from tasks.keypoint.transforms import (
    Frame,
    Normaliser,
    affine,
    apply,
    augment_frame,
    crop,
    erase,
    frame_box,
    half_body,
    invert,
)

SIZE = (128, 96)
frames = st.builds(
    Frame,
    center=st.tuples(st.floats(-50, 500), st.floats(-50, 500)),
    size=st.floats(10, 500).map(lambda height: (height * 0.75, height)),
    rotation=st.floats(-80, 80),
    mirrored=st.booleans(),
)
NO_CHANGE = AugmentConfig(flip=0, half_body=0, scale=0, rotation=0, rotate=0, erase=0)


@given(st.floats(0, 300), st.floats(0, 300), st.floats(1, 300), st.floats(1, 300))
@settings(max_examples=50, deadline=None)
def test_frame_holds_the_box_in_the_right_shape(x, y, width, height):
    frame = frame_box(np.array([x, y, width, height]), SIZE, 1.25)
    assert frame.size[0] / frame.size[1] == pytest.approx(96 / 128)
    assert frame.size[0] >= 1.25 * width - 1e-6
    assert frame.size[1] >= 1.25 * height - 1e-6
    assert min(frame.size[0] / width, frame.size[1] / height) == pytest.approx(1.25)
    assert frame.center == pytest.approx((x + width / 2, y + height / 2))


@given(frames)
@settings(max_examples=50, deadline=None)
def test_classic_map_is_the_one_through_three_points(frame):
    """HRNet: centre to centre, half the width along the rotated vertical, and its normal."""
    upright = Frame(frame.center, frame.size, frame.rotation)
    angle = np.deg2rad(frame.rotation)
    up = frame.size[0] / 2 * np.array([np.sin(angle), -np.cos(angle)])
    center = np.array(frame.center)
    source = np.array([center, center + up, center + up + [up[1], -up[0]]], np.float32)
    middle = np.array([48, 64])
    target = np.array([middle, middle - [0, 48], middle - [48, 48]], np.float32)
    expected = cv2.getAffineTransform(source, target)
    points = np.array([frame.center, [0, 0], [300, 200]])
    got = apply(affine(upright, SIZE, udp=False), points)
    np.testing.assert_allclose(got, apply(expected, points), rtol=1e-3, atol=0.05)


@given(frames)
@settings(max_examples=50, deadline=None)
def test_udp_map_puts_corners_on_the_outermost_pixels(frame):
    angle = np.deg2rad(frame.rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    half = np.array(frame.size) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    source = corners @ turn.T + frame.center
    expected = np.array([[0, 0], [95, 0], [95, 127], [0, 127]], dtype=float)
    if frame.mirrored:
        expected[:, 0] = 95 - expected[:, 0]
    np.testing.assert_allclose(apply(affine(frame, SIZE, udp=True), source), expected, atol=1e-6)


@given(frames, st.booleans())
@settings(max_examples=50, deadline=None)
def test_the_inverse_brings_points_back(frame, udp):
    matrix = affine(frame, SIZE, udp)
    points = np.array([[0.0, 0.0], [200.0, 100.0], [-5.0, 40.0]])
    np.testing.assert_allclose(apply(invert(matrix), apply(matrix, points)), points, atol=1e-6)


@pytest.mark.parametrize("udp", [True, False])
def test_a_mirrored_frame_gives_the_mirror_image(udp):
    image = np.random.default_rng(0).integers(0, 255, (200, 150, 3), dtype=np.uint8)
    frame = Frame((75.0, 100.0), (96.0, 128.0), rotation=12.0)
    mirrored = Frame(frame.center, frame.size, frame.rotation, mirrored=True)
    plain = crop(image, affine(frame, SIZE, udp), SIZE)
    flipped = crop(image, affine(mirrored, SIZE, udp), SIZE)
    difference = np.abs(plain[:, ::-1].astype(int) - flipped)
    assert np.percentile(difference, 99) <= 12  # OpenCV rounds coordinates to 1/32 of a pixel
    assert difference.mean() < 2


def test_pixels_follow_the_points():
    image = np.zeros((240, 200, 3), np.uint8)
    image[150, 60] = 255
    frame = Frame((70.0, 140.0), (60.0, 80.0), rotation=25.0, mirrored=True)
    matrix = affine(frame, SIZE, udp=True)
    cut = crop(image, matrix, SIZE).astype(float).sum(axis=2)
    rows, columns = np.mgrid[:128, :96]
    found = [(cut * columns).sum() / cut.sum(), (cut * rows).sum() / cut.sum()]
    np.testing.assert_allclose(found, apply(matrix, np.array([60.0, 150.0])), atol=0.1)


def test_same_generator_same_augmentation():
    joints = np.column_stack([np.random.default_rng(1).uniform(0, 100, (17, 2)), np.full(17, 2)])
    frame = frame_box(np.array([0, 0, 100, 100]), SIZE, 1.25)
    config = AugmentConfig()
    drawn = [
        augment_frame(frame, joints, tuple(range(11)), SIZE, config, np.random.default_rng(seed))
        for seed in (3, 3, 4)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_no_augmentation_changes_nothing():
    frame = frame_box(np.array([0, 0, 100, 100]), SIZE, 1.25)
    rng = np.random.default_rng(0)
    assert augment_frame(frame, np.ones((17, 3)), (0,), SIZE, NO_CHANGE, rng) == frame


def test_augmentation_stays_in_its_ranges_and_uses_them():
    frame = frame_box(np.array([0, 0, 75, 100]), SIZE, 1.0)
    config = AugmentConfig(flip=0.5, half_body=0, scale=0.3, rotation=20, rotate=0.6)
    rng = np.random.default_rng(0)
    drawn = [augment_frame(frame, np.ones((17, 3)), (), SIZE, config, rng) for _ in range(1000)]
    factors = np.array([f.size[1] / 100 for f in drawn])
    angles = np.array([f.rotation for f in drawn])
    assert factors.min() == pytest.approx(0.7)
    assert factors.max() == pytest.approx(1.3)
    assert np.abs(angles).max() <= 40
    assert abs((angles != 0).mean() - 0.6) < 0.06
    assert abs(np.mean([f.mirrored for f in drawn]) - 0.5) < 0.06


def test_half_body_frames_one_half():
    joints = np.zeros((17, 3))
    joints[:11] = [[20 + i, 10 + 2 * i, 2] for i in range(11)]
    joints[11:] = [[25 + i, 100 + 10 * i, 2] for i in range(6)]
    labelled, upper = joints[:, 2] > 0, tuple(range(11))
    rng = np.random.default_rng(0)
    centers = {half_body(joints, labelled, upper, SIZE, rng).center for _ in range(20)}
    expected = {(25.0, 20.0), (27.5, 125.0)}
    assert {tuple(np.round(center, 6)) for center in centers} == expected


def test_half_body_takes_the_other_half_where_few_joints_are_labelled():
    joints = np.zeros((17, 3))
    joints[0] = [10, 10, 2]
    joints[11:14] = [[50, 60, 2], [60, 70, 2], [70, 80, 2]]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        frame = half_body(joints, joints[:, 2] > 0, tuple(range(11)), SIZE, rng)
        assert frame is not None
        # one labelled upper joint is no body: None or the lower half
        assert frame.center == pytest.approx((60, 70))
    nobody = np.zeros((17, 3))
    rng = np.random.default_rng(0)
    assert half_body(nobody, nobody[:, 2] > 0, tuple(range(11)), SIZE, rng) is None


def test_erasing_fills_one_rectangle_of_the_wanted_area():
    shares = []
    for seed in range(50):
        image = np.zeros((128, 96, 3), np.uint8)
        erase(image, AugmentConfig(erase=1.0), np.random.default_rng(seed))
        rows, columns = np.nonzero(image.any(axis=2))
        rectangle = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        shares.append(rectangle / (128 * 96))
    assert min(shares) > 0.015
    assert max(shares) < 0.22
    untouched = np.zeros((128, 96, 3), np.uint8)
    erase(untouched, AugmentConfig(erase=0.0), np.random.default_rng(0))
    assert not untouched.any()


def test_normalising_is_the_formula():
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = ((image / 255 - mean) / std).transpose(2, 0, 1)
    got = Normaliser(mean, std)(image)
    assert got.dtype == np.float32
    assert got.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, "flip: expected a probability"),
        ({"scale": 1.0}, "scale: expected 0 <= scale < 1"),
        ({"rotation": -1.0}, "rotation: expected 0 or more"),
        ({"erase_area": (0.5, 0.2)}, "erase_area: expected"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**settings)
