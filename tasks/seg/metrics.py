"""Confusion matrix and the metrics derived from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from core.task import Arrays


class SegMetric:
    """Counts of (label, prediction) over all pixels that are not ignored.

    Takes `labels` [N, H, W], or `logits` / `probabilities` [N, C, H, W] of the label's size.
    """

    primary = "mIoU"
    higher_is_better = True

    def __init__(self, class_names: tuple[str, ...], ignore_index: int = 255) -> None:
        self.class_names = class_names
        self.ignore_index = ignore_index
        self.reset()

    def reset(self) -> None:
        classes = len(self.class_names)
        self.matrix = np.zeros((classes, classes), np.int64)

    def update(self, outputs: Arrays, batch: Arrays) -> None:
        predicted, label = predicted_labels(outputs), batch["label"]
        if predicted.shape != label.shape:
            raise ValueError(
                f"labels: expected predictions of shape {label.shape}, got {predicted.shape}"
            )
        self.matrix += confusion(predicted, label, len(self.class_names), self.ignore_index)

    def state(self) -> Any:
        return self.matrix.copy()

    def merge(self, states: list[Any]) -> None:
        self.matrix = np.sum(states, axis=0)

    def compute(self) -> dict[str, float]:
        matrix = self.matrix
        return {
            "mIoU": _mean(class_iou(matrix)),
            "accuracy": _ratio(np.trace(matrix), matrix.sum()),
            "kappa": kappa(matrix),
            "dice": _mean(class_dice(matrix)),
        }

    @property
    def confusion(self) -> np.ndarray:
        """Return the counts [label, prediction]."""
        return self.matrix

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return self.class_names

    def report(self) -> str:
        """Tabulate IoU, precision, recall and share of the pixels per class."""
        matrix = self.matrix
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.diag(matrix) / matrix.sum(axis=0)
            recall = np.diag(matrix) / matrix.sum(axis=1)
            share = matrix.sum(axis=1) / matrix.sum()
        width = max(len("class"), *(len(name) for name in self.class_names))
        lines = [f"{'class':{width}}    IoU  precision  recall  share"]
        for name, *values in zip(self.class_names, class_iou(matrix), precision, recall, share):
            iou, exact, found, part = ("-" if np.isnan(v) else f"{v:.3f}" for v in values)
            lines.append(f"{name:{width}}  {iou:>5}  {exact:>9}  {found:>6}  {part:>5}")
        return "\n".join(lines)


def predicted_labels(outputs: Arrays) -> np.ndarray:
    """Return the class of each pixel [N, H, W] from whatever the network's graph ended in."""
    if "labels" in outputs:
        return outputs["labels"]
    scores = next(outputs[name] for name in ("logits", "probabilities") if name in outputs)
    labels: np.ndarray = scores.argmax(axis=1)
    return labels


def confusion(
    predicted: np.ndarray, label: np.ndarray, num_classes: int, ignore_index: int
) -> np.ndarray:
    """Count pixels as [label, prediction]."""
    counts = label != ignore_index
    pairs = label[counts].astype(np.int64) * num_classes + predicted[counts]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """Return the IoU [classes] of a confusion matrix, NaN where a class never occurs."""
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def class_dice(matrix: np.ndarray) -> np.ndarray:
    """Return the Dice coefficients [classes] of a matrix, NaN where a class never occurs."""
    hits = np.diag(matrix).astype(np.float64)
    sizes = matrix.sum(axis=0) + matrix.sum(axis=1)
    return np.divide(2 * hits, sizes, out=np.full(len(hits), np.nan), where=sizes > 0)


def kappa(matrix: np.ndarray) -> float:
    """Return Cohen's kappa of a matrix [classes, classes]: agreement beyond chance."""
    total = float(matrix.sum())
    if total == 0:
        return 0.0
    agreed = float(np.trace(matrix)) / total
    chance = float((matrix.sum(axis=0) / total) @ (matrix.sum(axis=1) / total))
    return 1.0 if chance == 1 else (agreed - chance) / (1 - chance)


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else 0.0


def _ratio(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else 0.0
