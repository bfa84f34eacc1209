"""Label maps: files of class numbers, and whether a set of them can be learnt from."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from core.errors import DataError
from core.settings.reading import read_bytes
from core.settings.told_once import ONCE
from core.training.image_files import PNG, declared_size, is_whole
from core.training.images import check_size, read_image
from tasks.seg.annotations import has_shapes, read_annotation
from tasks.seg.config import Color, DataConfig
from tasks.seg.shapes import draw_classes

GREY = 0  # colour type of PNG
LOOKED_AT = 50  # label maps, where two classes were found in them
MUCH_IGNORED = 0.05  # share of the pixels
log = logging.getLogger(__name__)


def read_label(path: str) -> np.ndarray:
    """Read a label map [H, W], exactly the stored indices: uint8, or int32 for other files.

    Raises:
        DataError: Missing or broken, or an image with colours or fractions in place of indices.
    """
    content = read_bytes(path, DataError)
    check_size(path, *(declared_size(content) or (0, 0)))
    if content.startswith(PNG) and content[25:26] == bytes([GREY]):
        label = _decode_grey(content)
    else:
        label = _decode_indices(content, path)
    if label is None or not label.size or not is_whole(content):
        raise DataError(f"{path}: the label map is broken or truncated")
    if label.ndim != 2:
        raise DataError(
            f"{path}: expected a label map with one channel, got {label.shape[2]} (colours?)"
        )
    if label.dtype.kind not in "ui":
        raise DataError(f"{path}: expected whole numbers as labels, got {label.dtype.name}")
    if label.dtype == np.uint8:
        return label
    limits = np.iinfo(np.int32)
    for value in (int(label.min()), int(label.max())):
        if not limits.min <= value <= limits.max:
            raise DataError(f"{path}: label value {value}: expected the number of a class")
    return label.astype(np.int32)


def read_mask(path: str, data: DataConfig) -> np.ndarray:
    """Read the classes [H, W] of a mask: its numbers, by `data.colors`, or from drawn shapes.

    Raises:
        DataError: As `read_label`; or a colour, or a label, belongs to no class.
    """
    if has_shapes(Path(path)):
        return draw_classes(read_annotation(Path(path)), path, data)
    if not data.colors:
        return read_label(path)
    image = read_image(path).astype(np.int32)
    codes = (image[..., 0] << 16) | (image[..., 1] << 8) | image[..., 2]
    every = [*data.colors, *data.ignored_colors]
    known = np.array([(red << 16) | (green << 8) | blue for red, green, blue in every])
    labels = np.full(len(every), data.ignore_index, np.int32)
    labels[: len(data.colors)] = np.arange(len(data.colors))
    order = np.argsort(known)
    places = np.minimum(np.searchsorted(known[order], codes), len(every) - 1)
    wrong = known[order][places] != codes
    if wrong.any() and not data.nearest_color:
        color = image[wrong][0].tolist()
        count = int(np.count_nonzero(wrong))
        raise DataError(
            f"{path}: the colour {color} of {count} pixels belongs to no class; give each colour "
            "of the masks in data.colors, or in data.ignored_colors"
        )
    chosen = order[places]
    chosen[wrong] = _nearest(image[wrong], every)
    label = labels[chosen]
    small: np.ndarray = label.astype(np.uint8) if label.max() < 256 else label
    return small


def _nearest(found: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
    """Return for each colour [N, 3] int32 which of some others is nearest to it."""
    distances = [((found - np.array(color)) ** 2).sum(axis=1) for color in colors]
    nearest: np.ndarray = np.argmin(distances, axis=0)
    return nearest


def check_values(label: np.ndarray, path: Path, num_classes: int, ignore_index: int) -> None:
    """Refuse a label value, in a map [H, W], that is neither a class nor the ignored one.

    Raises:
        DataError: Names the file and the value.
    """
    if int(label.min()) >= 0 and int(label.max()) < num_classes:
        return
    wrong = ((label < 0) | (label >= num_classes)) & (label != ignore_index)
    if wrong.any():
        raise DataError(
            f"{path}: label value {int(label[wrong][0])}: expected 0..{num_classes - 1} "
            f"(model.num_classes) or {ignore_index} (data.ignore_index)"
        )


def check_classes(paths: Sequence[Path], names: Sequence[str], data: DataConfig) -> None:
    """Refuse label maps in which one class alone occurs, or nothing: they teach nothing.

    Neither do masks of 0 and 255, in which 255 is meant as a class, and is ignored. Maps are looked
    at until each class was seen, all of them only where there is one class so far. That classes are
    missing from those that were looked at while much is ignored is warned of.

    Raises:
        DataError: Names the class.
    """
    counts = np.zeros(len(names), np.int64)
    ignore_index = data.ignore_index
    ignored = total = looked_at = 0
    for path in _spread(paths):
        try:
            label = read_mask(str(path), data)
        except DataError:  # told when it is its turn, and `on_error` may skip it
            continue
        inside = label[(label >= 0) & (label < len(counts))]
        counts += np.bincount(inside, minlength=len(counts))
        ignored += int(np.count_nonzero(label == ignore_index))
        total += label.size
        looked_at += 1
        occurring = int(np.count_nonzero(counts))
        if occurring == len(counts) or (looked_at >= LOOKED_AT and occurring > 1):
            break
    seen = [name for name, count in zip(names, counts) if count]
    if total and len(seen) <= 1 < len(names):
        are = [f"of class {name!r}" for name in seen]
        are += [f"ignored (data.ignore_index {ignore_index})"] if ignored else []
        raise DataError(
            f"{paths[0].parent}: every pixel of all {looked_at} label maps is {' or '.join(are)}: "
            "there is nothing to tell apart; masks of 0 and 255 must be written as 0 and 1, or be "
            "named: data.colors: [[0,0,0], [255,255,255]]"
        )
    missing = [name for name, count in zip(names, counts) if not count]
    if missing and total and ignored > MUCH_IGNORED * total:
        log.warning(
            "%s: %d label maps were looked at; none has the classes %s, and %.0f %% of the pixels "
            "are ignored (data.ignore_index %d)",
            *(paths[0].parent, looked_at, ", ".join(missing[:10]), 100 * ignored / total),
            ignore_index,
            extra=ONCE,
        )


def _spread(paths: Sequence[Path]) -> list[Path]:
    """Return all paths, first some from the whole list, for neighbours are alike."""
    step = max(len(paths) // LOOKED_AT, 1)
    return [path for start in range(step) for path in paths[start::step]]


def _decode_grey(content: bytes) -> np.ndarray | None:
    try:
        array = np.frombuffer(content, np.uint8)
        label: np.ndarray | None = cv2.imdecode(array, cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError):  # larger than OpenCV takes
        return None
    bits = content[24]
    if label is not None and bits < 8:
        label = label // np.uint8(255 // (2**bits - 1))  # OpenCV stretches to 0..255
    return label


def _decode_indices(content: bytes, path: str) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(content)) as image:
            pages = getattr(image, "n_frames", 1)
            array = np.asarray(image)
    except Exception:  # noqa: BLE001 - Pillow raises whatever a damaged file leads it to
        return None
    if pages > 1:
        raise DataError(f"{path}: holds {pages} pages, and a label map is one")
    if array.dtype == bool:
        array = array.astype(np.uint8)
    return array
