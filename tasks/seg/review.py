"""Pictures of a validation: the labelled classes on the left, the predicted ones on the right."""

from __future__ import annotations

import cv2
import numpy as np

from core.task import Arrays, SampleView
from core.training.images import restore_image
from tasks.seg import drawing
from tasks.seg.config import Config
from tasks.seg.inference import main_output
from tasks.seg.metrics import class_iou, confusion

SHORTEST = 320  # pixels of the longer side of what is drawn
LONGEST = 512  # pixels of a side that are compared: all pixels of large images would take long


def sample_errors(outputs: Arrays, batch: Arrays, config: Config) -> np.ndarray:
    """Return one minus the mean IoU of the classes in each image [N], on a coarse grid."""
    errors = []
    for number in range(len(batch["label"])):
        label, found = _coarse(outputs, batch, number)
        errors.append(1 - _mean_iou(label, found, config))
    return np.array(errors)


def view_sample(outputs: Arrays, batch: Arrays, number: int, config: Config) -> SampleView:
    """Return truth and prediction of an image of a batch [N, ...] side by side."""
    height, width = batch["image_size"][number]
    planes = batch["image"][number][:, :height, :width]
    image = restore_image(planes, config.data.mean, config.data.std)
    label, found = _coarse(outputs, batch, number)
    known = np.where(label == config.data.ignore_index, -1, label)
    enlarged = max(1, round(SHORTEST / max(label.shape)))  # small images have no room for names
    masks = [np.kron(mask, np.ones((enlarged, enlarged), int)) for mask in (known, found)]
    image = cv2.resize(image, masks[0].shape[::-1], interpolation=cv2.INTER_AREA)
    named = config.class_names, config.data.colors
    drawn = [drawing.draw_mask(image, mask, *named) for mask in masks]
    text = f"mean IoU {_mean_iou(label, found, config):.2f} (truth, prediction)"
    return SampleView(np.hstack(drawn), text)


def _coarse(outputs: Arrays, batch: Arrays, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return label and prediction [h, w] of an image, of each so many pixels one."""
    name, scores = main_output(outputs)
    height, width = (int(side) for side in batch["label_size"][number])
    step = max(1, max(height, width) // LONGEST)
    label = batch["label"][number][:height:step, :width:step]
    found = scores[number][..., :height:step, :width:step]
    return label, found if name == "labels" else found.argmax(axis=0)


def _mean_iou(label: np.ndarray, found: np.ndarray, config: Config) -> float:
    """Return the mean IoU over the classes that occur; 1 where nothing is labelled."""
    data, classes = config.data, config.model.num_classes
    shares = class_iou(confusion(found, label, classes, data.ignore_index))
    return 1.0 if np.isnan(shares).all() else float(np.nanmean(shares))
