"""Schedules against Paddle's, optimizers against their formulas, the average against numpy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle import nn

from core.errors import CheckpointError, ConfigError
from core.settings.config import read
from core.settings.optimizer_config import AdamW, Momentum, Sgd
from core.training.ema import Ema
from core.training.optimizers import Optimizer
from core.training.run import TrainConfig
from core.training.schedules import Constant, Cosine, Piecewise, Poly, learning_rate


def rates(schedule, total=40, per_epoch=10, rate=0.3):
    return [learning_rate(rate, schedule, step, total, per_epoch) for step in range(total)]


def theirs(scheduler, total=40):
    values = []
    for _ in range(total):
        values.append(scheduler())
        scheduler.step()
    return values


def test_schedules_equal_paddles() -> None:
    lr = paddle.optimizer.lr
    cosine = theirs(lr.CosineAnnealingDecay(0.3, T_max=40, eta_min=0.03))
    np.testing.assert_allclose(rates(Cosine(end_factor=0.1)), cosine, rtol=1e-6)
    poly = theirs(lr.PolynomialDecay(0.3, decay_steps=40, end_lr=0.0, power=0.9))
    np.testing.assert_allclose(rates(Poly(power=0.9)), poly, rtol=1e-6)
    steps = theirs(lr.PiecewiseDecay([10, 25], [0.3, 0.03, 0.003]))
    np.testing.assert_allclose(rates(Piecewise((1, 2.5), gamma=0.1)), steps, rtol=1e-6)
    uneven = theirs(lr.PiecewiseDecay([10, 25], [0.3, 0.15, 0.003]))
    np.testing.assert_allclose(rates(Piecewise((1, 2.5), gamma=(0.5, 0.02))), uneven, rtol=1e-6)
    warm = lr.LinearWarmup(lr.CosineAnnealingDecay(0.3, T_max=30), 10, 0.06, 0.3)
    expected = theirs(warm)
    got = rates(Cosine(warmup_epochs=1, warmup_start=0.2))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert rates(Constant()) == [0.3] * 40


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"schedule": {"kind": "cosine", "warmup_epochs": -3}},
            "schedule.warmup_epochs: expected 0",
        ),
        ({"schedule": {"kind": "poly", "warmup_start": 2}}, "schedule.warmup_start: expected 0..1"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a finite number, got nan"),
        ({"epochs": 0}, "epochs: expected 1 or more, got 0"),
        ({"clip_each": True}, "clip_each: acts only with clip_norm"),
        (
            {"schedule": {"kind": "piecewise", "milestones": [1, 2], "gamma": [0.5]}},
            "schedule.gamma: expected one, or one for each of 2 milestones",
        ),
    ],
)
def test_senseless_settings_are_refused(section, message) -> None:
    with pytest.raises(ConfigError) as caught:
        read(TrainConfig, {"epochs": 1, "batch_size": 1, "learning_rate": 1.0, **section})
    assert str(caught.value).startswith(message)


@given(
    st.sampled_from([Cosine(), Poly(), Constant(), Cosine(end_factor=0.2)]),
    st.floats(0, 3),
    st.integers(5, 60),
)
def test_rates_stay_between_zero_and_the_rate(schedule, warmup, total) -> None:
    schedule = type(schedule)(warmup_epochs=warmup)
    values = [learning_rate(0.5, schedule, step, total, 7) for step in range(total)]
    assert all(0 <= value <= 0.5 for value in values)
    after = values[round(warmup * 7) :]
    assert after == sorted(after, reverse=True)


def reference(config, weight, gradients, lr):
    """Textbook updates in numpy, weight decay included."""
    weight = weight.astype(np.float64)
    velocity, m, v = np.zeros_like(weight), np.zeros_like(weight), np.zeros_like(weight)
    for t, gradient in enumerate(gradients, 1):
        if isinstance(config, AdamW):
            weight = weight * (1 - lr * config.weight_decay)
            m = config.beta1 * m + (1 - config.beta1) * gradient
            v = config.beta2 * v + (1 - config.beta2) * gradient**2
            step = (m / (1 - config.beta1**t)) / (
                np.sqrt(v / (1 - config.beta2**t)) + config.epsilon
            )
            weight = weight - lr * step
            continue
        gradient = gradient + config.weight_decay * weight
        if isinstance(config, Momentum):
            velocity = config.momentum * velocity + gradient
            gradient = gradient + config.momentum * velocity if config.nesterov else velocity
        weight = weight - lr * gradient
    return weight


@pytest.mark.parametrize(
    "config",
    [
        Momentum(weight_decay=0.1),
        Momentum(weight_decay=0.1, nesterov=True),
        Sgd(weight_decay=0.1),
        AdamW(weight_decay=0.1),
    ],
)
@pytest.mark.parametrize("spared", [False, True])
def test_updates_follow_the_formula(config, spared) -> None:
    import dataclasses

    rng = np.random.default_rng(0)
    layer = nn.Linear(3, 2)
    weight, bias = layer.weight.numpy(), layer.bias.numpy()
    if spared:
        config = dataclasses.replace(config, no_weight_decay=("*bias",))
    optimizer = Optimizer(dict(layer.named_parameters()), config, None)
    gradients = [rng.normal(size=(3, 2)) for _ in range(4)]
    for gradient in gradients:
        loss = (layer.weight * paddle.to_tensor(gradient.astype("f"))).sum() + layer.bias.sum()
        loss.backward()
        optimizer.step(0.05)
    ones = [np.ones(2)] * 4
    plain = dataclasses.replace(config, weight_decay=0.0) if spared else config
    np.testing.assert_allclose(
        layer.weight.numpy(), reference(config, weight, gradients, 0.05), atol=1e-5
    )
    np.testing.assert_allclose(layer.bias.numpy(), reference(plain, bias, ones, 0.05), atol=1e-5)


def test_clipping_is_over_all_parameters() -> None:
    layer = nn.Linear(2, 2)
    before = {n: p.numpy() for n, p in layer.named_parameters()}
    optimizer = Optimizer(dict(layer.named_parameters()), Sgd(), clip_norm=0.5)
    (layer.weight.sum() * 3 + layer.bias.sum() * 4).backward()
    optimizer.step(1.0)
    moved = [before[n] - p.numpy() for n, p in layer.named_parameters()]
    norm = np.sqrt(sum((m**2).sum() for m in moved))
    np.testing.assert_allclose(norm, 0.5, rtol=1e-4)


def test_or_of_each_gradient_alone() -> None:
    layer = nn.Linear(2, 2)
    before = {n: p.numpy() for n, p in layer.named_parameters()}
    optimizer = Optimizer(dict(layer.named_parameters()), Sgd(), clip_norm=0.5, clip_each=True)
    (layer.weight.sum() * 3 + layer.bias.sum() * 0.1).backward()
    optimizer.step(1.0)
    moved = {n: before[n] - p.numpy() for n, p in layer.named_parameters()}
    np.testing.assert_allclose(moved["weight"], 0.25, rtol=1e-4)  # 3 each, of a norm of 6
    np.testing.assert_allclose(moved["bias"], 0.1, rtol=1e-4)  # of a norm that is small enough


def test_frozen_parameters_stay_and_something_must_train() -> None:
    layer = nn.Linear(2, 2)
    layer.bias.stop_gradient = True
    bias = layer.bias.numpy()
    optimizer = Optimizer(dict(layer.named_parameters()), Momentum(), None)
    (layer(paddle.ones([1, 2])) ** 2).sum().backward()
    optimizer.step(0.1)
    np.testing.assert_array_equal(layer.bias.numpy(), bias)
    layer.weight.stop_gradient = True
    with pytest.raises(ConfigError, match="no parameter is left to train"):
        Optimizer(dict(layer.named_parameters()), Momentum(), None)
    with pytest.raises(ConfigError, match=r"no_weight_decay: '\*norm\*' matches nothing"):
        Optimizer(
            dict(nn.Linear(2, 2).named_parameters()), Momentum(no_weight_decay=("*norm*",)), None
        )


def test_state_moves_to_a_fresh_optimizer_and_refuses_another_kind() -> None:
    def step(layer, optimizer):
        (layer(paddle.ones([1, 3])) ** 2).sum().backward()
        optimizer.step(0.1)

    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    first = Optimizer(dict(one.named_parameters()), AdamW(), None)
    step(one, first)
    two.set_state_dict({k: v.numpy() for k, v in one.state_dict().items()})
    second = Optimizer(dict(two.named_parameters()), AdamW(), None)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        step(one, first)
        step(two, second)
    np.testing.assert_array_equal(one.weight.numpy(), two.weight.numpy())
    other = Optimizer(dict(two.named_parameters()), Momentum(), None)
    with pytest.raises(CheckpointError, match=r"^train\.optimizer: .* of another optimizer"):
        other.load_state_dict(first.state_dict())


@pytest.mark.parametrize("config", [Momentum(), AdamW()])
def test_state_of_a_parameter_that_never_got_a_gradient(config) -> None:
    def build():
        net = nn.LayerDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
        return net, Optimizer(dict(net.named_parameters()), config, None)

    def step(net, optimizer):
        (net["used"](paddle.ones([1, 2])) ** 2).sum().backward()
        optimizer.step(0.1)

    one, first = build()
    two, second = build()
    step(one, first)
    two.set_state_dict({k: v.numpy() for k, v in one.state_dict().items()})
    second.load_state_dict(first.state_dict())
    step(one, first)
    step(two, second)
    for name, tensor in one.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), two.state_dict()[name].numpy())


def test_ema_follows_its_recurrence() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1D(2))
    ema = Ema(net, 0.9)
    average = {k: v.numpy().astype("d") for k, v in net.state_dict().items()}
    rng = np.random.default_rng(1)
    for t in range(1, 6):
        for tensor in net.state_dict().values():
            tensor.set_value(rng.normal(size=tensor.shape).astype("f"))
        ema.update(net)
        decay = min(0.9, (1 + t) / (10 + t))
        for name, tensor in net.state_dict().items():
            average[name] = decay * average[name] + (1 - decay) * tensor.numpy()
    now = {k: v.numpy() for k, v in net.state_dict().items()}
    with ema.applied(net):
        for name, tensor in net.state_dict().items():
            np.testing.assert_allclose(tensor.numpy(), average[name], atol=1e-6)
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), now[name])
    copy = Ema(net, 0.9)
    copy.load_state_dict(ema.state_dict())
    assert copy.updates == 5
    for name, array in ema.state_dict().items():
        np.testing.assert_array_equal(copy.state_dict()[name], array)
