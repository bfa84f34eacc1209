"""Least squares of layers, against float64 and solvers of others."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from core.network.layer_fitting import (
    _DAMPING,
    _at_places,
    _read_at_places,
    factor,
    least_squares,
)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e25])  # squares of the last leave float32
def test_weights_and_factors_are_those_of_a_plain_solver(groups: int, unit: float) -> None:
    rng = np.random.default_rng(0)
    samples, outputs, count = 400, 5, 12
    inputs = (rng.normal(size=(samples, groups, count)) + 1).astype(np.float32) * np.float32(unit)
    weight = rng.normal(size=(groups, outputs, count)) / unit
    wanted = rng.normal(size=(samples, groups, outputs)).astype(np.float32)
    found, lower = least_squares(weight, inputs, wanted)
    for group in range(groups):
        x, y = inputs[:, group].astype(np.float64), wanted[:, group]
        power = x.T @ x / samples
        power += np.eye(count) * np.trace(power) / count * max(_DAMPING, count / samples)
        missed = y - x @ weight[group].T
        exact = weight[group] + np.linalg.solve(power, x.T @ missed / samples).T
        np.testing.assert_allclose(found[group], exact, rtol=1e-4, atol=1e-5 / unit)
        np.testing.assert_allclose(lower[group].T @ lower[group], power, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 3])
def test_a_factor_is_lower_triangular(groups: int) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(groups, 30, 8))
    power = rows.transpose(0, 2, 1) @ rows
    lower = factor(power)
    np.testing.assert_allclose(lower.transpose(0, 2, 1) @ lower, power, atol=1e-10)
    assert not np.triu(lower, 1).any()


def test_inputs_of_zeros_leave_a_weight_as_it_is() -> None:
    weight = np.random.default_rng(2).normal(size=(1, 3, 4))
    inputs, wanted = np.zeros((9, 1, 4), np.float32), np.ones((9, 1, 3), np.float32)
    found, _ = least_squares(weight, inputs, wanted)
    np.testing.assert_allclose(found, weight, rtol=1e-6)


CONVOLUTIONS = {
    "plain": {"kernel_size": 3, "padding": 1},
    "point by point": {"kernel_size": 1},
    "every second point": {"kernel_size": 1, "stride": 2},
    "depthwise": {"kernel_size": 5, "padding": 2, "stride": 2, "groups": 6, "out_channels": 12},
    "groups": {"kernel_size": (1, 3), "padding": (0, 1), "groups": 2},
    "reflected": {"kernel_size": 3, "padding": 2, "dilation": 2, "padding_mode": "reflect"},
    "same": {"kernel_size": 4, "padding": "SAME", "stride": (2, 1)},
    "valid": {"kernel_size": 3, "padding": "VALID", "dilation": (1, 2)},
    "four sides": {"kernel_size": 3, "padding": [0, 1, 2, 3]},
}


@pytest.mark.parametrize("places", [7, 10_000])
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_what_a_convolution_reads_times_its_weight_is_what_it_makes(options, places) -> None:
    paddle.seed(0)
    layer = nn.Conv2D(6, bias_attr=False, **{"out_channels": 4, **options})
    x = paddle.randn([3, 6, 11, 9])
    read = _read_at_places(layer, "a.layer", x, places)
    groups = layer._groups
    rows = layer.weight.numpy().reshape(groups, layer.weight.shape[0] // groups, -1)
    made = np.einsum("sgk,gok->sgo", read.reshape(len(read), groups, -1), rows)
    wanted = _at_places(layer, "a.layer", layer(x), places)
    assert len(wanted) == 3 * min(places, int(np.prod(layer(x).shape[2:])))
    np.testing.assert_allclose(made.reshape(wanted.shape), wanted, atol=1e-5)
