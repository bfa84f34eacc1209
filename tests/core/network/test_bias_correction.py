"""Biases that give layers the means they had in float."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from core.errors import ConfigError, DataError
from core.network.bias_correction import bias_places, correct_biases, output_means
from tests.networks.equalized import Depthwise, randomize


def floor(values, step):
    """Round down, so that all that is rounded is too small by half a step on average."""
    return np.floor(values / step) * step


class FlooredLinear(nn.Linear):
    """What a quantized layer is to bias correction, with rounding that has a bias on purpose."""

    step = 0.25

    def forward(self, x):
        weight = paddle.floor(self.weight / self.step) * self.step
        return F.linear(paddle.floor(x / self.step) * self.step, weight, self.bias)


class FlooredConv(nn.Conv2D):
    step = 0.25

    def forward(self, x):
        weight = paddle.floor(self.weight / self.step) * self.step
        x = paddle.floor(x / self.step) * self.step
        return F.conv2d(x, weight, self.bias, padding=self._padding, groups=self._groups)


def floored(model):
    """Copy a model; its layers round down."""
    other = copy.deepcopy(model)
    for layer in other.sublayers():
        if type(layer) in (nn.Linear, nn.Conv2D):
            layer.__class__ = FlooredLinear if isinstance(layer, nn.Linear) else FlooredConv
    return other


def calibration(*sizes, shape=(3,)):
    rng = np.random.default_rng(4)
    return [[paddle.to_tensor(rng.normal(0.3, 1, (size, *shape)), "float32")] for size in sizes]


def test_two_linear_layers_are_corrected_as_numpy_says():
    model = randomize(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)), spread=0.3)
    quantized, batches = floored(model), calibration(40, 7)
    w1, b1, w2, b2 = (each.numpy().astype(np.float64) for each in model.parameters())
    x = np.concatenate([inputs[0].numpy() for inputs in batches])

    wanted = output_means(model, ["0", "2"], batches)
    shifts = correct_biases(quantized, wanted, batches)

    y1 = x @ w1 + b1
    q1 = floor(x, 0.25) @ floor(w1, 0.25) + b1
    first = (y1 - q1).mean(0)
    y2 = np.maximum(y1, 0) @ w2 + b2
    # the second layer is measured with what the corrected first one gives
    q2 = floor(np.maximum(q1 + first, 0).astype(np.float32), 0.25) @ floor(w2, 0.25) + b2
    second = (y2 - q2).mean(0)
    assert np.abs(first).min() > 1e-3
    assert np.abs(second).max() > 1e-2
    np.testing.assert_allclose(shifts["0"], first, atol=1e-5)
    np.testing.assert_allclose(shifts["2"], second, atol=1e-5)
    np.testing.assert_allclose(quantized[0].bias.numpy(), b1 + first, atol=1e-5)
    np.testing.assert_allclose(quantized[2].bias.numpy(), b2 + second, atol=1e-5)
    np.testing.assert_allclose(
        quantized(paddle.to_tensor(x)).numpy().mean(0), y2.mean(0), atol=1e-5
    )


def test_convolutions_without_bias_are_corrected_in_the_norm_behind():
    model = randomize(Depthwise(True), spread=0.2)
    quantized, batches = floored(model), calibration(4, 2, shape=(3, 8, 8))
    layers = ["project", "head", "depthwise.0", "expand.0", "stem.0"]
    norms = {f"{name}.0": f"{name}.1" for name in ("stem", "expand", "depthwise")}
    norms["head"] = "stem.1"  # not asked for: the layer has a bias of its own
    places = bias_places(quantized, layers, norms)
    assert places == ["project", "head", "depthwise.1", "expand.1", "stem.1"]
    wanted = output_means(model, places, batches)
    assert list(wanted) == ["stem.1", "expand.1", "depthwise.1", "project", "head"]

    def off():
        found = output_means(quantized, places, batches)
        return {path: np.abs(found[path] - wanted[path]).max() for path in wanted}

    before, weights = off(), quantized.head.weight.numpy()
    shifts = correct_biases(quantized, wanted, batches)
    assert list(shifts) == list(wanted)
    scale = {path: max(1.0, np.abs(wanted[path]).max()) for path in wanted}
    assert all(before[path] > 1e-2 for path in wanted)
    assert all(off()[path] < 1e-5 * scale[path] for path in wanted)
    np.testing.assert_array_equal(quantized.head.weight.numpy(), weights)
    # means per channel, by hand, over images of all batches and positions
    with paddle.no_grad():
        stem = [model.stem[1](model.stem[0](inputs[0])).numpy() for inputs in batches]
    np.testing.assert_allclose(wanted["stem.1"], np.concatenate(stem).mean((0, 2, 3)), atol=1e-5)


def one_run_for_each_layer(model, wanted, batches):
    """What takes the square of the number of layers: measure one layer, correct it, go on."""
    shifts = {}
    for path, mean in wanted.items():
        shifts[path] = mean - output_means(model, [path], batches)[path]
        bias = dict(model.named_sublayers())[path].bias
        bias.set_value((bias.numpy() + shifts[path]).astype("float32"))
    return shifts


class Upsampled(nn.Layer):
    """A layer that is told more than its input."""

    def __init__(self):
        super().__init__()
        self.first, self.up = nn.Conv2D(3, 4, 3, padding=1), nn.Conv2DTranspose(4, 4, 2, stride=2)
        self.last = nn.Conv2D(4, 2, 1)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        y = self.up(F.relu(self.first(x)), output_size=[17, 17])
        return self.last(F.relu(y))


@pytest.mark.parametrize(
    ("network", "places"),
    [
        (lambda: Depthwise(True), ["stem.1", "expand.1", "depthwise.1", "project", "head"]),
        (Upsampled, ["first", "up", "last"]),
    ],
)
def test_one_pass_corrects_as_one_run_for_each_layer(network, places):
    model = randomize(network(), spread=0.2)
    batches = calibration(4, 2, 3, shape=(3, 8, 8))
    wanted = output_means(model, places, batches)
    slow, fast = floored(model), floored(model)
    at_once = output_means(slow, places, batches)
    expected = one_run_for_each_layer(slow, wanted, batches)
    calls = getattr(fast, "calls", 0)
    found = correct_biases(fast, wanted, batches)
    if isinstance(fast, Upsampled):
        assert fast.calls == calls + 1
    for path, shift in expected.items():
        # the last bits of a mean may move a value across the end of a step of 0.25
        np.testing.assert_allclose(found[path], shift, rtol=0, atol=2e-4)
    last = places[-1]
    assert np.abs(wanted[last] - at_once[last] - expected[last]).max() > 1e-2


def test_rounded_outputs_have_the_means_of_float():
    """What rounds an output has its say in the mean, and rounds the corrected values again."""
    model = randomize(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4)), spread=0.3)
    batches = calibration(400)
    wanted = output_means(model, ["0", "1"], batches)
    quantized = floored(model)
    quantized[0].register_forward_post_hook(
        lambda _layer, _inputs, y: paddle.floor(y / 0.01) * 0.01
    )
    correct_biases(quantized, wanted, batches)
    found = output_means(quantized, ["0", "1"], batches)
    np.testing.assert_allclose(found["0"], wanted["0"], rtol=0, atol=5e-3)
    np.testing.assert_allclose(found["1"], wanted["1"], rtol=0, atol=2e-4)


def test_modes_and_hooks_are_put_back():
    model = randomize(nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5), nn.Linear(5, 4)))
    model.train()
    batches = calibration(6)
    correct_biases(model, output_means(model, ["0"], batches), batches)
    assert model.training
    assert model[1].training
    assert not any(layer._forward_post_hooks for layer in model.sublayers())


def test_what_cannot_be_corrected_is_left_out():
    class Odd(nn.Layer):
        def __init__(self):
            super().__init__()
            self.twice, self.idle = nn.Linear(3, 3), nn.Linear(3, 3)
            self.bare = nn.Linear(3, 3, bias_attr=False)
            self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
            self.other.bias = self.one.bias

        def forward(self, x):
            return self.other(self.one(self.bare(self.twice(self.twice(x)))))

    model = Odd()
    places = bias_places(model, ["twice", "idle", "bare", "one", "other"], {})
    assert places == ["twice", "idle"]
    assert output_means(model, places, calibration(2)) == {}
    with pytest.raises(ConfigError, match="nowhere"):
        bias_places(model, ["nowhere"], {})


def test_no_batches_and_wrong_values_are_errors():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.raises(DataError, match=r"^calibration: no batches"):
        output_means(model, ["0"], [])
    wanted = output_means(model, ["0", "1"], calibration(2))
    model[0].weight.set_value(np.full((3, 3), np.nan, np.float32))
    with pytest.raises(DataError, match=r"^0: expected finite outputs"):
        correct_biases(model, wanted, calibration(2))
    assert np.isfinite(model[0].bias.numpy()).all()
