"""Accuracy of a classifier, counted in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.errors import ConfigError
from core.task import Arrays


class ClassificationMetric:
    """Top-k accuracy, accuracy per class and the confusion matrix.

    Works on `logits` or `probabilities` [N, C], or on `label` [N] from a model that ends in the
    argmax: then only top-1 is known. Ties go to the lower class; a NaN score is never a hit.
    """

    primary = "top1"
    higher_is_better = True

    def __init__(
        self, num_classes: int, topk: Sequence[int] = (1, 5), names: Sequence[str] = ()
    ) -> None:
        self.num_classes = num_classes
        self.topk = tuple(sorted({min(k, num_classes) for k in topk}))
        self.names = list(names) or [str(index) for index in range(num_classes)]
        self.reset()

    def reset(self) -> None:
        self.confusion = np.zeros((self.num_classes, self.num_classes), np.int64)  # truth, answer
        self.hits = np.zeros(len(self.topk), np.int64)
        self.ranked = 0  # samples whose scores of all classes were seen

    def update(self, outputs: Arrays, batch: Arrays) -> None:
        truth = np.asarray(batch["label"]).reshape(-1)
        scores = outputs.get("logits", outputs.get("probabilities"))
        if scores is None and "label" not in outputs:
            raise ConfigError("model.stop_after: a network without classes cannot be evaluated")
        if scores is None:
            answers = np.asarray(outputs["label"]).reshape(-1)
        else:
            answers = scores.argmax(axis=1)
            ranks = _rank(scores, truth)
            self.hits += [np.count_nonzero(ranks < k) for k in self.topk]
            self.ranked += len(truth)
        cells = truth * self.num_classes + answers
        self.confusion += np.bincount(cells, minlength=self.num_classes**2).reshape(
            self.confusion.shape
        )

    def state(self) -> Any:
        return self.confusion, self.hits, self.ranked

    def merge(self, states: list[Any]) -> None:
        confusions, hits, ranked = zip(*states)
        self.confusion = np.sum(confusions, axis=0)
        self.hits = np.sum(hits, axis=0)
        self.ranked = sum(ranked)

    def compute(self) -> dict[str, float]:
        total = self.confusion.sum()
        per_class = self.class_accuracy()
        values = {"top1": float(np.trace(self.confusion) / max(total, 1))}
        if self.ranked:
            ratios = zip(self.topk, self.hits / self.ranked)
            values.update({f"top{k}": float(ratio) for k, ratio in ratios})
        seen = ~np.isnan(per_class)
        values["mean_class"] = float(per_class[seen].mean()) if seen.any() else 0.0
        return values

    def class_accuracy(self) -> np.ndarray:
        """Return the accuracy of each class [C]; NaN where none was seen."""
        counts = self.confusion.sum(axis=1)
        hits = np.diag(self.confusion).astype(np.float64)
        return np.divide(hits, counts, out=np.full(len(counts), np.nan), where=counts > 0)

    def report(self) -> str:
        """Return accuracy per class and what it is most often taken for."""
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        rows = [("class", "images", "accuracy", "most often taken for")]
        for index, accuracy in enumerate(self.class_accuracy()):
            count = self.confusion[index].sum()
            if not count:
                continue
            mistake = int(wrong[index].argmax())
            times = wrong[index, mistake]
            taken = f"{self.names[mistake]} ({times})" if times else "-"
            rows.append((self.names[index], str(count), f"{accuracy:.4f}", taken))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}" for a, b, c, d in rows
        )


def _rank(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return how many classes come before the true one [N]."""
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    not_below = ~(scores < own)  # also where either is NaN
    before = np.arange(scores.shape[1]) < truth[:, None]
    ahead = not_below & ((scores != own) | before)
    ranks: np.ndarray = ahead.sum(axis=1)
    return ranks
