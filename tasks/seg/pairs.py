"""Match images with their masks, or with the shapes drawn on them, by name."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from core.errors import DataError
from core.settings.reading import read_json, read_lines
from core.training.image_files import PNG, SUFFIXES, is_clutter, list_image_files
from core.training.looking import VAST
from tasks.seg import cvat
from tasks.seg.annotations import Pair
from tasks.seg.labelme import is_labelme

JSON = ".json"
LOSSY = (".jpg", ".jpeg")  # of photos, and of no masks
LOOKED_AT = 20  # files, to tell what they are
# suffixes that tools put behind the name of an image to name its mask
_SUFFIX = re.compile(r"[-_. ]?(masks?|labels?|labelids|seg|gt|segmentation|annot|json)$", re.I)


def match_pairs(folders: Pair, stems: Sequence[str] | None = None) -> list[Pair]:
    """Return the images that have a mask of their name, with it, in order of their names.

    Args:
        folders: Folders of the images and of the masks, see `Layout`.
        stems: Only these images, in this order.

    Raises:
        DataError: A folder cannot be read, or an image that is asked for, or its mask, is absent.
    """
    if stems is None and cvat.file_of(folders[1] / "x") is not None:
        return cvat.images_of(folders[1], folders[0])[0]
    masks = _labels_by_name(folders)
    images = _by_name(folders[0], set(masks.values()))
    if stems is None:
        return [(path, masks[name]) for name, path in images.items() if name in masks]
    for stem in stems:
        if stem not in images or stem not in masks:
            where = folders[1 if stem in images else 0]
            raise DataError(f"{where / stem}: listed, but there is no such file")
    return [(images[stem], masks[stem]) for stem in stems]


def without_partner(folders: Pair) -> tuple[list[str], list[str]]:
    """Return the names of the images without a mask, and of the masks without an image.

    Raises:
        DataError: A folder cannot be read.
    """
    pairs = match_pairs(folders)
    used = {path for pair in pairs for path in pair}
    alone = [path.name for path in list_image_files(folders[0]) if path not in used]
    if folders[1].is_dir():
        labels = dict.fromkeys(_labels_by_name(folders).values())
    else:
        labels = dict.fromkeys(cvat.images_of(folders[1], folders[0])[1])
    return alone, [path.name for path in labels if path not in used]


def holds_masks(folder: Path) -> bool:
    """Tell whether masks lie beside their images, and half of the images have one.

    Only the first folder with images is looked at: there may be very many.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        images = [Path(place, name) for name in files if Path(name).suffix.lower() in SUFFIXES]
        images = [path for path in images if not is_clutter(path.name)]
        if images:
            masks = _masks_among(sorted(images), folder)
            alike = [path for stem, path in masks.items() if _stem(path, folder) == stem]
            enough = bool(masks) and 3 * len(masks) >= len(images)
            return enough and all(map(_has_one_channel, alike[:LOOKED_AT]))
    return False


def holds_labelme(images: Path, labels: Path) -> bool:
    """Tell whether a folder has labelme's files for the images of another, or of its own."""
    found = _json_files(labels, VAST) if images.is_dir() and labels.is_dir() else []
    named = _by_name(images) if found else {}
    fitting = [path for path in found if _stem(path, labels) in named]
    return any(map(_is_labelme, fitting[:LOOKED_AT]))


def read_stems(path: Path) -> list[str]:
    """Read a list of VOC: the name of an image per line, or paths of image and mask (CVAT).

    Raises:
        DataError: It cannot be read.
    """
    return [_listed(line) for _, line in read_lines(path, DataError)]


def _listed(line: str) -> str:
    words = line.split()
    are_paths = len(words) == 2 and all(Path(word).suffix.lower() in SUFFIXES for word in words)
    path = Path(words[0] if are_paths else line)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name  # dots belong to names


def _by_name(folder: Path, masks: Collection[Path] = ()) -> dict[str, Path]:
    """Return the images of a folder, but for masks, by their names without endings, sorted.

    Raises:
        DataError: Two have the same name.
    """
    found: dict[str, Path] = {}
    for path in list_image_files(folder):
        if path in masks:
            continue
        other = found.setdefault(_stem(path, folder), path)
        if other is not path:
            raise DataError(f"{path}: has the name of {other.name}; the same mask fits both")
    return found


def _labels_by_name(folders: Pair) -> dict[str, Path]:
    """Return masks, and labelme's files where there is no mask, by the names of their images.

    Raises:
        DataError: Two masks fit one image.
    """
    images, folder = folders
    files = list_image_files(folder)
    found = _masks_among(files, folder) if folder == images else _masks_of(files, folders)
    for path in _json_files(folder):
        found.setdefault(_stem(path, folder), path)
    return found


def _masks_of(files: Sequence[Path], folders: Pair) -> dict[str, Path]:
    """Return the masks of a folder by the names of the images of another.

    Raises:
        DataError: Two masks fit one image.
    """
    images, folder = folders
    exact: dict[str, list[Path]] = {}
    others: dict[str, list[Path]] = {}  # without what tools put behind the names
    for path in files:
        stem = _stem(path, folder)
        exact.setdefault(stem, []).append(path)
        others.setdefault(_SUFFIX.sub("", stem), []).append(path)
    fitting = others | exact
    for name in _by_name(images) if images.is_dir() else ():
        if len(fitting.get(name, ())) > 1:
            one, other = fitting[name][:2]
            raise DataError(
                f"{other}: is a mask for {name}, and so is {one.name}; keep one of them"
            )
    return {name: paths[-1] for name, paths in fitting.items()}


def _masks_among(files: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Return masks among images by the names of theirs: 1_mask.png, or 1.png, of 1.jpg."""
    stems = {_stem(path, folder) for path in files}
    photos = {_stem(path, folder) for path in files if path.suffix.lower() in LOSSY}
    found: dict[str, Path] = {}
    for path in files:
        stem = _stem(path, folder)
        image = _SUFFIX.sub("", stem)
        if image != stem and image in stems:
            found[image] = path
        elif stem in photos and path.suffix.lower() == ".png":
            found[stem] = path
    return found


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _json_files(folder: Path, most: int | None = None) -> list[Path]:
    """Return the JSON files below a folder, sorted; of a vast one those at its beginning."""
    found: list[Path] = []
    seen = 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        json_files = [n for n in files if n.lower().endswith(JSON) and not is_clutter(n)]
        found += [Path(place, name) for name in json_files]
        seen += len(folders) + len(files)
        if most is not None and seen > most:
            break
    return sorted(found)


def _has_one_channel(png: Path) -> bool:
    """Tell whether a PNG file is grey or has a palette: other pictures are no masks."""
    try:
        with png.open("rb") as file:
            head = file.read(26)
    except OSError:  # told when it is read
        return False
    return head.startswith(PNG) and head[25:] in (b"\0", b"\3")


def _is_labelme(path: Path) -> bool:
    try:
        return is_labelme(read_json(path, DataError))
    except DataError:  # told when all of them are read
        return False
