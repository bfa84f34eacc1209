"""Statistics of batch norms, estimated anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from core.errors import DataError
from core.network.batch_norms import reestimate, statistics_kept


def batches(count: int) -> list[list[paddle.Tensor]]:
    rng = np.random.default_rng(0)
    return [
        [paddle.to_tensor(rng.normal(3, 2, (4, 2, 5, 5)).astype(np.float32))] for _ in range(count)
    ]


@pytest.mark.parametrize("norm", [nn.BatchNorm2D, nn.BatchNorm])
def test_statistics_are_the_mean_over_the_batches(norm: type) -> None:
    model = nn.Sequential(nn.Dropout(0.9), norm(2), nn.Conv2D(2, 2, 1))
    model.eval()
    data = batches(3)
    momentum = model[1]._momentum
    assert reestimate(model, data) == 1
    arrays = [each[0].numpy() for each in data]
    means = np.mean([a.mean((0, 2, 3)) for a in arrays], axis=0)
    variances = np.mean([a.var((0, 2, 3)) for a in arrays], axis=0)
    np.testing.assert_allclose(model[1]._mean.numpy(), means, rtol=1e-5)
    np.testing.assert_allclose(model[1]._variance.numpy(), variances, rtol=1e-5)
    assert model[1]._momentum == momentum
    assert not any(layer.training for layer in model.sublayers(include_self=True))


def test_frozen_norms_keep_theirs_and_no_data_is_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm2D(2, use_global_stats=True))
    assert reestimate(model, batches(1)) == 0
    np.testing.assert_array_equal(model[0]._mean.numpy(), 0)
    with pytest.raises(DataError, match="no batches"):
        reestimate(nn.Sequential(nn.BatchNorm2D(2)), [])


class Counting(paddle.nn.Layer):
    """A layer with a state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        self.batches += self.training
        return x

    def training_state(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_training_state(self, state: dict[str, Any]) -> None:
        self.batches = state["batches"]


def test_statistics_and_other_states_are_kept() -> None:
    model = paddle.nn.Sequential(paddle.nn.BatchNorm2D(2), Counting())
    model.train()
    image = paddle.ones([1, 2, 3, 3])
    model(image)
    before = model[0]._mean.numpy()
    with statistics_kept(model):
        model(image)
        assert model[1].batches == 2
        assert (model[0]._mean.numpy() != before).any()
    assert model[1].batches == 1
    np.testing.assert_array_equal(model[0]._mean.numpy(), before)
