"""Pictures of a validation: what the network sees, the truth, and what it is taken for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.task import Arrays, SampleView
from core.training.images import restore_image
from tasks.cls.config import DataConfig


def sample_errors(outputs: Arrays, batch: Arrays) -> np.ndarray:
    """Return one minus the probability of the true class [N]."""
    scores = softmax(outputs["logits"])
    errors: np.ndarray = 1 - np.take_along_axis(scores, batch["label"].reshape(-1, 1), axis=1)[:, 0]
    return errors


def view_sample(
    outputs: Arrays, batch: Arrays, number: int, data: DataConfig, names: Sequence[str]
) -> SampleView:
    """Return the image of a sample of a batch [N, ...], and its classes in words."""
    scores = softmax(outputs["logits"][number : number + 1])[0]
    truth, found = int(batch["label"].reshape(-1)[number]), int(scores.argmax())
    name, other = (names[i] if i < len(names) else f"class {i}" for i in (truth, found))
    text = (
        f"{name} {scores[found]:.2f}"
        if truth == found
        else (f"is {name}, taken for {other} {scores[found]:.2f}")
    )
    return SampleView(restore_image(batch["image"][number], data.mean, data.std), text)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities [N, C]."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return shares
