"""Evaluate images of any size through a network: windows, scales, mirror images, in numpy."""

from __future__ import annotations

import logging

import cv2
import numpy as np

from core.errors import ConfigError
from core.settings.told_once import ONCE
from core.task import Arrays, Forward
from tasks.seg.config import EvaluationConfig, SlidingWindowConfig
from tasks.seg.metrics import predicted_labels

FILLED_UP = 4  # times as many pixels as the picture has: it takes longer than anyone wants
SCORES = ("logits", "probabilities", "labels")  # names of the main output, by ending of the graph

log = logging.getLogger(__name__)


def infer(run: Forward, batch: Arrays, config: EvaluationConfig) -> Arrays:
    """Return the scores or labels of a batch, each image at the size of its label map.

    Images and labels that the batch filled up are first cut to their own sizes, so the result
    does not depend on what else is in the batch. Without `label_size` it has the image's size.
    """
    images = batch["image"]
    sizes = batch.get("image_size", np.full((len(images), 2), images.shape[2:]))
    targets = batch.get("label_size", sizes)
    height, width = batch["label"].shape[1:] if "label" in batch else targets.max(axis=0)
    result: Arrays = {}
    for size in sorted({(int(h), int(w)) for h, w in sizes}):
        members = [i for i, own in enumerate(sizes) if tuple(own) == size]
        name, scores = score(run, images[members][:, :, : size[0], : size[1]], config)
        if name not in result:
            shape = (len(images), *scores.shape[1:-2], int(height), int(width))
            result[name] = np.zeros(shape, scores.dtype)
        for i, one in zip(members, scores):
            h, w = (int(side) for side in targets[i])
            result[name][i, ..., :h, :w] = resize_scores(one, (h, w))
    return result


def score(run: Forward, images: np.ndarray, config: EvaluationConfig) -> tuple[str, np.ndarray]:
    """Score images of one size [N, 3, H, W]; returns the name of the output and its values.

    Looked at once, the network's own output comes back. Several looks are averaged as
    probabilities, each resized to the image's size first.

    Raises:
        ConfigError: Several looks at a network whose graph ends in labels.
    """
    height, width = images.shape[2:]
    mirrors = (False, True) if config.flip else (False,)
    if config.scales == (1.0,) and not config.flip:
        return _look(run, images, config.sliding_window)
    total = np.zeros(0, np.float32)
    for scale in config.scales:
        size = (int(height * scale + 0.5), int(width * scale + 0.5))
        scaled = np.stack([resize_scores(image, size) for image in images])
        for mirror in mirrors:
            seen = np.ascontiguousarray(scaled[..., ::-1]) if mirror else scaled
            name, scores = _look(run, seen, config.sliding_window)
            if name == "labels":
                raise ConfigError(
                    "evaluation.scales: the exported graph ends in labels, which cannot be "
                    "averaged over scales and mirror images; export it with logits"
                )
            scores = scores[..., ::-1] if mirror else scores
            scores = np.stack([resize_scores(one, (height, width)) for one in scores])
            scores = softmax(scores) if name == "logits" else scores
            total = scores if total.size == 0 else total + scores
    return "probabilities", total / (len(config.scales) * len(mirrors))


def _look(
    run: Forward, images: np.ndarray, window: SlidingWindowConfig | None
) -> tuple[str, np.ndarray]:
    return main_output(run(images)) if window is None else slide(run, images, window)


def slide(run: Forward, images: np.ndarray, window: SlidingWindowConfig) -> tuple[str, np.ndarray]:
    """Score images [N, C, H, W] through windows of one size, averaged where they overlap.

    The last window of a row or column is moved inwards to end with the image. An image smaller
    than a window is filled up with the mean colour (0), so an exported graph of fixed size works.
    """
    (crop_w, crop_h), (step_w, step_h) = window.crop, window.stride
    height, width = images.shape[2:]
    fill = ((0, 0), (0, 0), (0, max(crop_h - height, 0)), (0, max(crop_w - width, 0)))
    images = np.pad(images, fill)
    full_h, full_w = images.shape[2:]
    if full_h * full_w > FILLED_UP * height * width:
        log.warning(
            "evaluation.sliding_window.crop: windows of %dx%d pixels are over %d times as large as "
            "pictures; what they are filled up with takes its time, too",
            *(crop_w, crop_h, FILLED_UP),
            extra=ONCE,
        )
    tops, lefts = _starts(full_h, crop_h, step_h), _starts(full_w, crop_w, step_w)
    total = np.zeros(0, np.float32)
    count = np.zeros((full_h, full_w), np.float32)
    name = ""
    for top in tops:
        for left in lefts:
            part = np.ascontiguousarray(images[:, :, top : top + crop_h, left : left + crop_w])
            name, scores = main_output(run(part))
            if name == "labels":
                raise ConfigError(
                    "evaluation.sliding_window: the exported graph ends in labels, which cannot "
                    "be averaged over windows; export it with logits"
                )
            if total.size == 0:
                total = np.zeros((*scores.shape[:2], full_h, full_w), np.float32)
            total[:, :, top : top + crop_h, left : left + crop_w] += [
                resize_scores(one, (crop_h, crop_w)) for one in scores
            ]
            count[top : top + crop_h, left : left + crop_w] += 1
    return name, (total / count)[:, :, :height, :width]


def _starts(side: int, crop: int, step: int) -> list[int]:
    return sorted({min(start, side - crop) for start in range(0, side - crop + step, step)})


def main_output(outputs: Arrays) -> tuple[str, np.ndarray]:
    """Return name and values [N, classes, H, W] of the output for each pixel."""
    for name in SCORES:
        if name in outputs:
            return name, outputs[name]
    raise ConfigError(
        f"outputs: expected one of {', '.join(SCORES)} from the network, got {', '.join(outputs)}"
    )


def resize_scores(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize [C, H, W] bilinearly, or labels [H, W] to the nearest, to (height, width)."""
    if scores.shape[-2:] == size:
        return scores
    to = (size[1], size[0])
    if scores.ndim == 2:
        nearest: np.ndarray = cv2.resize(
            scores.astype(np.float32), to, interpolation=cv2.INTER_NEAREST_EXACT
        )
        return nearest.astype(scores.dtype)
    planes = [cv2.resize(np.ascontiguousarray(plane), to) for plane in scores]
    return np.stack(planes)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities along axis 1 of logits [N, classes, ...]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def label_map(outputs: Arrays, size: tuple[int, int]) -> np.ndarray:
    """Return the classes [H, W] of a single image at (height, width)."""
    name, scores = main_output(outputs)
    labels = predicted_labels({name: resize_scores(scores[0], size)[None]})[0]
    mask: np.ndarray = labels.astype(np.int32)
    return mask
