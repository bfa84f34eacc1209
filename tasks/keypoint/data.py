"""A split of a COCO keypoint data set: one sample is one person, cut out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.errors import DataError
from core.task import Arrays, Sample, Split
from core.training.images import read_annotated_image, stack
from core.training.splits import drawn_split
from tasks.keypoint.annotations import (
    Annotations,
    Persons,
    annotated_persons,
    detected_persons,
    load_annotations,
)
from tasks.keypoint.codec import Codec
from tasks.keypoint.config import Config, DataConfig
from tasks.keypoint.layouts import what_lies_there
from tasks.keypoint.transforms import (
    Normaliser,
    affine,
    apply,
    augment_frame,
    crop,
    erase,
    frame_box,
    invert,
)
from tasks.keypoint.yolo import YAML, load_yolo


class KeypointDataset:
    """Persons of one split.

    A sample has `image` [3, H, W], `target` [K, h, w] and `target_weight` [K]; one that is not for
    training also `person`, the row in `persons`, and `to_image` [2, 3], the map from the input to
    the image.

    Args:
        config: Settings of the task.
        split: Training persons are augmented.
        persons: Whom to read.
    """

    def __init__(self, config: Config, split: Split, persons: Persons) -> None:
        self.config = config
        self.split = split
        self.persons = persons
        self.codec = Codec(config.codec, config.data.input_size)
        self.normalise = Normaliser(config.data.mean, config.data.std)
        self._folder = image_folder(config, split)
        joints = config.joint_set
        self._mirror = joints.mirror()
        self._upper_body = joints.upper_body or ()

    def __len__(self) -> int:
        return len(self.persons)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        data, augment = self.config.data, self.config.augment
        train = self.split == "train"
        image = self._read(index)
        joints = self.persons.joints[index]
        frame = frame_box(self.persons.boxes[index], data.input_size, data.padding)
        if train:
            frame = augment_frame(frame, joints, self._upper_body, data.input_size, augment, rng)
        matrix = affine(frame, data.input_size, self.config.codec.udp)
        cut = crop(image, matrix, data.input_size)
        if train:
            erase(cut, augment, rng)
        if frame.mirrored:
            joints = joints[self._mirror]
        target, weight = self.codec.encode(apply(matrix, joints[:, :2]), joints[:, 2] > 0)
        sample = {"image": self.normalise(cut), "target": target, "target_weight": weight}
        if not train:
            sample |= {"person": np.array(index, dtype=np.int64), "to_image": invert(matrix)}
        return sample

    def _read(self, index: int) -> np.ndarray:
        """Read the image of a person; refuse one that the annotation cannot be of."""
        path = os.path.join(self._folder, self.persons.files[index])
        width, height = self.persons.sizes[index].tolist()
        size = (width, height) if width else None
        image = read_annotated_image(path, size, "its annotation says")
        if size is None:
            height, width = image.shape[:2]
            x, y, wide, high = self.persons.boxes[index].tolist()
            if x >= width or y >= height or x + wide <= 0 or y + high <= 0:
                raise DataError(
                    f"{path}: the image is {width}x{height}, and the box "
                    f"[{x:g}, {y:g}, {wide:g}, {high:g}] of a person lies outside of it"
                )
        return image

    def collate(self, samples: list[Sample], rng: np.random.Generator) -> Arrays:
        return stack(samples)


def image_folder(config: Config, split: Split) -> str:
    """Return the folder of a split's images."""
    folder = config.data.val_images if split == "val" else config.data.train_images
    return os.path.join(config.data.root, folder)


def annotation_file(config: Config, split: Split) -> Path:
    """Return the annotation file of a split."""
    data = config.data
    return Path(data.root) / (data.val_annotations if split == "val" else data.train_annotations)


def part_of(annotations: Annotations, data: DataConfig, val: bool) -> Annotations:
    """Return the images that are drawn for validation, or the others, with their annotations.

    They are drawn among the images with annotations: others teach nothing, and stay in training.
    """
    annotated = list(dict.fromkeys(person["image_id"] for person in annotations.people))
    names = [annotations.files[identity] for identity in annotated]
    share = data.val_share if data.val_share is not None else 0.0
    chosen = drawn_split(names, share, data.split_seed)
    drawn = {identity for identity, taken in zip(annotated, chosen) if taken}
    files = {i: name for i, name in annotations.files.items() if (i in drawn) == val}
    people = [person for person in annotations.people if person["image_id"] in files]
    return replace(annotations, files=files, people=people)


def load_split(config: Config, split: Split) -> tuple[Annotations, Persons]:
    """Read the annotations of a split and whom to train or evaluate on.

    Raises:
        DataError: A file is missing or broken, or disagrees with the config.
    """
    count = config.model.num_joints
    path = annotation_file(config, split)
    category = config.data.category
    if not path.exists() and Path(config.data.root).is_dir():
        raise DataError(f"{path}: no such file; {what_lies_there(config.data)}")
    if path.suffix.lower() in YAML:
        annotations = load_yolo(path, count, category, split, config.data.root)
    else:
        annotations = load_annotations(path, count, category)
    if config.data.val_share is not None:
        annotations = part_of(annotations, config.data, split == "val")
    if split == "val" and config.data.detections is not None:
        found = Path(config.data.root) / config.data.detections
        annotated_persons(annotations)  # without any, there is no score
        return annotations, detected_persons(found, annotations, count, config.data.detection_score)
    return annotations, annotated_persons(annotations, config.data.box_ends)
