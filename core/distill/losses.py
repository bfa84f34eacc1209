"""Distances of a student's outputs from a teacher's, as pure functions.

Class scores are logits with the classes along axis 1: [N, C], or a map [N, C, H, W] in which every
place counts as a sample. The gradient goes to the student alone if the teacher has none.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor

EPSILON = 1e-8


def soft_label(
    student: Tensor,
    teacher: Tensor,
    form: Literal["kl", "cross_entropy"] = "kl",
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> Tensor:
    """Compare softened probabilities (Hinton et al., 2015, Distilling the Knowledge).

    `kl` is the divergence of the student from the teacher, times the product of the temperatures,
    so that gradients keep their size. `cross_entropy` is the plain one of PaddleSlim 1.x; it has
    the same gradient but for that factor.
    """
    log_student = F.log_softmax(student / student_temperature, axis=1)
    wanted = F.softmax(teacher / teacher_temperature, axis=1)
    crossed = -(wanted * log_student).sum(axis=1).mean()
    if form == "cross_entropy":
        return crossed
    log_wanted = F.log_softmax(teacher / teacher_temperature, axis=1)
    own = -(wanted * log_wanted).sum(axis=1).mean()
    return (crossed - own) * (student_temperature * teacher_temperature)


def dml(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of both Kullback-Leibler divergences (Jeffreys), as DMLLoss of PaddleClas.

    The recipes of the Paddle family call it DML or JSDIV; deep mutual learning itself (Zhang et
    al., CVPR 2018) has one direction for each student.
    """
    p, q = F.softmax(student, axis=1), F.softmax(teacher, axis=1)
    gap = F.log_softmax(student, axis=1) - F.log_softmax(teacher, axis=1)
    return ((p - q) * gap).sum(axis=1).mean() / 2


def js_div(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence (Lin, 1991), between 0 and log 2."""
    log_p, log_q = F.log_softmax(student, axis=1), F.log_softmax(teacher, axis=1)
    p, q = log_p.exp(), log_q.exp()
    # log((p + q) / 2) without ever taking the logarithm of a zero
    top = paddle.maximum(log_p, log_q)
    log_middle = top + paddle.log(((log_p - top).exp() + (log_q - top).exp()) / 2)
    return (p * (log_p - log_middle) + q * (log_q - log_middle)).sum(axis=1).mean() / 2


def dkd(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Decoupled knowledge distillation (Zhao et al., CVPR 2022).

    Args:
        student: Logits [N, C] or [N, C, H, W].
        teacher: Outputs of the teacher, likewise.
        label: Classes [N] or [N, H, W]; places outside 0..C-1 do not count.
        alpha: Weight of the divergence between target and all other classes (TCKD).
        beta: Weight of the divergence among the other classes (NCKD).
        temperature: Softens both; the loss is multiplied by its square.
    """
    student, teacher = _as_rows(student), _as_rows(teacher)
    label = label.flatten().astype("int64")
    classes = student.shape[1]
    valid = paddle.logical_and(label >= 0, label < classes)
    counts = valid.astype(student.dtype)
    target = F.one_hot(paddle.where(valid, label, paddle.zeros_like(label)), classes)
    target = target.astype(student.dtype)
    p_target, p_rest, p_others = _split(student / temperature, target)
    q_target, q_rest, q_others = _split(teacher / temperature, target)
    tckd = q_target.exp() * (q_target - p_target) + q_rest.exp() * (q_rest - p_rest)
    nckd = (q_others.exp() * (q_others - p_others) * (1 - target)).sum(axis=1)
    rows = (alpha * tckd + beta * nckd) * counts
    return rows.sum() / counts.sum().clip(min=1.0) * temperature**2


def dist(
    student: Tensor,
    teacher: Tensor,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """Keep relations between classes and between samples, not values (DIST: Huang et al., 2022).

    One less the correlation of the probabilities, along the classes of each sample (inter) and
    along the samples of each class (intra), times the squared temperature.
    """
    p, q = (F.softmax(_as_rows(logits) / temperature, axis=1) for logits in (student, teacher))
    inter = 1 - _correlation(p, q, axis=1).mean()
    intra = 1 - _correlation(p, q, axis=0).mean()
    return (inter_weight * inter + intra_weight * intra) * temperature**2


def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute difference."""
    return (student - teacher).abs().mean()


def l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference (FitNets: Romero et al., ICLR 2015)."""
    return ((student - teacher) ** 2).mean()


def smooth_l1(student: Tensor, teacher: Tensor, delta: float = 1.0) -> Tensor:
    """Return d^2 / 2 up to `delta`, delta (|d| - delta / 2) beyond, averaged (Huber, 1964)."""
    gap = (student - teacher).abs()
    near = gap.clip(max=delta)
    return (near * (gap - near / 2)).mean()


def dist_mse(
    student: Tensor, teacher: Tensor, target_weight: Tensor | None = None, loss_scale: float = 0.5
) -> Tensor:
    """Compare heatmaps as DistMSELoss of the HRNet-Keypoint distillation does.

    Args:
        student: Heatmaps [N, K, h, w].
        teacher: Outputs of the teacher, likewise.
        target_weight: [N, K], multiplies both sides, so that it counts squared; None counts all.
        loss_scale: Factor on the mean over samples, joints and pixels.
    """
    errors = ((student - teacher) ** 2).flatten(2).mean(axis=2)
    if target_weight is not None:
        errors = errors * target_weight.reshape(errors.shape).astype(errors.dtype) ** 2
    return loss_scale * errors.mean()


def _as_rows(logits: Tensor) -> Tensor:
    """Turn a map [N, C, H, W] into rows [N * H * W, C]."""
    if logits.ndim == 2:
        return logits
    return logits.flatten(2).transpose([0, 2, 1]).reshape([-1, logits.shape[1]])


def _split(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities: of the target, of all others together, of each among the others."""
    everything = F.log_softmax(logits, axis=1)
    without = everything - 1000.0 * target  # far enough to vanish from a sum of exponentials
    rest = paddle.logsumexp(without, axis=1)
    return (everything * target).sum(axis=1), rest, without - rest.unsqueeze(1)


def _correlation(one: Tensor, other: Tensor, axis: int) -> Tensor:
    one, other = (x - x.mean(axis=axis, keepdim=True) for x in (one, other))
    product = (one * other).sum(axis=axis)
    lengths = ((one**2).sum(axis=axis) * (other**2).sum(axis=axis) + EPSILON**2).sqrt()
    return product / lengths
