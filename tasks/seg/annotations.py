"""Shapes in place of masks, read from the files of labelme and CVAT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import DataError
from core.settings.conversion import suggest
from core.training.looking import some_of
from tasks.seg.config import DataConfig
from tasks.seg.cvat import file_of, read_cvat, read_export
from tasks.seg.label_maps import Classes, find_label_map
from tasks.seg.labelme import read_labelme
from tasks.seg.shapes import Annotation, is_background, is_ignored

Pair = tuple[Path, Path]  # image, and its mask or what was drawn on it
BACKGROUND = "background"


@dataclass
class ShapeCounts:
    """Shapes on images, counted.

    Attributes:
        shapes: How many of each label, with area.
        flat: How many of each kind have none.
        first: A file that has a label.
        broken: A line for each file that cannot be read.
    """

    shapes: Counter[str] = field(default_factory=Counter)
    flat: Counter[str] = field(default_factory=Counter)
    first: dict[str, Path] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def add(self, path: Path) -> None:
        """Read and count the shapes of an image."""
        try:
            annotation = read_annotation(path)
        except DataError as error:
            self.broken.append(str(error))
            return
        self.flat.update(annotation.flat)
        for shape in annotation.shapes:
            self.shapes[shape.label] += 1
            self.first.setdefault(shape.label, path)


def has_shapes(path: Path) -> bool:
    """Tell whether a label is shapes, not a mask."""
    return path.suffix.lower() == ".json" or file_of(path) is not None


def read_annotation(path: Path) -> Annotation:
    """Read and count the shapes of an image.

    Raises:
        DataError: It cannot be read.
    """
    return read_cvat(path) if file_of(path) is not None else read_labelme(path)


def count_shapes(paths: Sequence[Path]) -> ShapeCounts:
    """Count shapes by their labels, in all files: a label may occur in one of them only."""
    counts = ShapeCounts()
    for path in paths:
        counts.add(path)
    return counts


def classes_of_shapes(data: DataConfig, paths: Sequence[Path]) -> Classes:
    """Conclude what the classes are: `data.classes`, a label map beside the data, or the labels.

    Unless `data.classes` says otherwise, what no shape covers is a class, the first of them if no
    name says which. Labels are in the order of CVAT's project; labelme's are sorted.

    Args:
        data: Its `classes`, if given, override the labels found.
        paths: Annotation files of all images.

    Raises:
        DataError: Nothing was drawn, or a label is no class.
    """
    counts = count_shapes(paths)
    if not counts.shapes:
        nothing = f"{paths[0].parent}: no shape with an area was drawn"
        raise DataError(counts.broken[0] if counts.broken else nothing)
    label_map = find_label_map(Path(data.root))
    told = some_of([f"{name} ({count})" for name, count in counts.shapes.most_common()])
    told = f"shapes: {told}"
    names = data.classes
    if label_map is not None and not names:
        names = label_map.names
        told += f"; names come from {label_map.file}"
    elif not names:
        names = tuple(name for name in _labels(paths[0], counts) if not is_ignored(name))
    if not data.classes and not any(map(is_background, names)):
        names = (BACKGROUND, *names)
    for label, count in sorted(counts.shapes.items()):
        if label not in names and not is_ignored(label):
            raise DataError(
                f"{counts.first[label]}: the label {label!r} ({count} shapes in all) is not "
                f"among the classes{suggest(label, names)}"
            )
    if len(names) < 2:
        raise DataError(f"{paths[0].parent}: one class only: {', '.join(names)}")
    return Classes(len(names), told, names, left_out=tuple(_left_out(counts)))


def _labels(path: Path, counts: ShapeCounts) -> Sequence[str]:
    file = file_of(path)
    labels = read_export(file).labels if file is not None else ()
    return tuple(dict.fromkeys([*labels, *sorted(counts.shapes)]))


def _left_out(counts: ShapeCounts) -> Iterator[str]:
    if counts.flat:
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.flat.most_common())
        yield f"left out: shapes without area ({kinds})"
    yield from (f"cannot be read: {line}" for line in counts.broken[:5])
