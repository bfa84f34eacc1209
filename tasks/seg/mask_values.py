"""Look at the values of masks, numbers, grey levels or colours, to find the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.errors import DataError
from core.training.images import read_image
from core.training.looking import some_of, spread
from tasks.seg.config import Color
from tasks.seg.label_maps import Classes, LabelMap
from tasks.seg.labels import read_label

MOST_COLORS = 256  # with more of them, a mask was stretched or saved as JPEG
JPEG = (".jpg", ".jpeg")
# levels between black and white that a mask with soft edges has, and the share of the rest
SOFT = (slice(16, 64), slice(64, 128), slice(128, 192), slice(192, 240))
ENDS = 0.9
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
COLORED = "masks are in colours"


@dataclass
class MaskValues:
    """Values that occur in masks.

    Attributes:
        numbers: Values of masks with one channel.
        colors: Colours of all masks, seen as RGB.
        broken: A line for each mask that cannot be read.
        looked_at: How many were read.
        colored: A mask with three channels.
        jpeg: A mask in a JPEG file, which does not keep its values.
        levels: Pixels [256] of each level of red, of all masks.
    """

    numbers: set[int] = field(default_factory=set)
    colors: set[Color] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    looked_at: int = 0
    colored: Path | None = None
    jpeg: Path | None = None
    levels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))

    def add(self, path: Path) -> None:
        """Read a mask, as numbers and as colours."""
        try:
            image = read_image(str(path)).reshape(-1, 3)
            codes = image.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
            found = np.unique(codes).tolist()
        except DataError as error:
            self.broken.append(str(error))
            return
        self.looked_at += 1
        self.levels += np.bincount(image[:, 0], minlength=256)
        if path.suffix.lower() in JPEG:
            self.jpeg = path
        self.colors |= {(code >> 16, code >> 8 & 255, code & 255) for code in found}
        try:
            self.numbers |= set(np.unique(read_label(str(path))).tolist())
        except DataError:  # three channels
            self.colored = path

    @property
    def is_grey(self) -> bool:
        """Whether all colours are shades of grey."""
        return all(red == green == blue for red, green, blue in self.colors)

    @property
    def is_soft(self) -> bool:
        """Whether all is about black or white, but for edges, in shades of grey unless in JPEG."""
        dark, bright = self.levels[: SOFT[0].start].sum(), self.levels[SOFT[-1].stop :].sum()
        between = self.jpeg is not None or all(self.levels[part].any() for part in SOFT)
        enough = bright > 0 and dark + bright >= ENDS * self.levels.sum()
        return self.is_grey and between and bool(enough)


def look_at_masks(paths: Sequence[Path]) -> MaskValues:
    """Read some of the masks, spread over all."""
    values = MaskValues()
    for path in spread([str(path) for path in paths]):
        values.add(Path(path))
    return values


def find_classes(
    values: MaskValues, label_map: LabelMap | None, ignore_index: int, nearest: bool = False
) -> Classes:
    """Conclude from masks and label map what the classes are.

    Args:
        values: What occurs in the masks.
        label_map: Label map beside them, if there is one.
        ignore_index: Number that is no class.
        nearest: Whether colours that the label map does not have are those nearest to them.

    Raises:
        DataError: It cannot be concluded; the message says what occurs.
    """
    if not values.looked_at:
        broken = values.broken[0] if values.broken else "there are no masks"
        raise DataError(f"no mask can be read: {broken}")
    if label_map is not None and label_map.colors:
        found = _by_colors(values, label_map, ignore_index, nearest)
        if found is not None:
            return found
    if values.colored is not None and not values.is_grey:
        raise DataError(_without_map(values))
    if values.colors == {BLACK, WHITE} and values.numbers <= {0, 255}:
        told = "masks are black and white: 0 is background, 255 foreground"
        return Classes(2, told, ("background", "foreground"), (BLACK, WHITE))
    if values.is_soft:
        told = "masks are black and white with soft edges: below 128 is background"
        return Classes(2, told, ("background", "foreground"), (BLACK, WHITE), nearest=True)
    if values.jpeg is not None:
        raise DataError(
            f"{values.jpeg.name}: JPEG files do not keep the numbers of masks; save PNG"
        )
    numbers = values.numbers
    if values.colored is not None:  # numbers, saved with three equal channels
        numbers = {red for red, _, _ in values.colors}
    return _by_numbers(values, sorted(numbers - {ignore_index}), label_map, ignore_index)


def _by_colors(
    values: MaskValues, label_map: LabelMap, ignore_index: int, nearest: bool
) -> Classes | None:
    known = {*label_map.colors, *label_map.ignored}
    names = label_map.names
    if nearest or values.colors <= known:
        told = f"{COLORED}, names come from {label_map.file}"
        return Classes(len(names), told, names, label_map.colors, label_map.ignored)
    if values.colored is None and values.numbers - {ignore_index} <= set(range(len(names))):
        return None  # numbers after all; the names count
    others = sorted(values.colors - known)
    many = values.jpeg is not None or len(values.colors) > MOST_COLORS
    hint = "; JPEG and resizing change colours: data.nearest_color: true takes the nearest"
    raise DataError(
        f"{label_map.file}: has no line for the colours {_listed(others)}, which occur in the masks"
        f"{hint if many else ''}"
    )


def _by_numbers(
    values: MaskValues, numbers: list[int], label_map: LabelMap | None, ignore_index: int
) -> Classes:
    highest = numbers[-1] if numbers else 0
    names = label_map.names if label_map is not None else ()
    if names and highest >= len(names):
        raise DataError(
            f"{label_map.file if label_map else ''}: names {len(names)} classes, and the masks "
            f"have the number {highest}"
        )
    count = len(names) or highest + 1
    if count < 2:
        raise DataError(f"masks hold nothing but {numbers} and {ignore_index}: one class only")
    told = f"masks hold the numbers {some_of([str(n) for n in numbers])}"
    colors: tuple[Color, ...] = ()
    ignored: tuple[Color, ...] = ()
    if values.colored is not None:
        colors = tuple((n, n, n) for n in range(count))
        ignored = ((ignore_index,) * 3,) if 255 >= ignore_index >= count else ()
        told += ", in three equal channels"
    if names and label_map is not None:
        told += f", names come from {label_map.file}"
    return Classes(count, told, names, colors, ignored)


def _without_map(values: MaskValues) -> str:
    if len(values.colors) > MOST_COLORS:
        return (
            f"masks have {len(values.colors)} colours, as pictures and masks saved as JPEG have; "
            "expected PNG files with a colour, or a number, for each class"
        )
    return (
        f"{COLORED} ({_listed(sorted(values.colors))}), and no label map says which class each is; "
        "put a labelmap.txt beside them with a line 'name:red,green,blue' for each"
    )


def _listed(colors: Sequence[Color]) -> str:
    return some_of([",".join(map(str, color)) for color in colors])
