"""Pictures with labels from a list file or from one folder per class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import DataError
from core.settings.reading import read_lines
from core.task import Arrays, Sample, Split
from core.training.image_files import list_class_folders, list_image_files, tell_of_clutter
from core.training.images import read_image, stack
from core.training.splits import drawn_split, relative_names
from tasks.cls.class_names import class_names, folder_classes
from tasks.cls.config import AugmentConfig, Config, DataConfig
from tasks.cls.layouts import Layout, find_layout, what_lies_there
from tasks.cls.mixing import cutmix, mixup, one_hot
from tasks.cls.transforms import EvalTransform, TrainTransform

MOST_DIGITS = 9  # digits of a label


@dataclass(frozen=True)
class Items:
    """Paths and labels [N] int64 of a split."""

    paths: list[str]
    labels: np.ndarray


class ImageDataset:
    """A split; `augment` is given for training and None for evaluation.

    Samples are `image` [C, H, W] float32 and `label` int64. A batch that mixup or cutmix may touch
    has `label` [N, C] float32 instead of [N] int64.
    """

    def __init__(
        self, items: Items, num_classes: int, data: DataConfig, augment: AugmentConfig | None
    ) -> None:
        self.items = items
        self.num_classes = num_classes
        self._augment = augment
        self._channels = data.channels
        self._train_transform = TrainTransform(data, augment) if augment else None
        self._eval_transform = EvalTransform(data)

    def __len__(self) -> int:
        return len(self.items.paths)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        image = read_image(self.items.paths[index], self._channels)
        if self._train_transform is not None:
            image = self._train_transform(image, rng)
        else:
            image = self._eval_transform(image)
        return {"image": image, "label": self.items.labels[index]}

    def collate(self, samples: list[Sample], rng: np.random.Generator) -> Arrays:
        batch = stack(samples)
        augment = self._augment
        if augment is None or not (augment.mixup or augment.cutmix):
            return batch
        batch["label"] = one_hot(batch["label"], self.num_classes)
        if rng.random() >= augment.mix_probability:
            return batch
        if augment.mixup and (not augment.cutmix or rng.random() < 0.5):
            return mixup(batch, augment.mixup, rng)
        return cutmix(batch, augment.cutmix, rng)


def build_dataset(config: Config, split: Split) -> ImageDataset:
    """Open a split.

    Raises:
        DataError: A list or folder is missing, empty or contradicts the config.
    """
    data, num_classes = config.data, config.model.num_classes
    names = class_names(data)
    if names and len(names) != num_classes:
        raise DataError(
            f"{data.root}: the data has {len(names)} classes, model.num_classes is {num_classes}"
        )
    items = read_split(data, num_classes, split)
    return ImageDataset(items, num_classes, data, config.augment if split == "train" else None)


def read_split(data: DataConfig, num_classes: int, split: Split) -> Items:
    """Return the pictures of a split, from list files or folders.

    Raises:
        DataError: A list or folder is missing, empty or contradicts the config.
    """
    layout, root = find_layout(data), Path(data.root)
    if layout.kind == "none" and root.is_dir():
        raise DataError(f"data.root: {what_lies_there(data)}")
    if layout.kind in ("lists", "none"):
        listed = data.val_list if split == "val" else data.train_list
        return read_list(root / listed, root, num_classes)
    if layout.val is None:
        return _drawn_items(layout, data, split)
    return read_folders(layout.val if split == "val" else layout.train, folder_classes(layout))


def _drawn_items(layout: Layout, data: DataConfig, split: Split) -> Items:
    """Return the drawn part of each class for validation, or the rest for training."""
    every = read_folders(layout.train, folder_classes(layout))
    names, labels = relative_names(every.paths, data.root), every.labels.tolist()
    chosen = drawn_split(names, data.val_share, data.split_seed, labels) == (split == "val")
    paths = [path for path, taken in zip(every.paths, chosen) if taken]
    if not paths:
        raise DataError(f"{layout.train}: one picture of each class leaves none for validation")
    return Items(paths, every.labels[chosen])


def read_list(path: Path, root: Path, num_classes: int) -> Items:
    """Read a list file: `path label` per line, the path relative to `root`; it may hold spaces.

    Raises:
        DataError: Missing, empty, a malformed line, or a label out of range; with file and line.
    """
    paths, labels = [], []
    for number, line in read_lines(path, DataError):
        name, _, text = line.replace("\t", " ").rpartition(" ")
        if not name.strip() or not _is_integer(text):
            raise DataError(f"{path}:{number}: expected 'path label', got {line!r}")
        label = int(text)
        if not 0 <= label < num_classes:
            raise DataError(
                f"{path}:{number}: label {label} is outside 0..{num_classes - 1} "
                f"(model.num_classes is {num_classes})"
            )
        paths.append(os.path.join(root, name.strip()))
        labels.append(label)
    if not paths:
        raise DataError(f"{path}: the list is empty")
    return Items(paths, np.array(labels, np.int64))


def read_folders(folder: Path, classes: list[str]) -> Items:
    """List the pictures under `folder/<class>`, sorted; labels are places in `classes`.

    Raises:
        DataError: No such folder, no pictures, or a folder that is no known class.
    """
    paths: list[str] = []
    labels: list[int] = []
    names = list_class_folders(folder)
    tell_of_clutter(folder, (each.name for each in folder.iterdir()))
    for name in names:
        pictures = sorted(str(file) for file in list_image_files(folder / name))
        if name not in classes:
            if pictures:
                raise DataError(f"{folder / name}: no class of this name in train/")
            continue
        paths += pictures
        labels += [classes.index(name)] * len(pictures)
    if not paths:
        raise DataError(f"{folder}: no pictures in class folders")
    return Items(paths, np.array(labels, np.int64))


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and len(text) <= MOST_DIGITS
