"""How pictures with classes lie in a folder: list files, or one folder for each class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.training.image_files import list_class_folders
from core.training.looking import files_in, find_folder, folder_in_words, holds_images
from tasks.cls.config import DataConfig

TRAIN = ("train", "training")
VAL = ("val", "valid", "validation", "test", "testing")
LEAST_CLASSES = 2
Kind = Literal["lists", "folders", "flat", "none"]


@dataclass(frozen=True)
class Layout:
    """Where the splits are.

    Attributes:
        kind: `lists`, `folders` (train/<class>, perhaps val/<class>), `flat` (<class>), or `none`.
        train: Folder of the class folders for training.
        val: Likewise for validation; None: a part of those for training is drawn.
    """

    kind: Kind
    train: Path
    val: Path | None = None


def find_layout(data: DataConfig) -> Layout:
    """Look for the splits; list files take precedence over folders.

    Raises:
        DataError: A folder cannot be read.
    """
    root = Path(data.root)
    if any((root / name).is_file() for name in (data.train_list, data.val_list)):
        return Layout("lists", root)
    train, val = find_folder(root, TRAIN), find_folder(root, VAL)
    if train is not None:
        return Layout("folders", train, val)
    if val is not None:
        return Layout("folders", root / TRAIN[0], val)
    if root.is_dir() and len(flat_classes(root)) >= LEAST_CLASSES:
        return Layout("flat", root)
    return Layout("none", root)


def flat_classes(root: Path) -> list[str]:
    """Return the folders in a folder that hold pictures, sorted.

    Raises:
        DataError: It cannot be read.
    """
    return [name for name in list_class_folders(root) if holds_images(root / name)]


def what_lies_there(data: DataConfig) -> str:
    """Say what was found in place of list files and class folders, and what was wanted.

    Raises:
        DataError: A folder cannot be read.
    """
    root = Path(data.root)
    inside = [name for name in list_class_folders(root) if _has_layout(root / name)]
    hint = f"; {root / inside[0]} has: make that data.root" if len(inside) == 1 else ""
    tables = files_in(root, (".csv",)) if root.is_dir() else []
    if tables:
        hint += (
            f"; {tables[0].name} is not read: write its rows as such lines, with a number as label"
        )
    return (
        f"{folder_in_words(root)}; for classification expected {data.train_list} and "
        f"{data.val_list} (lines 'path label'), or train/CLASS/*.jpg with or without "
        f"val/CLASS/*.jpg, or CLASS/*.jpg of at least {LEAST_CLASSES} classes{hint}"
    )


def _has_layout(folder: Path) -> bool:
    return find_layout(DataConfig(str(folder))).kind != "none"
