"""Points to heatmaps and back, against loops written out in numpy and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tasks.keypoint.codec import Codec, dark_offset, find_peaks, fitting_kernel, smooth
from tasks.keypoint.config import CodecConfig

SIZE = (128, 96)
CODECS = {
    "classic": CodecConfig(udp=False, target="rounded", decoding="quarter"),
    "dark": CodecConfig(udp=False, target="subpixel", decoding="dark"),
    "udp": CodecConfig(udp=True, target="subpixel", decoding="dark"),
    "argmax": CodecConfig(udp=True, target="rounded", decoding="argmax"),
}


def classic_heatmap(point: np.ndarray, sigma: float, size: tuple[int, int]) -> np.ndarray:
    """HRNet's target: a Gaussian patch of 6 sigma + 1 pixels pasted around the nearest pixel."""
    height, width = size
    heatmap = np.zeros(size)
    center_x, center_y = (math.floor(v / 4 + 0.5) for v in point)
    radius = int(3 * sigma)
    for y in range(center_y - radius, center_y + radius + 1):
        for x in range(center_x - radius, center_x + radius + 1):
            if 0 <= x < width and 0 <= y < height:
                squared = (x - center_x) ** 2 + (y - center_y) ** 2
                heatmap[y, x] = math.exp(-squared / (2 * sigma**2))
    return heatmap


