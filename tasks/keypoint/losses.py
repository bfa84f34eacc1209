"""Errors of heatmaps [N, K, h, w]; `weight` [N, K] is 0 for joints without a label."""

from __future__ import annotations

import paddle
from paddle import Tensor

from tasks.keypoint.config import MseLoss, OhkmLoss


def heatmap_loss(
    config: MseLoss | OhkmLoss, predicted: Tensor, target: Tensor, weight: Tensor
) -> Tensor:
    """Compute the loss that the config asks for."""
    factors = weight if config.use_target_weight else paddle.ones_like(weight)
    if config.joint_weights is not None:
        factors = factors * paddle.to_tensor(config.joint_weights, dtype=factors.dtype)
    errors = joint_errors(predicted, target, factors)
    if isinstance(config, OhkmLoss):
        errors = paddle.topk(errors, k=config.top_k, axis=1, sorted=False)[0]
    return config.loss_scale * errors.mean()


def joint_errors(predicted: Tensor, target: Tensor, factors: Tensor) -> Tensor:
    """Return the mean over pixels of the squared, weighted differences, [N, K].

    The weight multiplies prediction and target, so that it counts squared, as in HRNet.
    """
    errors = ((predicted - target) ** 2).flatten(2).mean(axis=2)
    return errors * factors**2
