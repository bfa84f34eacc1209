"""Heatmap losses against loops in numpy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from tasks.keypoint.config import MseLoss, OhkmLoss
from tasks.keypoint.losses import heatmap_loss


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(3, 5, 8, 6)).astype(np.float32)
    target = rng.random((3, 5, 8, 6)).astype(np.float32)
    weight = (rng.random((3, 5)) > 0.3).astype(np.float32)
    return predicted, target, weight


def loss_of(config, arrays):
    return float(heatmap_loss(config, *(paddle.to_tensor(array) for array in arrays)))


def per_joint_mse(predicted, target, weight, scale):
    """Joint by joint: scale * MSE over batch and pixels of the weighted maps; then their mean."""
    total = 0.0
    for k in range(predicted.shape[1]):
        factor = weight[:, k, None, None]
        total += scale * np.mean((predicted[:, k] * factor - target[:, k] * factor) ** 2)
    return total / predicted.shape[1]


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_mse_is_the_mean_over_joints(arrays, scale):
    expected = per_joint_mse(*arrays, scale)
    assert loss_of(MseLoss(loss_scale=scale), arrays) == pytest.approx(expected, rel=1e-5)


def test_mse_without_weights(arrays):
    predicted, target, weight = arrays
    expected = per_joint_mse(predicted, target, np.ones_like(weight), 0.5)
    assert loss_of(MseLoss(use_target_weight=False), arrays) == pytest.approx(expected, rel=1e-5)


def test_joint_weights_multiply_the_label_weights(arrays):
    predicted, target, weight = arrays
    joints = (1.0, 1.5, 1.2, 0.5, 2.0)
    expected = per_joint_mse(predicted, target, weight * np.array(joints), 0.5)
    assert loss_of(MseLoss(joint_weights=joints), arrays) == pytest.approx(expected, rel=1e-5)


def test_ohkm_counts_the_worst_joints_of_each_person(arrays):
    predicted, target, weight = arrays
    expected = 0.0
    for n in range(3):
        errors = [
            0.5 * np.mean((weight[n, k] * (predicted[n, k] - target[n, k])) ** 2) for k in range(5)
        ]
        expected += sum(sorted(errors)[-2:]) / 2
    assert loss_of(OhkmLoss(top_k=2), arrays) == pytest.approx(expected / 3, rel=1e-5)


def test_ohkm_of_all_joints_is_the_mse(arrays):
    assert loss_of(OhkmLoss(top_k=5), arrays) == pytest.approx(loss_of(MseLoss(), arrays))


@pytest.mark.parametrize("config", [MseLoss(), OhkmLoss(top_k=3)])
def test_unlabelled_joints_have_no_gradient(arrays, config):
    predicted, target, weight = (paddle.to_tensor(array) for array in arrays)
    predicted.stop_gradient = False
    heatmap_loss(config, predicted, target, weight).backward()
    silent = np.abs(predicted.grad.numpy()).sum(axis=(2, 3))[arrays[2] == 0]
    assert (silent == 0).all()


def test_perfect_heatmaps_cost_nothing(arrays):
    _, target, weight = arrays
    assert loss_of(MseLoss(), (target, target, weight)) == 0


def test_top_k_must_be_positive():
    with pytest.raises(ValueError, match="top_k: expected 1 or more"):
        OhkmLoss(top_k=0)
