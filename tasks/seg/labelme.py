"""labelme's JSON: a file for each image, with the shapes that were drawn on it."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from core.errors import DataError
from core.settings.reading import read_json
from core.training.image_files import declared_size
from core.training.images import check_size
from tasks.seg.shapes import Annotation, Patch, Polygon, Shape, ellipse, finite, rectangle, whole

FLAT = ("point", "points", "line", "linestrip")
OUTLINES = ("polygon", "rotation")  # the second is X-AnyLabeling's: a turned rectangle
KINDS = (*OUTLINES, "rectangle", "circle", "mask")


def read_labelme(path: Path) -> Annotation:
    """Read what was drawn on an image.

    Raises:
        DataError: The file is damaged, or not labelme's; names the shape.
    """
    content = read_json(path, DataError)
    if not is_labelme(content):
        raise DataError(f"{path}: expected labelme's JSON, with a list of 'shapes'")
    width, height = (
        whole(content.get(n), f"{path}: {n}", 1) for n in ("imageWidth", "imageHeight")
    )
    shapes: list[Shape] = []
    flat: list[str] = []
    for number, entry in enumerate(content["shapes"], start=1):
        where = f"{path}: shape {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
            raise DataError(f"{where}: expected a 'label' and 'points', got {str(entry)[:80]!r}")
        kind = entry.get("shape_type") or "polygon"  # early versions knew nothing else
        if kind in FLAT:
            flat.append(kind)
        else:
            shapes.append(_shape(kind, entry, f"{where} ({entry['label']!r})"))
    return Annotation(width, height, tuple(shapes), tuple(flat))


def is_labelme(content: object) -> bool:
    """Tell whether the content of a JSON file is labelme's."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def _shape(kind: str, entry: dict[str, Any], where: str) -> Shape:
    if kind not in KINDS:
        known = ", ".join((*KINDS, *FLAT))
        raise DataError(f"{where}: shape_type: expected one of {known}; got {str(kind)[:80]!r}")
    label, points = entry["label"], _points(entry.get("points"), where)
    if kind == "rectangle" and len(points) > 2:  # all four corners, in other versions
        kind = "polygon"
    wanted = "3 points or more" if kind in OUTLINES else "2 points"
    if len(points) < 3 if kind in OUTLINES else len(points) != 2:
        raise DataError(f"{where}: a {kind} of {len(points)} points, expected {wanted}")
    if kind in OUTLINES:
        return Polygon(label, points)
    (x, y), (other_x, other_y) = points.tolist()
    if kind == "circle":  # its centre, and a point on it
        radius = math.hypot(other_x - x, other_y - y)
        return ellipse(label, (x, y), (radius, radius))
    if kind == "mask":
        return Patch(label, round(x), round(y), _pixels(entry.get("mask"), f"{where}: mask"))
    return rectangle(label, (x, y, other_x, other_y))


def _points(values: object, where: str) -> np.ndarray:
    """Return points as [N, 2] float64."""
    pairs = values if isinstance(values, list) else [values]
    read = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"{where}: points: expected pairs of numbers, got {str(pair)[:80]!r}")
        read.append([finite(value, f"{where}: points") for value in pair])
    return np.array(read, np.float64).reshape(-1, 2)


def _pixels(text: object, where: str) -> np.ndarray:
    """Return the pixels [h, w] bool of a PNG in base64."""
    wanted = f"{where}: expected a PNG file in base64"
    try:
        content = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except ValueError as error:
        raise DataError(f"{wanted}, got {str(text)[:80]!r}") from error
    size = declared_size(content)
    if size is None:
        raise DataError(f"{wanted}, got {str(text)[:80]!r}")
    check_size(where, *size)
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise DataError(f"{where}: the PNG file is damaged")
    inside: np.ndarray = image > 0
    return inside
