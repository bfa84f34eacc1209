"""Images with label maps from PaddleSeg's list files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.errors import DataError
from core.settings.reading import read_lines
from core.task import Arrays, Sample, Split
from core.training.images import read_annotated_image, read_image, stack
from core.training.looking import some_of
from core.training.splits import drawn_split, relative_names
from tasks.seg import transforms
from tasks.seg.config import Config, DataConfig
from tasks.seg.labels import check_classes, check_values, read_mask
from tasks.seg.layouts import find_layout, what_lies_there
from tasks.seg.pairs import match_pairs, read_stems, without_partner


class SegDataset:
    """One split. A training sample is `image` and `label` of the crop's size.

    Another sample keeps the label's own size and says both sizes as (height, width) in
    `image_size` and `label_size`, since a batch fills smaller maps up to the largest.
    """

    def __init__(self, config: Config, split: Split) -> None:
        self.config = config
        self.training = split == "train"
        data = config.data
        self.pairs = read_pairs(data, split)
        label_paths = [label for _, label in self.pairs]
        check_classes(label_paths, config.class_names, data)
        augment = config.augment
        self.only_shape: tuple[int, ...] | None = None  # the only shape that training images have
        if self.training and augment.crop is None and augment.resize is None:
            self.only_shape = self._first_shape()

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        image_path, label_path = self.pairs[index]
        data = self.config.data
        label = read_mask(str(label_path), data)
        size = label.shape[1], label.shape[0]
        told_by = f"the label map {label_path.name}"
        image = read_annotated_image(str(image_path), size, told_by, data.channels)
        check_values(label, label_path, self.config.model.num_classes, data.ignore_index)
        if not self.training:
            return evaluation_sample(image, data) | {
                "label": label,
                "label_size": np.array(label.shape, np.int64),
            }
        if self.only_shape is not None and image.shape != self.only_shape:
            raise DataError(
                f"{image_path}: the image is {image.shape[1]}x{image.shape[0]}, the first of the "
                f"list {self.only_shape[1]}x{self.only_shape[0]}; batches have one size: set "
                "augment.crop or augment.resize"
            )
        augment = self.config.augment
        image, label, mirrored = transforms.augment(image, label, augment, rng)
        size = augment.crop or (image.shape[1], image.shape[0])
        planes = transforms.normalize(image, data.mean, data.std)
        return {
            "image": transforms.pad(planes, size, 0.0, mirrored),
            "label": transforms.pad(label, size, data.ignore_index, mirrored),
        }

    def _first_shape(self) -> tuple[int, ...] | None:
        """Return the first image's shape; where broken ones are skipped, the first whole one's."""
        for image_path, _ in self.pairs:
            try:
                return read_image(str(image_path), self.config.data.channels).shape
            except DataError:
                if self.config.data.on_error == "fail":
                    raise
        return None  # the loader says that none can be read

    def collate(self, samples: list[Sample], rng: np.random.Generator) -> Arrays:
        if not self.training:
            samples = [dict(sample) for sample in samples]
            _fill_up(samples, "image", 0.0)
            _fill_up(samples, "label", self.config.data.ignore_index)
        return stack(samples)


def evaluation_sample(image: np.ndarray, data: DataConfig) -> Sample:
    """Prepare an image [H, W, C] as evaluation, prediction and calibration see it."""
    if data.size is not None:
        image = transforms.resize(image, data.size)
    return {
        "image": transforms.normalize(image, data.mean, data.std),
        "image_size": np.array(image.shape[:2], np.int64),
    }


def read_pairs(data: DataConfig, split: Split) -> list[tuple[Path, Path]]:
    """Return the images of a split with their masks, from lists or from folders.

    Raises:
        DataError: There are none, or a list is malformed.
    """
    layout, val = find_layout(data), split == "val"
    if layout.kind == "none" and Path(data.root).is_dir():
        raise DataError(f"data.root: {what_lies_there(data)}")
    if layout.kind in ("lists", "none"):
        return read_list(data, data.val_list if val else data.train_list)
    folders = layout.val if val and layout.val is not None else layout.train
    assert folders is not None  # every other kind has folders
    listed = layout.lists[val] or layout.lists[0]
    pairs = match_pairs(folders, read_stems(listed) if listed else None)
    if layout.is_drawn:
        names = relative_names([str(image) for image, _ in pairs], data.root)
        chosen = drawn_split(names, data.val_share, data.split_seed)
        pairs = [pair for pair, taken in zip(pairs, chosen) if taken == val]
    if not pairs:
        images, masks = (some_of(names, 3) or "none" for names in without_partner(folders))
        raise DataError(
            f"{folders[0]}: no image with a mask of the same name in {folders[1]} "
            f"(images: {images}; masks: {masks})"
        )
    return pairs


def read_list(data: DataConfig, name: str) -> list[tuple[Path, Path]]:
    """Read the pairs of image and label paths from a list file.

    Raises:
        DataError: The list is absent or empty, or a line (named) has not two paths.
    """
    root = Path(data.root)
    path = root / name
    pairs = []
    for number, line in read_lines(path, DataError):
        parts = [part.strip() for part in line.split(data.separator)]
        if len(parts) != 2 or not all(parts):
            raise DataError(
                f"{path}:{number}: expected an image and a label map separated by "
                f"{data.separator!r} (data.separator), got {line[:200]!r}"
            )
        pairs.append((root / parts[0], root / parts[1]))
    if not pairs:
        raise DataError(f"{path}: the list of images is empty")
    return pairs


def _fill_up(samples: list[Sample], key: str, value: float) -> None:
    height = max(sample[key].shape[-2] for sample in samples)
    width = max(sample[key].shape[-1] for sample in samples)
    for sample in samples:
        sample[key] = transforms.pad(sample[key], (width, height), value)
