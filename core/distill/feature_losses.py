"""Distances of a student's feature maps [N, C, H, W] from a teacher's, as pure functions.

Plain differences (l1, l2, smooth l1) are in `core.distill.losses`.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

EPSILON = 1e-12  # added to squares: keeps the gradient of a root finite at zero


def fsp_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Return the flow between two maps of the same height and width, [N, C1, C2]."""
    pixels = first.shape[2] * first.shape[3]
    return paddle.matmul(first.flatten(2), second.flatten(2), transpose_y=True) / pixels


def fsp(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Compare the flow between two sections of each network (Yim et al., CVPR 2017).

    Averaged over the matrix, as FSPDistiller of PaddleSlim 1.x does.
    """
    return ((fsp_matrix(*student) - fsp_matrix(*teacher)) ** 2).mean()


def cwd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Compare where each channel is active (channel-wise distillation: Shu et al., ICCV 2021).

    Per channel the softmax over all places; divergence of the student from the teacher, averaged
    over channels and samples, times the squared temperature.
    """
    log_p, log_q = (
        F.log_softmax(values.flatten(2) / temperature, axis=2) for values in (student, teacher)
    )
    return (log_q.exp() * (log_q - log_p)).sum(axis=2).mean() * temperature**2


def mgd(generated: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared error per sample of a map generated from a masked one.

    Masked generative distillation (Yang et al., ECCV 2022); mask and generator are layers of
    `core.distill.adapters`.
    """
    return ((generated - teacher) ** 2).sum() / generated.shape[0]


def pkd(student: Tensor, teacher: Tensor) -> Tensor:
    """Return one less the correlation of each channel, averaged (PKD: Cao et al., NeurIPS 2022).

    Computed as there: half the mean squared difference of the maps, normalised per channel over
    samples and places.
    """
    one, other = (_normalise(values) for values in (student, teacher))
    return ((one - other) ** 2).mean() / 2


def attention(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """Compare maps of attention (Zagoruyko and Komodakis, ICLR 2017, equation 2).

    The sum over the channels of |value| ** power, scaled to length 1; the distance of the two,
    averaged over the samples. The numbers of channels may differ.
    """
    gap = _attention(student, power) - _attention(teacher, power)
    return ((gap**2).sum(axis=1) + EPSILON).sqrt().mean()


def _normalise(values: Tensor) -> Tensor:
    mean = values.mean(axis=[0, 2, 3], keepdim=True)
    spread = ((values - mean) ** 2).mean(axis=[0, 2, 3], keepdim=True)
    return (values - mean) / (spread + EPSILON).sqrt()


def _attention(values: Tensor, power: float) -> Tensor:
    strength = (values.abs() ** power).sum(axis=1).flatten(1)
    return strength / ((strength**2).sum(axis=1, keepdim=True) + EPSILON**2).sqrt()
