"""Cross entropy for classification."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor

from core.task import Losses, Outputs
from tasks.cls.config import LossConfig


def cross_entropy(logits: Tensor, label: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross entropy.

    Args:
        logits: [N, C].
        label: Classes [N] int64, or targets [N, C] that add up to one.
        label_smoothing: Share e of a target that is spread evenly: (1 - e) * target + e / C.
    """
    log_probabilities = F.log_softmax(logits.astype("float32"))
    if label.ndim == 1:
        wanted = -F.nll_loss(log_probabilities, label, reduction="none")
    else:
        wanted = (log_probabilities * label).sum(axis=1)
    if label_smoothing:
        even = log_probabilities.mean(axis=1)
        wanted = (1 - label_smoothing) * wanted + label_smoothing * even
    return -wanted.mean()


def classification_losses(outputs: Outputs, label: Tensor, config: LossConfig) -> Losses:
    """Return `loss_ce`, and a weighted `loss_<name>` for each auxiliary output.

    Outputs are logits [N, classes], labels class numbers [N] or shares [N, classes].
    """
    losses = {"loss_ce": cross_entropy(outputs["logits"], label, config.label_smoothing)}
    for name, logits in outputs.items():
        if name.startswith("auxiliary"):
            loss = cross_entropy(logits, label, config.label_smoothing)
            losses[f"loss_{name}"] = config.auxiliary_weight * loss
    return losses
