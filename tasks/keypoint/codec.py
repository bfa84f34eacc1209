"""Points to heatmaps and back, apart from any model. Points are x, y in pixels of the input."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from tasks.keypoint.config import CodecConfig
from tasks.keypoint.transforms import Size

HEATMAP_STRIDE = 4


class Codec:
    """Encode points as Gaussians on a grid a quarter of the input's size, and decode them.

    Args:
        config: Kind of target and of decoding.
        input_size: Height and width of the input, multiples of 4.
    """

    def __init__(self, config: CodecConfig, input_size: Size) -> None:
        self.config = config
        self.input_size = input_size
        self.heatmap_size = (input_size[0] // HEATMAP_STRIDE, input_size[1] // HEATMAP_STRIDE)

    @property
    def stride(self) -> np.ndarray:
        """Pixels of the input per pixel of the heatmap [2], along x and y."""
        return heatmap_stride(self.input_size, self.heatmap_size, self.config.udp)

    def encode(self, points: np.ndarray, labelled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw a Gaussian of height 1 for each labelled point near enough to the heatmap.

        Args:
            points: [K, 2] x, y in the input.
            labelled: [K] bool.

        Returns:
            Heatmaps [K, h, w] float32 and weights [K] float32: 0 where nothing was drawn.
        """
        height, width = self.heatmap_size
        sigma = self.config.sigma
        radius = 3 * sigma
        centers = points / self.stride
        pixels = np.floor(centers + 0.5)
        near = ((pixels >= -radius) & (pixels < [width + radius, height + radius])).all(axis=1)
        drawn = near & labelled
        rounded = self.config.target == "rounded"
        if rounded:
            centers = pixels
        x = np.arange(width) - centers[:, :1]
        y = np.arange(height) - centers[:, 1:]
        across, down = np.exp(-(x**2) / (2 * sigma**2)), np.exp(-(y**2) / (2 * sigma**2))
        if rounded:
            across[np.abs(x) > radius] = 0
            down[np.abs(y) > radius] = 0
        down[~drawn] = 0
        # A Gaussian is a product: K * (w + h) exponentials instead of K * w * h
        heatmaps = down.astype(np.float32)[:, :, None] * across.astype(np.float32)[:, None, :]
        return heatmaps, drawn.astype(np.float32)

    def decode(self, heatmaps: np.ndarray) -> np.ndarray:
        """Find the points of heatmaps [N, K, h, w].

        Returns:
            [N, K, 3] float32: x, y in the input and the height of the peak.
        """
        peaks, scores = find_peaks(heatmaps)
        if self.config.decoding == "quarter":
            peaks = peaks + quarter_offset(heatmaps, peaks)
        elif self.config.decoding == "dark":
            kernel = self.config.blur_kernel or fitting_kernel(self.config.sigma)
            peaks = peaks + dark_offset(smooth(heatmaps, kernel), peaks)
        stride = heatmap_stride(
            (heatmaps.shape[2] * HEATMAP_STRIDE, heatmaps.shape[3] * HEATMAP_STRIDE),
            (heatmaps.shape[2], heatmaps.shape[3]),
            self.config.udp,
        )
        points: np.ndarray = np.concatenate([peaks * stride, scores[..., None]], axis=-1)
        return points.astype(np.float32, copy=False)


def heatmap_stride(input_size: Size, heatmap_size: Size, udp: bool) -> np.ndarray:
    """Return input pixels per heatmap pixel [2], x and y; UDP measures between pixel centres."""
    shorter = 1 if udp else 0
    large = np.array(input_size[::-1], dtype=np.float64) - shorter
    stride: np.ndarray = large / (np.array(heatmap_size[::-1]) - shorter)
    return stride


