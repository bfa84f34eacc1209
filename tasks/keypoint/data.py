"""A split of a COCO keypoint data set: one sample is one person, cut out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from core.task import Arrays, Sample, Split
from core.training.images import read_image, stack
from tasks.keypoint.annotations import (
    Annotations,
    Persons,
    annotated_persons,
    detected_persons,
    load_annotations,
)
from tasks.keypoint.codec import Codec
from tasks.keypoint.config import Config
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
        image = read_image(os.path.join(self._folder, self.persons.files[index]))
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


def load_split(config: Config, split: Split) -> tuple[Annotations, Persons]:
    """Read the annotations of a split and whom to train or evaluate on.

    Raises:
        DataError: A file is missing or broken, or disagrees with the config.
    """
    count = config.model.num_joints
    annotations = load_annotations(annotation_file(config, split), count)
    if split == "val" and config.data.detections is not None:
        path = Path(config.data.root) / config.data.detections
        persons = detected_persons(path, annotations, count, config.data.detection_score)
    else:
        persons = annotated_persons(annotations, config.data.box_ends)
    return annotations, persons
