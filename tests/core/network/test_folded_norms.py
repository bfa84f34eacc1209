"""Batch norms that were folded away, given statistics again."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from core.network.batch_norms import reestimate
from core.network.folded_norms import folded_norms, unfold_norms

EPSILON = 1e-5


def network(norm: type = nn.BatchNorm2D, variance: float = 1 - EPSILON) -> nn.Sequential:
    """Return a network whose norms add a shift, as weights of exported networks leave them."""
    paddle.seed(0)
    model = nn.Sequential(nn.Conv2D(3, 6, 3), norm(6), nn.ReLU(), nn.Conv2D(6, 4, 1), norm(4))
    rng = np.random.default_rng(1)
    for layer in (model[1], model[4]):
        layer._variance.set_value(np.full(layer._variance.shape, variance, "float32"))
        layer.bias.set_value(rng.normal(size=layer.bias.shape).astype("float32"))
    for layer in (model[0], model[3]):
        layer.weight.set_value(layer.weight * 5)
    model.eval()
    return model


def batches() -> list[list[paddle.Tensor]]:
    rng = np.random.default_rng(0)
    return [[paddle.to_tensor(rng.normal(1, 2, (8, 3, 9, 9)).astype("float32"))] for _ in range(3)]


@pytest.mark.parametrize("norm", [nn.BatchNorm2D, nn.BatchNorm])
@pytest.mark.parametrize("variance", [1.0, 1 - EPSILON])
def test_the_network_is_the_same_and_can_be_trained(norm: type, variance: float) -> None:
    model, data = network(norm, variance), batches()
    before = [model(*inputs).numpy() for inputs in data]
    assert unfold_norms(model, lambda: data) == 2
    for inputs, answer in zip(data, before):
        np.testing.assert_allclose(model(*inputs).numpy(), answer, rtol=1e-4, atol=1e-4)
    # statistics are those of the data: training sees what evaluation sees
    assert folded_norms(model) == []
    model.train()
    for inputs, answer in zip(data, before):
        apart = np.abs(model(*inputs).numpy() - answer).mean() / np.abs(answer).mean()
        assert apart < 0.15
    model.eval()


def test_before_that_training_and_estimating_anew_made_another_network() -> None:
    for change in (nn.Layer.train, lambda model: reestimate(model, batches())):
        model, data = network(), batches()
        before = model(*data[0]).numpy()
        change(model)
        apart = np.abs(model(*data[0]).numpy() - before).mean() / np.abs(before).mean()
        assert apart > 0.3
        model = network()
        unfold_norms(model, batches)
        change(model)
        apart = np.abs(model(*data[0]).numpy() - before).mean() / np.abs(before).mean()
        assert apart < 0.15


def test_the_mean_and_variance_are_those_of_all_pixels() -> None:
    model, data = network(), batches()
    seen = np.concatenate([model[0](*inputs).numpy() for inputs in data])
    unfold_norms(model, lambda: data)
    np.testing.assert_allclose(model[1]._mean.numpy(), seen.mean((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(model[1]._variance.numpy(), seen.var((0, 2, 3)), rtol=1e-4)


def test_other_norms_are_left_alone() -> None:
    def never() -> list[list[paddle.Tensor]]:
        raise AssertionError("no data is needed")

    fresh = nn.Sequential(nn.Conv2D(3, 6, 3), nn.BatchNorm2D(6))
    trained = network()
    for layer in (trained[1], trained[4]):
        layer._mean.set_value(layer._mean + 0.01)
    spread = network(variance=1.1)
    frozen = network()
    for layer in (frozen[1], frozen[4]):
        layer._use_global_stats = True
    plain = nn.Sequential(nn.Conv2D(3, 6, 3), nn.BatchNorm2D(6, bias_attr=False))
    for model in (fresh, trained, spread, frozen, plain):
        values = [value.numpy() for value in model.state_dict().values()]
        assert unfold_norms(model, never) == 0
        for value, kept in zip(model.state_dict().values(), values):
            assert np.array_equal(value.numpy(), kept)
