"""Segmentation losses over logits [N, C, H, W] and label maps [N, H, W] of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from core.errors import ConfigError
from core.task import Losses, Outputs
from tasks.seg.config import CrossEntropy, Detail, Dice, Loss, LossConfig, Mixed, Ohem

CE_EPSILON, OHEM_EPSILON, DICE_EPSILON = 1e-8, 1e-5, 1e-8  # those of PaddleSeg
EDGE = 0.1  # from here on a pixel belongs to an edge
EDGE_FUSION = (0.6, 0.3, 0.1)  # weights of the edges at full, half and quarter size (STDC)


def head_losses(
    outputs: Outputs, label: Tensor, config: LossConfig, ignore_index: int, num_classes: int
) -> Losses:
    """Return the loss of every head, weighted, under `<head>/<kind>`.

    Outputs of another size than the label are resized to it.

    Raises:
        ConfigError: `loss.heads` or `loss.coef` do not fit the number of heads.
    """
    names = list(outputs)
    functions = _one_per_head("loss.heads", config.heads, names) or (config.function,) * len(names)
    coef = _one_per_head("loss.coef", config.coef, names) or (1.0,) * len(names)
    label = label.astype("int64")
    losses: Losses = {}
    for name, function, weight in zip(names, functions, coef):
        logits = outputs[name]
        if isinstance(function, Detail) and logits.shape[1] != 1:
            raise ConfigError(
                f"loss.heads: detail judges a head of one channel, as networks of STDC have; "
                f"output {name} of the network has {logits.shape[1]}"
            )
        if not isinstance(function, Detail) and logits.shape[1] != num_classes:
            raise ConfigError(
                f"loss.heads: output {name} of the network has {logits.shape[1]} channels, not one "
                f"for each of {num_classes} classes; {function.kind} cannot judge it"
            )
        for kind, value in _terms(function, logits, label, ignore_index).items():
            losses[f"{name}/{kind}"] = value * weight
    return losses


def cross_entropy(
    logits: Tensor, label: Tensor, ignore_index: int, class_weights: Sequence[float] = ()
) -> Tensor:
    """Return the cross entropy, averaged with the weight of each pixel's class."""
    counts = (label != ignore_index).astype("float32")
    # along the last axis, since there PaddleSeg's gradients come out the same to the last bit
    losses = F.cross_entropy(
        logits.astype("float32").transpose([0, 2, 3, 1]),
        label,
        ignore_index=ignore_index,
        reduction="none",
    )
    if class_weights:
        of_class = paddle.to_tensor(class_weights, dtype="float32").unsqueeze(1)
        inside = paddle.where(label == ignore_index, paddle.zeros_like(label), label)
        counts = counts * F.embedding(inside, of_class).squeeze(3)
        losses = losses * counts
    return losses.mean() / (counts.mean() + CE_EPSILON)


def ohem(
    logits: Tensor, label: Tensor, ignore_index: int, threshold: float, min_kept: int
) -> Tensor:
    """Return the mean cross entropy of the hard pixels.

    Where more than `min_kept` pixels count at all, those whose class got a probability below
    `threshold` are hard; if the `min_kept`-th smallest probability is above it, those below that.
    Otherwise all are.
    """
    losses = F.cross_entropy(
        logits.astype("float32"),
        label.unsqueeze(1),
        ignore_index=ignore_index,
        reduction="none",
        axis=1,
    ).squeeze(1)
    with paddle.no_grad():
        kept = label != ignore_index
        count = int(kept.sum())
        if count > min_kept:
            probabilities = paddle.where(kept, (-losses).exp(), paddle.full_like(losses, 2.0))
            kept = probabilities < _hardness_limit(probabilities, threshold, min_kept)
        weight = kept.astype("float32")
    return (losses * weight).mean() / (weight.mean() + OHEM_EPSILON)


