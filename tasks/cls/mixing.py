"""Mix the pictures and labels of a batch: mixup (Zhang et al., 2017), cutmix (Yun et al., 2019)."""

from __future__ import annotations

import numpy as np

from core.task import Arrays


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Turn labels [N] into targets [N, classes] float32."""
    targets = np.zeros((len(labels), classes), np.float32)
    targets[np.arange(len(labels)), labels] = 1
    return targets


def mixup(batch: Arrays, alpha: float, rng: np.random.Generator) -> Arrays:
    """Blend every picture and its target [N, C] with those of another, by one random share."""
    share = np.float32(rng.beta(alpha, alpha))
    order = rng.permutation(len(batch["label"]))
    return {
        key: value * share + value[order] * (np.float32(1) - share) for key, value in batch.items()
    }


def cutmix(batch: Arrays, alpha: float, rng: np.random.Generator) -> Arrays:
    """Paste the same random box of another picture into each; targets mix as the areas do."""
    image, label = batch["image"], batch["label"]
    height, width = image.shape[2:]
    side = np.sqrt(1 - rng.beta(alpha, alpha))
    cy, cx = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = _clip_span(cy, side * height, height)
    left, right = _clip_span(cx, side * width, width)
    order = rng.permutation(len(label))
    mixed = image.copy()
    mixed[:, :, top:bottom, left:right] = image[order, :, top:bottom, left:right]
    share = np.float32(1 - (bottom - top) * (right - left) / (height * width))
    return {**batch, "image": mixed, "label": label * share + label[order] * (1 - share)}


def _clip_span(center: int, length: float, limit: int) -> tuple[int, int]:
    start = center - round(length) // 2
    return max(start, 0), min(start + round(length), limit)