def reference_dark(heatmap: np.ndarray, kernel: int) -> np.ndarray:
    """DARK for one heatmap as its paper has it: blur, rescale, logarithm, one Newton step."""
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    taps = np.exp(-((np.arange(kernel) - kernel // 2) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    blurred = ndimage.convolve1d(heatmap, taps, axis=0, mode="constant")
    blurred = ndimage.convolve1d(blurred, taps, axis=1, mode="constant")
    blurred *= heatmap.max() / blurred.max()
    log = np.log(np.maximum(blurred, 1e-10))
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    if not (1 < x < heatmap.shape[1] - 2 and 1 < y < heatmap.shape[0] - 2):
        return np.array([x, y], dtype=float)
    gradient = np.array([log[y, x + 1] - log[y, x - 1], log[y + 1, x] - log[y - 1, x]]) / 2
    xx = (log[y, x + 2] - 2 * log[y, x] + log[y, x - 2]) / 4
    yy = (log[y + 2, x] - 2 * log[y, x] + log[y - 2, x]) / 4
    xy = log[y + 1, x + 1] - log[y - 1, x + 1] - log[y + 1, x - 1] + log[y - 1, x - 1]
    hessian = np.array([[xx, xy / 4], [xy / 4, yy]])
    return np.array([x, y]) - np.linalg.solve(hessian, gradient)


points_inside = st.tuples(st.floats(16, SIZE[1] - 20), st.floats(16, SIZE[0] - 20))
points_central = st.tuples(st.floats(36, SIZE[1] - 37), st.floats(36, SIZE[0] - 37))
points_anywhere = st.tuples(st.floats(-60, 160), st.floats(-60, 200))


@given(st.lists(points_anywhere, min_size=1, max_size=4), st.sampled_from([1.0, 2.0, 3.0]))
@settings(max_examples=40, deadline=None)
def test_classic_target_is_a_patch_around_the_nearest_pixel(points, sigma):
    codec = Codec(CodecConfig(udp=False, target="rounded", sigma=sigma), SIZE)
    points = np.array(points)
    target, weight = codec.encode(points, np.ones(len(points), bool))
    for k, point in enumerate(points):
        np.testing.assert_allclose(target[k], classic_heatmap(point, sigma, (32, 24)), atol=1e-6)
        assert weight[k] == float(target[k].any())


@given(points_inside, st.sampled_from([1.5, 2.0, 3.0]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_subpixel_target_is_the_gaussian_density(point, sigma, udp):
    codec = Codec(CodecConfig(udp=udp, target="subpixel", sigma=sigma), SIZE)
    target, weight = codec.encode(np.array([point]), np.array([True]))
    stride = np.array([95 / 23, 127 / 31]) if udp else np.array([4.0, 4.0])
    x, y = np.array(point) / stride
    rows, columns = np.mgrid[:32, :24]
    expected = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    np.testing.assert_allclose(target[0], expected, atol=1e-6)
    assert weight[0] == 1


def test_unlabelled_points_are_not_drawn():
    codec = Codec(CodecConfig(), SIZE)
    target, weight = codec.encode(np.array([[40.0, 40.0], [50.0, 50.0]]), np.array([False, True]))
    assert weight.tolist() == [0, 1]
    assert not target[0].any()
    assert target.dtype == weight.dtype == np.float32


# argmax is half a heatmap pixel off at worst; so is `classic`, whose patch is symmetric about its
# pixel. DARK is exact but for what the blur loses beyond the border.
@pytest.mark.parametrize(("name", "error"), [("classic", 2.0), ("argmax", 2.1), ("dark", 0.3)])
@given(st.lists(points_inside, min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_decoding_an_encoded_point_gives_it_back(name, error, points):
    assert round_trip_error(CODECS[name], np.array(points)) <= error + 1e-3


@pytest.mark.parametrize("name", ["dark", "udp"])
@given(st.lists(points_central, min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_dark_is_exact_away_from_the_border(name, points):
    assert round_trip_error(CODECS[name], np.array(points)) <= 0.01


def round_trip_error(config, points):
    codec = Codec(config, SIZE)
    target, _ = codec.encode(points, np.ones(len(points), bool))
    decoded = codec.decode(target[None])[0]
    assert decoded.shape == (len(points), 3)
    assert (decoded[:, 2] > 0.7).all()
    return np.abs(decoded[:, :2] - points).max()


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([3, 11, 17]),
    st.floats(3, 20),
    st.floats(3, 28),
)
@settings(max_examples=40, deadline=None)
def test_dark_agrees_with_the_paper(seed, kernel, x, y):
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :24]
    clean = 0.8 * np.exp(-((columns - x) ** 2 / 9 + (rows - y) ** 2 / 7))
    heatmap = (clean + 0.003 * rng.random((32, 24))).astype(np.float32)
    peaks, _ = find_peaks(heatmap[None, None])
    offset = dark_offset(smooth(heatmap[None, None], kernel), peaks)
    expected = reference_dark(heatmap.astype(np.float64), kernel)
    if np.abs(expected - peaks[0, 0]).max() < 1:
        np.testing.assert_allclose((peaks + offset)[0, 0], expected, atol=2e-3)


def test_dark_never_leaves_the_neighbourhood_of_the_peak():
    noise = np.random.default_rng(0).normal(size=(8, 17, 32, 24)).astype(np.float32)
    codec = Codec(CodecConfig(), SIZE)
    peaks, _ = find_peaks(noise)
    decoded = codec.decode(noise)[..., :2] / codec.stride
    assert np.isfinite(decoded).all()
    assert np.abs(decoded - peaks).max() <= 1 + 1e-5


def test_quarter_offset_moves_towards_the_higher_neighbour():
    heatmap = np.zeros((1, 1, 32, 24), np.float32)
    heatmap[0, 0, 10, 7] = 1.0
    heatmap[0, 0, 10, 8] = 0.5
    heatmap[0, 0, 9, 7] = 0.25
    config = CodecConfig(udp=False, target="rounded", decoding="quarter")
    decoded = Codec(config, SIZE).decode(heatmap)[0, 0]
    np.testing.assert_allclose(decoded, [7.25 * 4, 9.75 * 4, 1.0])


@pytest.mark.parametrize("decoding", ["argmax", "quarter", "dark"])
def test_peaks_on_the_border_stay_there(decoding):
    heatmap = np.zeros((1, 4, 32, 24), np.float32)
    corners = [(0, 0), (0, 23), (31, 0), (31, 23)]
    for k, (row, column) in enumerate(corners):
        heatmap[0, k, row, column] = 1
    decoded = Codec(CodecConfig(udp=True, decoding=decoding), SIZE).decode(heatmap)[0]
    np.testing.assert_allclose(decoded[:, :2], [[0, 0], [95, 0], [0, 127], [95, 127]], atol=1e-4)


def test_smoothing_keeps_the_height_and_does_not_mix_heatmaps():
    heatmaps = np.zeros((2, 3, 32, 24), np.float32)
    heatmaps[0, 1, 31, 5] = 0.6
    heatmaps[1, 2, 0, 23] = 0.3
    smoothed = smooth(heatmaps, 11)
    np.testing.assert_allclose(smoothed.max(axis=(2, 3)), heatmaps.max(axis=(2, 3)), atol=1e-6)
    assert (smoothed.max(axis=(2, 3)) > 0).sum() == 2


def test_kernel_fits_sigma():
    assert [fitting_kernel(sigma) for sigma in (1.5, 2.0, 3.0)] == [7, 11, 17]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"sigma": 0.0}, "sigma: expected > 0"), ({"blur_kernel": 4}, "blur_kernel: expected an odd")],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CodecConfig(**settings)
