"""Match images with their masks, or with the shapes drawn on them, by name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from core.errors import DataError
from core.settings.reading import read_json, read_lines
from core.training.image_files import is_clutter, list_image_files
from core.training.looking import VAST
from tasks.seg import cvat
from tasks.seg.annotations import Pair
from tasks.seg.labelme import is_labelme

JSON = ".json"
LOOKED_AT = 20  # JSON files, to tell whose they are
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
    images, masks = _by_name(folders[0]), _labels_by_name(folders)
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
    return [Path(line.split()[0]).stem for _, line in read_lines(path, DataError)]


def _by_name(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by their names without endings, sorted.

    Raises:
        DataError: Two have the same name.
    """
    found: dict[str, Path] = {}
    for path in list_image_files(folder):
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
    exact: dict[str, list[Path]] = {}
    others: dict[str, list[Path]] = {}  # without what tools put behind the names
    for path in list_image_files(folder) if folder != images else []:
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
    found = {name: paths[-1] for name, paths in fitting.items()}
    for path in _json_files(folder):
        found.setdefault(_stem(path, folder), path)
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


def _is_labelme(path: Path) -> bool:
    try:
        return is_labelme(read_json(path, DataError))
    except DataError:  # told when all of them are read
        return False