def dice(
    logits: Tensor,
    label: Tensor,
    ignore_index: int,
    class_weights: Sequence[float] = (),
    smooth: float = 1.0,
) -> Tensor:
    """Return 1 - (2 |A B| + smooth) / (|A| + |B| + smooth), averaged over images and classes."""
    classes = logits.shape[1]
    counts = (label != ignore_index).astype("float32").unsqueeze(1)
    of_class = paddle.arange(classes).reshape([1, classes, 1, 1])
    wanted = (label.unsqueeze(1) == of_class).astype("float32") * counts
    got = F.softmax(logits.astype("float32"), axis=1) * counts
    both = (got * wanted).flatten(2).sum(axis=2)
    sizes = (got + wanted).flatten(2).sum(axis=2)
    per_class = (1 - (2 * both + smooth) / (sizes + smooth + DICE_EPSILON)).mean(axis=0)
    if class_weights:
        per_class = per_class * paddle.to_tensor(class_weights, dtype="float32")
    return per_class.mean()


def detail(logits: Tensor, label: Tensor) -> Tensor:
    """Return binary cross entropy plus Dice of a head [N, 1, H, W] against the edges of the labels.

    Fan et al., Rethinking BiSeNet for real-time semantic segmentation, CVPR 2021.
    """
    edges = label_edges(label)
    logits = logits.astype("float32")
    if logits.shape[2:] != edges.shape[2:]:
        logits = F.interpolate(logits, edges.shape[2:], mode="bilinear", align_corners=True)
    got, wanted = F.sigmoid(logits).flatten(1), edges.flatten(1)
    overlap = 2 * (got * wanted).sum(axis=1) + 1
    total = got.sum(axis=1) + wanted.sum(axis=1) + 1
    return F.binary_cross_entropy_with_logits(logits, edges) + (1 - overlap / total).mean()


def label_edges(label: Tensor) -> Tensor:
    """Return where labels change [N, 1, H, W], 0 or 1: the Laplacian at three strides, fused."""
    values = label.unsqueeze(1).astype("float32")
    kernel = paddle.full([1, 1, 3, 3], -1.0)
    kernel[0, 0, 1, 1] = 8.0
    fused = paddle.zeros_like(values)
    for stride, weight in zip((1, 2, 4), EDGE_FUSION):
        found = (F.conv2d(values, kernel, stride=stride, padding=1) > EDGE).astype("float32")
        fused = fused + weight * F.interpolate(found, values.shape[2:], mode="nearest")
    return (fused > EDGE).astype("float32")


def _terms(function: Loss, logits: Tensor, label: Tensor, ignore_index: int) -> Losses:
    if isinstance(function, Detail):
        return {"detail": detail(logits, label)}
    if logits.shape[2:] != label.shape[1:]:
        logits = F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)
    if isinstance(function, Mixed):
        terms: Losses = {}
        for number, (part, weight) in enumerate(zip(function.losses, function.coef)):
            for kind, value in _terms(part, logits, label, ignore_index).items():
                terms[kind if kind not in terms else f"{kind}_{number}"] = value * weight
        return terms
    if isinstance(function, CrossEntropy):
        value = cross_entropy(logits, label, ignore_index, function.class_weights)
    elif isinstance(function, Ohem):
        value = ohem(logits, label, ignore_index, function.threshold, function.min_kept)
    elif isinstance(function, Dice):
        value = dice(logits, label, ignore_index, function.class_weights, function.smooth)
    return {function.kind: value}


def _one_per_head(key: str, given: tuple[Any, ...], names: list[str]) -> tuple[Any, ...]:
    if len(names) == 1 and not paddle.is_grad_enabled():
        return given[:1]  # a network in evaluation mode, a teacher say, has its main head alone
    if given and len(given) != len(names):
        raise ConfigError(
            f"{key}: expected {len(names)} entries, one for each output of the network "
            f"({', '.join(names)}), got {len(given)}"
        )
    return given


def _hardness_limit(probabilities: Tensor, threshold: float, min_kept: int) -> float:
    if int((probabilities <= threshold).sum()) >= min_kept:
        return threshold
    smallest, _ = paddle.topk(probabilities.flatten(), min_kept, largest=False, sorted=False)
    return float(smallest.max())
