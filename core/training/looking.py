"""Look at image files: how many there are, how large, and which are broken."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import DataError
from core.settings.reading import read_bytes
from core.training.image_files import SUFFIXES, declared_size, is_clutter, list_class_folders
from core.training.images import read_image

LOOKED_AT = 200  # files, spread over all
VAST = 5_000  # entries below a folder


@dataclass(frozen=True)
class ImageSizes:
    """Sizes [N, 2] int64 (width, height) of the inspected files, and errors of broken ones."""

    sizes: np.ndarray
    broken: tuple[str, ...]

    @property
    def median(self) -> tuple[int, int]:
        """Width and height in the middle."""
        width, height = np.median(self.sizes, axis=0).astype(int).tolist()
        return width, height

    def in_words(self) -> str:
        """Say the sizes in a few words."""
        if not len(self.sizes):
            return "no picture can be read"
        order = np.argsort(self.sizes.prod(axis=1), kind="stable")
        least, most = self.sizes[order[0]], self.sizes[order[-1]]
        smallest = f"{least[0]}x{least[1]}"
        if (least == most).all():
            return f"all pictures are {smallest}"
        return f"pictures are {smallest} to {most[0]}x{most[1]}"


def spread(paths: Sequence[str], most: int = LOOKED_AT) -> list[str]:
    """Return at most so many of the paths, evenly spread."""
    count = min(len(paths), most)
    return [paths[index * len(paths) // count] for index in range(count)]


def look_at_images(paths: Sequence[str], whole: bool = False) -> ImageSizes:
    """Read sizes from some of the files; `whole` also decodes them, to find broken ones."""
    sizes, broken = [], []
    for path in spread(paths):
        try:
            size = None if whole else size_of(path)
            if size is None:
                height, width = read_image(path).shape[:2]
                size = width, height
        except DataError as error:
            broken.append(str(error))
            continue
        sizes.append(size)
    return ImageSizes(np.array(sizes, np.int64).reshape(-1, 2), tuple(broken))


def size_of(path: str) -> tuple[int, int] | None:
    """Return width and height that a file says it has, None for kinds that must be decoded.

    Raises:
        DataError: It cannot be read.
    """
    return declared_size(read_bytes(path, DataError))


def folder_in_words(folder: Path) -> str:
    """List the content of a folder: its folders, and its files counted by kind."""
    if not folder.is_dir():
        return f"{folder}: no such folder"
    names = list_class_folders(folder)
    files = Counter(file.suffix.lower() or file.name for file in files_in(folder))
    folders = f"folders {some_of(names)}" if names else "no folders"
    kinds = some_of([f"{count} {kind}" for kind, count in files.most_common()])
    return f"{folder} holds {folders} and " + (f"files: {kinds}" if files else "no files")


def find_folder(root: Path, names: Sequence[str]) -> Path | None:
    """Return the folder in a folder that has the first of these names, also in capitals.

    A name written as it stands here is preferred: `train` to `Train`.
    """
    for name in names:
        if (root / name).is_dir():
            return root / name
    try:
        with os.scandir(root) as entries:
            found = {entry.name.lower(): entry.name for entry in entries if entry.is_dir()}
    except (OSError, ValueError):  # no folder, or a name that none can have
        return None
    return next((root / found[name.lower()] for name in names if name.lower() in found), None)


def files_in(folder: Path, suffixes: Sequence[str] = ()) -> list[Path]:
    """Return the files in a folder, with one of these endings if any are named, sorted.

    Raises:
        DataError: It cannot be read.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    fitting = [e for e in entries if not suffixes or e.suffix.lower() in suffixes]
    return [entry for entry in fitting if entry.is_file() and not is_clutter(entry.name)]


def holds_images(folder: Path) -> bool:
    """Tell whether there are images below a folder, at the beginning of it if it is vast."""
    seen = 0
    for _, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        if any(Path(name).suffix.lower() in SUFFIXES and not is_clutter(name) for name in files):
            return True
        seen += len(folders) + len(files)
        if seen > VAST:
            return False
    return False


def some_of(words: Sequence[str], most: int = 8) -> str:
    """Return the first words with commas between, and how many there are more."""
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")