def find_peaks(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest pixels [N, K, 2] (x, y; float64) and their heights [N, K]."""
    images, joints, _, width = heatmaps.shape
    flat = heatmaps.reshape(images, joints, -1)
    best = flat.argmax(axis=2)
    scores = np.take_along_axis(flat, best[..., None], axis=2)[..., 0]
    return np.stack([best % width, best // width], axis=-1).astype(np.float64), scores


def quarter_offset(heatmaps: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Return a quarter pixel towards the higher neighbour, per axis; 0 at the border.

    Heatmaps are [N, K, H, W], peaks and offsets [N, K, 2].
    """
    pixel = _neighbours(heatmaps, peaks)
    height, width = heatmaps.shape[2:]
    x, y = peaks[..., 0], peaks[..., 1]
    inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    slope = np.stack([pixel(1, 0) - pixel(-1, 0), pixel(0, 1) - pixel(0, -1)], axis=-1)
    offset: np.ndarray = np.sign(slope) * 0.25 * inside[..., None]
    return offset


def dark_offset(heatmaps: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Return the Newton step to the maximum of the logarithm, which is a parabola for Gaussians.

    Heatmaps are [N, K, H, W], peaks and offsets [N, K, 2].

    The heatmaps should be smooth, see `smooth`. Where the curvature is not that of a maximum, or
    the peak is too near to the border, the offset is 0.
    """
    near = _neighbours(heatmaps, peaks)

    def pixel(dx: int, dy: int) -> np.ndarray:
        logarithm: np.ndarray = np.log(np.maximum(near(dx, dy), 1e-10))
        return logarithm

    dx = (pixel(1, 0) - pixel(-1, 0)) / 2
    dy = (pixel(0, 1) - pixel(0, -1)) / 2
    dxx = (pixel(2, 0) - 2 * pixel(0, 0) + pixel(-2, 0)) / 4
    dyy = (pixel(0, 2) - 2 * pixel(0, 0) + pixel(0, -2)) / 4
    dxy = (pixel(1, 1) - pixel(-1, 1) - pixel(1, -1) + pixel(-1, -1)) / 4
    determinant = dxx * dyy - dxy**2
    height, width = heatmaps.shape[2:]
    x, y = peaks[..., 0], peaks[..., 1]
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    usable = inside & (determinant > 1e-12) & (dxx < 0)
    safe = np.where(usable, determinant, 1.0)
    step = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=-1) / safe[..., None]
    # A flat, noisy peak can throw the parabola's top far away; the real one is within a pixel
    offset: np.ndarray = np.where(usable[..., None], np.clip(step, -1, 1), 0.0)
    return offset


def fitting_kernel(sigma: float) -> int:
    """Return the kernel whose own deviation, as OpenCV derives it, is about `sigma`."""
    return max(3, 2 * round((sigma - 0.8) / 0.3 + 1) + 1)


def smooth(heatmaps: np.ndarray, kernel: int) -> np.ndarray:
    """Blur heatmaps [N, K, H, W], with zeros beyond the border, and restore their heights."""
    images, joints, height, width = heatmaps.shape
    flat = heatmaps.reshape(images * joints, height, width).astype(np.float32, copy=False)
    gap = kernel // 2
    # One tall picture with gaps: one call into OpenCV instead of one per heatmap
    tall = np.pad(flat, ((0, 0), (0, gap), (0, 0))).reshape(-1, width)
    blurred = cv2.GaussianBlur(tall, (kernel, kernel), 0, borderType=cv2.BORDER_CONSTANT)
    blurred = blurred.reshape(images * joints, height + gap, width)[:, :height]
    highest = blurred.max(axis=(1, 2), keepdims=True)
    wanted = flat.max(axis=(1, 2), keepdims=True)
    scaled = blurred * np.divide(wanted, highest, out=np.ones_like(wanted), where=highest > 0)
    restored: np.ndarray = scaled.reshape(heatmaps.shape)
    return restored


def _neighbours(heatmaps: np.ndarray, peaks: np.ndarray) -> Callable[[int, int], np.ndarray]:
    """Return a function that reads the pixels (dx, dy) from the peaks; the border repeats."""
    images, joints, height, width = heatmaps.shape
    n = np.arange(images)[:, None]
    k = np.arange(joints)[None]
    x, y = peaks[..., 0].astype(int), peaks[..., 1].astype(int)

    def pixel(dx: int, dy: int) -> np.ndarray:
        columns = np.clip(x + dx, 0, width - 1)
        rows = np.clip(y + dy, 0, height - 1)
        values: np.ndarray = heatmaps[n, k, rows, columns].astype(np.float64)
        return values

    return pixel
