"""CVAT's export "CVAT for images 1.1": one `annotations.xml` with the shapes on all images.

The label of an image is named `annotations.xml/NAME`, after the name that the image has in CVAT,
or `annotations.xml/SUBSET/NAME`: names of a project are those of several tasks.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from core.errors import DataError
from core.settings.reading import read_text
from core.training.image_files import list_image_files
from core.training.images import check_size
from tasks.seg.shapes import Annotation, Patch, Polygon, Shape, ellipse, finite, rectangle, whole

FILE = "annotations.xml"
FLAT = ("polyline", "points", "tag", "skeleton", "cuboid")
KINDS = ("polygon", "box", "ellipse", "mask")
WANTED = "expected an export 'CVAT for images 1.1'"


@dataclass(frozen=True)
class Export:
    """Labels of a project in its order, and its `image` elements by name."""

    labels: tuple[str, ...]
    images: Mapping[str, Element]


def read_export(file: Path) -> Export:
    """Read an export; what is read once is kept as long as the file does not change.

    Raises:
        DataError: It is damaged, or something else.
    """
    try:
        state = file.stat()
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    return _parse(str(file), state.st_mtime_ns, state.st_size)


def read_cvat(path: Path) -> Annotation:
    """Read what was drawn on an image, of `annotations.xml/NAME`.

    Raises:
        DataError: The file is damaged, or has no such image; names the shape.
    """
    file = file_of(path)
    assert file is not None  # who asks has looked
    image = read_export(file).images.get(path.relative_to(file).as_posix())
    if image is None:
        raise DataError(f"{path}: {file.name} has no image of this name")
    width, height = (whole(_number(image, n), f"{path}: {n}", 1) for n in ("width", "height"))
    shapes: list[tuple[float, Shape]] = []
    for number, element in enumerate(image, start=1):
        if element.tag in FLAT:
            continue
        where = f"{path}: shape {number} ({element.get('label')!r})"
        order = finite(_number(element, "z_order", "0"), f"{where}: z_order")
        shapes.append((order, _shape(element, where)))
    ordered = sorted(shapes, key=lambda each: each[0])  # keeps the order of equals
    flat = tuple(element.tag for element in image if element.tag in FLAT)
    return Annotation(width, height, tuple(shape for _, shape in ordered), flat)


def file_of(path: Path) -> Path | None:
    """Return the export that a label's path is in; None if it is no such path."""
    return next((above for above in path.parents if above.suffix.lower() == ".xml"), None)


def images_of(file: Path, folder: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """Return the images in a folder, each with its label, and the labels without an image.

    The folder may have the images below their names in CVAT, below the name of their subset, or
    anywhere, if no two have the same name. One that is named after a subset has its images alone.
    Images on which nothing was drawn have no label: CVAT lists those too at which nobody has
    looked yet.

    Raises:
        DataError: The export or the folder cannot be read.
    """
    every = read_export(file).images
    drawn = {key: image for key, image in every.items() if len(image)}
    if folder.name in {image.get("subset") for image in every.values()}:
        drawn = {key: each for key, each in drawn.items() if each.get("subset") == folder.name}
    there = {path.relative_to(folder).as_posix(): path for path in list_image_files(folder)}
    count, asked = (Counter(Path(name).name for name in names) for names in (there, drawn))
    named = {path.name: path for path in there.values()}
    pairs, missing = [], []
    for key, image in drawn.items():
        found = there.get(key) or there.get(image.get("name", ""))
        base = Path(key).name
        if found is None and count[base] == asked[base] == 1:
            found = named[base]
        if found is None:
            missing.append(file / key)
        else:
            pairs.append((found, file / key))
    return sorted(pairs), missing


@functools.lru_cache(maxsize=4)  # training and validation, each with its file; workers inherit it
def _parse(file: str, changed: int, size: int) -> Export:
    text = read_text(file, DataError)
    if "<!DOCTYPE" in text:  # entities grow without end, or read other files; CVAT writes none
        raise DataError(f"{file}: has a document type definition; {WANTED}, which has none")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{file}: not XML that can be read: {error}") from error
    if root.tag == "annotations" and root.find("track") is not None:
        raise DataError(f"{file}: an export of CVAT for video; {WANTED}")
    images: dict[str, Element] = {}
    for image in root.iterfind("image"):
        key = "/".join(filter(None, (image.get("subset"), image.get("name"))))
        if key in images:
            raise DataError(f"{file}: has two images with the name {key!r}")
        images[key] = image
    if root.tag != "annotations" or not images:
        raise DataError(f"{file}: {WANTED}: 'annotations' with 'image' elements")
    known = [
        each for each in root.iterfind("meta//labels/label") if each.findtext("type") not in FLAT
    ]
    drawn = {e.get("label", "") for image in images.values() for e in image if e.tag in KINDS}
    labels = dict.fromkeys([*(each.findtext("name", "") for each in known), *sorted(drawn)])
    return Export(tuple(labels), MappingProxyType(images))


def _shape(element: Element, where: str) -> Shape:
    label = element.get("label")
    if label is None or element.tag not in KINDS:
        known = ", ".join((*KINDS, *FLAT))
        raise DataError(f"{where}: expected one of {known} with a label, got {element.tag[:80]!r}")
    if element.tag == "polygon":
        return Polygon(label, _points(element.get("points", ""), where))
    if element.tag == "mask":
        return _patch(label, element, where)

    def value(name: str, default: str = "") -> float:
        return finite(_number(element, name, default), f"{where}: {name}")

    turn = value("rotation", "0")
    if element.tag == "ellipse":
        return ellipse(label, (value("cx"), value("cy")), (value("rx"), value("ry")), turn)
    corners = [value(name) for name in ("xtl", "ytl", "xbr", "ybr")]
    return rectangle(label, corners, turn)


def _number(element: Element, name: str, default: str = "") -> int | float | str:
    """Return an attribute as a number if it is one, else as it stands."""
    return _read_number(element.get(name, default))


def _read_number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _points(text: str, where: str) -> np.ndarray:
    """Return the points [N, 2] of `x,y;x,y;x,y`."""
    pairs = [pair.split(",") for pair in text.split(";")]
    if len(pairs) < 3 or any(len(pair) != 2 for pair in pairs):
        raise DataError(f"{where}: points: expected 3 or more 'x,y;x,y', got {text[:80]!r}")
    values = [[finite(_read_number(each), f"{where}: points") for each in pair] for pair in pairs]
    return np.array(values, np.float64)


def _patch(label: str, element: Element, where: str) -> Patch:
    """Return a mask, given as lengths of runs over its rows, outside and inside by turns."""
    sizes = {n: _number(element, n) for n in ("left", "top", "width", "height")}
    left, top = (whole(sizes[name], f"{where}: {name}", -(1 << 20)) for name in ("left", "top"))
    width, height = (whole(sizes[name], f"{where}: {name}", 1) for name in ("width", "height"))
    check_size(where, width, height)
    texts = element.get("rle", "").split(",")
    runs = [whole(_read_number(text), f"{where}: rle") for text in texts]
    if sum(runs) != width * height:
        raise DataError(
            f"{where}: rle: runs of {sum(runs)} pixels in all, expected {width}x{height}"
        )
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return Patch(label, left, top, inside.reshape(height, width))
