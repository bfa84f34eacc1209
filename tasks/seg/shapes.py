"""Shapes that people draw around what they see, and the masks that they are: classes of pixels.

Coordinates are those of annotation tools: (0, 0) is the upper left corner of the image, and a pixel
belongs to a shape if its centre does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.errors import DataError
from core.settings.conversion import suggest
from core.training.images import check_size
from tasks.seg.config import DataConfig
from tasks.seg.label_maps import IGNORED

BACKGROUNDS = ("background", "bg")  # names of what no shape covers, `_background_` too
FAR = 1e6  # pixels: no image reaches so far
MOST_CROSSINGS = 1 << 24  # crossings of pixel rows and edges of a polygon
CORNERS = 256  # corners of the polygon that stands for an ellipse: off by 1e-4 of its radius
VAST = 2**31  # beyond all numbers of pixels


@dataclass(frozen=True)
class Polygon:
    """A closed outline [N, 2] (x, y); where it crosses itself, the even-odd rule holds."""

    label: str
    points: np.ndarray

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        (left, top), (right, bottom) = self.points.min(axis=0), self.points.max(axis=0)
        return float(left), float(top), float(right), float(bottom)

    def pixels(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """Return which pixels of a window belong to it, [H, W] bool."""
        return fill_polygon(self.points - (left, top), right - left, bottom - top)


@dataclass(frozen=True)
class Patch:
    """Pixels [h, w] bool, the first of them at `left` and `top`."""

    label: str
    left: int
    top: int
    inside: np.ndarray

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        height, width = self.inside.shape
        return self.left, self.top, self.left + width, self.top + height

    def pixels(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """Return which pixels of a window inside of its box belong to it, [H, W] bool."""
        rows = slice(top - self.top, bottom - self.top)
        return self.inside[rows, left - self.left : right - self.left]


Shape = Polygon | Patch


@dataclass(frozen=True)
class Annotation:
    """Shapes that were drawn on an image.

    Attributes:
        width: Width of the image.
        height: Height of the image.
        shapes: Later ones lie on top.
        flat: Kinds of shapes without area (points, lines), one for each of them; left out.
    """

    width: int
    height: int
    shapes: tuple[Shape, ...]
    flat: tuple[str, ...] = ()


def is_background(name: str) -> bool:
    """Tell whether a class of this name is the background, which no shape covers."""
    return name.strip(" _").lower() in BACKGROUNDS


def is_ignored(label: str) -> bool:
    """Tell whether pixels of this label are ignored."""
    return label.strip().lower() in IGNORED


def draw_classes(annotation: Annotation, path: str, data: DataConfig) -> np.ndarray:
    """Return the classes [H, W] of an image's pixels, uint8 or int32.

    What no shape covers is the background; without a class of that name it is ignored. Parts of
    shapes that reach out of the image are cut off.

    Args:
        annotation: Annotation of the image.
        path: Path of its file, for messages.
        data: Its `classes` are the labels in label order.

    Raises:
        DataError: A label is no class, or a shape lies outside of the image.
    """
    check_size(path, annotation.width, annotation.height)
    names = data.classes
    first = next((i for i, name in enumerate(names) if is_background(name)), data.ignore_index)
    kind = np.uint8 if max(len(names) - 1, data.ignore_index) < 256 else np.int32
    mask = np.full((annotation.height, annotation.width), first, kind)
    for number, shape in enumerate(annotation.shapes, start=1):
        where = f"{path}: shape {number} ({shape.label!r})"
        value = data.ignore_index
        if shape.label in names:
            value = names.index(shape.label)
        elif not is_ignored(shape.label):
            hint = suggest(shape.label, names)
            raise DataError(f"{where}: the label is not among data.classes{hint}")
        left, top, right, bottom = _window(shape, annotation, where)
        try:
            mask[top:bottom, left:right][shape.pixels(left, top, right, bottom)] = value
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    return mask


def ellipse(
    label: str, center: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0
) -> Polygon:
    """Return an ellipse, turned clockwise around its centre."""
    angles = np.arange(CORNERS) * (2 * math.pi / CORNERS)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii
    return Polygon(label, turned(points + center, center, degrees))


def rectangle(label: str, corners: Sequence[float], degrees: float = 0.0) -> Polygon:
    """Return a rectangle of left, top, right, bottom, turned clockwise around its centre."""
    left, top, right, bottom = corners
    points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    return Polygon(label, turned(points, ((left + right) / 2, (top + bottom) / 2), degrees))


def turned(points: np.ndarray, center: tuple[float, float], degrees: float) -> np.ndarray:
    """Return points [N, 2], turned clockwise around a centre."""
    if not degrees:
        return points
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    moved: np.ndarray = (points - center) @ np.array([[cos, sin], [-sin, cos]]) + center
    return moved


def finite(value: object, where: str) -> float:
    """Return a coordinate.

    Raises:
        DataError: It is no number, not finite, or far from any image.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and -FAR <= value <= FAR:
        return float(value)
    raise DataError(f"{where}: expected numbers up to a million, got {str(value)[:80]!r}")


def whole(value: object, where: str, least: int = 0) -> int:
    """Return a whole number.

    Raises:
        DataError: It is none, less than `least`, or vast.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < VAST:
        got = "a vast one" if isinstance(value, int) and value >= VAST else str(value)[:80]
        raise DataError(f"{where}: expected a whole number from {least} on, got {got!r}")
    return value


def fill_polygon(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return which pixels have their centre inside of a closed outline [N, 2], [H, W] bool.

    Each edge is cut with the rows of pixel centres; from each cut on to the right, inside and
    outside change places.

    Raises:
        DataError: It has too many long edges to be drawn by hand.
    """
    others = np.roll(points, -1, axis=0)
    falls = (points[:, 1] <= others[:, 1])[:, None]
    upper, lower = np.where(falls, points, others), np.where(falls, others, points)
    first, end = (_pixels_before(ends[:, 1], height) for ends in (upper, lower))
    counts = end - first  # number of rows that each edge crosses
    total = int(counts.sum())
    if total > MOST_CROSSINGS:
        raise DataError(f"a polygon of {len(points):,} points crosses {total:,} rows of pixels")
    edge = np.repeat(np.arange(len(points)), counts)
    row = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    (left, top), (right, bottom) = upper[edge].T, lower[edge].T
    x = left + (row + 0.5 - top) * (right - left) / (bottom - top)
    place = row * (width + 1) + _pixels_before(x, width)
    cuts = np.bincount(place, minlength=height * (width + 1)).reshape(height, width + 1)
    # in bytes, which may run over: odd stays odd
    inside: np.ndarray = np.cumsum(cuts[:, :width], axis=1, dtype=np.uint8) % 2 == 1
    return inside


def _pixels_before(places: np.ndarray, most: int) -> np.ndarray:
    """Return how many of `most` pixels have their centre before each place."""
    return np.clip(np.ceil(places - 0.5), 0, most).astype(np.int64)


def _window(shape: Shape, annotation: Annotation, where: str) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the part of an image that a shape lies in."""
    left, top, right, bottom = shape.box
    width, height = annotation.width, annotation.height
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise DataError(
            f"{where}: lies outside of the image, which is {width}x{height}: from "
            f"({left:g}, {top:g}) to ({right:g}, {bottom:g})"
        )
    corners = max(math.floor(left), 0), max(math.floor(top), 0)
    return (*corners, min(math.ceil(right), width), min(math.ceil(bottom), height))
