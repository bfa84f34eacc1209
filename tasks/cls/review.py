"""Draw samples of a validation: input, truth and prediction."""

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
    """Return the image of a sample of a batch [N, ...], and its classes in words.

    The model may end in logits, in probabilities, or in the class alone.
    """
    truth, (found, score) = int(batch["label"].reshape(-1)[number]), _answer(outputs, number)
    name, other = (names[i] if i < len(names) else f"class {i}" for i in (truth, found))
    said = name if truth == found else f"is {name}, taken for {other}"
    text = said if score is None else f"{said} {score:.2f}"
    return SampleView(restore_image(batch["image"][number], data.mean, data.std), text)


def _answer(outputs: Arrays, number: int) -> tuple[int, float | None]:
    """Return the class that a sample is taken for, and its probability if the model tells it."""
    if "probabilities" in outputs:
        scores = outputs["probabilities"][number]
    elif "logits" in outputs:
        scores = softmax(outputs["logits"][number : number + 1])[0]
    else:
        return int(np.asarray(outputs["label"]).reshape(-1)[number]), None
    return int(scores.argmax()), float(scores.max())


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities [N, C]."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return shares
