"""Layers fitted to what they made in float, against loops over images, places and kernels."""

from __future__ import annotations

from functools import partial

import numpy as np
import paddle
import pytest
from paddle import nn

from core.errors import DataError
from core.network import layer_fitting
from core.network.layer_fitting import PLACES, note_outputs
from core.quant import calibration
from core.quant.adaptive_rounding import fit_weight
from core.quant.apply import apply_quantization
from core.quant.grid_plan import GridPlan
from core.quant.layers import quantize, quantized_layers
from core.quant.quantizers import Rounding
from core.quant.reconstruction import noting_while_calibrated, reconstruct
from core.quant.selection import LayerSelection
from core.settings import progress
from tests.networks.equalized import Depthwise, randomize

NORMS = {f"{name}.0": f"{name}.1" for name in ("stem", "expand", "depthwise")}
LAYERS = ["stem.0", "expand.0", "depthwise.0", "project", "head"]
LIMITS = {"stem.0": "pair_sum", "expand.0": "even", "depthwise.0": "none", "head": "pair_sum"}


def images(count, side=6, seed=3):
    rng = np.random.default_rng(seed)
    return [paddle.to_tensor(rng.normal(0.3, 1, [count, 3, side, side]), "float32")]


def quantized(model, batches, bits=8):
    """Quantize all layers of a model by the largest magnitudes of what they read."""
    seen = {}
    for path, layer in model.named_sublayers():
        if isinstance(layer, (nn.Conv2D, nn.Conv2DTranspose, nn.Linear)):
            layer.register_forward_pre_hook(
                lambda layer, inputs, path=path: seen.update(
                    {path: max(seen.get(path, 0.0), float(inputs[0].abs().max()))}
                )
            )
    for inputs in batches:
        model(*inputs)
    for path, absmax in seen.items():
        rounding = Rounding(activation_type="fixed", weight_bits=bits)
        layer = quantize(model, path, rounding, limit=LIMITS.get(path, "none"))
        layer.input_quantizer.begin(absmax, nonnegative=False, unsigned=False)
    return model


def unrolled(x, size, groups, padding=0):
    """Return what a convolution of stride 1 reads at each place, [N, places, groups, K]."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    count, channels, height, width = x.shape
    height, width = height - size + 1, width - size + 1
    found = np.zeros([count, height * width, groups, channels // groups * size**2])
    for image in range(count):
        for row in range(height):
            for column in range(width):
                part = x[image, :, row : row + size, column : column + size]
                found[image, row * width + column] = part.reshape(groups, -1)
    return found


def fitted_by_loops(layer, read, made, centred):
    """Return the weight [O, I / groups, h, w] for what a layer reads and makes, [N, C, H, W]."""
    groups, size = layer._groups, layer._kernel_size[0]
    inputs = unrolled(read, size, groups, layer._padding)
    wanted = made.reshape(*made.shape[:2], -1).transpose(0, 2, 1)
    if layer.bias is not None:
        wanted = wanted - layer.bias.numpy()
    inputs = inputs.reshape(-1, *inputs.shape[2:])
    wanted = wanted.reshape(len(inputs), groups, -1)
    if centred:
        inputs, wanted = inputs - inputs.mean(0), wanted - wanted.mean(0)
    weight = layer.weight.numpy().astype(np.float64)
    rows = weight.reshape(groups, len(weight) // groups, -1)
    return fit_weight(rows, inputs, wanted, layer.limit).reshape(weight.shape)


def steps_apart(found, expected):
    """Return the largest difference of two weights in steps of their output channels."""
    rows, others = (each.reshape(len(each), -1) for each in (found, expected))
    return float((np.abs(rows - others) * 127 / np.abs(others).max(1, keepdims=True)).max())


def outputs_of(model, inputs):
    """Return what each layer and norm makes, by path."""
    made = {}
    handles = [
        layer.register_forward_post_hook(lambda *e, path=path: made.update({path: e[2].numpy()}))
        for path, layer in model.named_sublayers()
        if isinstance(layer, (nn.Conv2D, nn.BatchNorm2D))
    ]
    made["answer"] = model(*inputs).numpy()
    for handle in handles:
        handle.remove()
    return made


def test_weights_and_biases_are_those_of_loops():
    batch = images(10)
    exact = outputs_of(randomize(Depthwise(True), spread=0.3), batch)
    model = quantized(randomize(Depthwise(True), spread=0.3), [batch])
    plain = quantized(randomize(Depthwise(True), spread=0.3), [batch])
    assert reconstruct(model, LAYERS, NORMS, [batch]) == 5

    x = plain.stem[0].rounded_input(batch[0]).numpy()
    stem = fitted_by_loops(plain.stem[0], x, exact["stem.0"], centred=True)
    assert steps_apart(model.stem[0].weight.numpy(), stem) < 0.01
    plain.stem[0].weight.set_value(stem.astype("float32"))
    plain.stem[1].bias.set_value(
        plain.stem[1].bias.numpy()
        + (exact["stem.1"] - outputs_of(plain, batch)["stem.1"]).mean((0, 2, 3))
    )
    np.testing.assert_allclose(model.stem[1].bias.numpy(), plain.stem[1].bias.numpy(), atol=1e-4)

    # those behind read what the mended ones make: the model itself, as it is now, up to them
    for path, before in (("expand.0", "stem"), ("depthwise.0", "expand"), ("head", None)):
        layer = dict(model.named_sublayers())[path]
        source = dict(plain.named_sublayers())[path]
        made = outputs_of(model, batch)
        if before is None:
            stem = np.maximum(made["stem.1"], 0)
            read = stem + made["project"]
        else:
            read = np.maximum(made[f"{before}.1"], 0)
        read = layer.rounded_input(paddle.to_tensor(read)).numpy()
        expected = fitted_by_loops(source, read, exact[path], centred=True)
        assert steps_apart(layer.weight.numpy(), expected) < 0.01, path
    made = outputs_of(model, batch)
    for place in ("stem.1", "expand.1", "depthwise.1", "project", "head"):
        means = (each[place].mean((0, 2, 3)) for each in (made, exact))
        np.testing.assert_allclose(*means, atol=2e-5 * np.abs(exact[place]).max())


def test_progress_is_shown_if_asked_for(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    caplog.set_level("INFO")
    batch = images(4)
    reconstruct(quantized(randomize(Depthwise()), [batch]), LAYERS, NORMS, [batch])
    assert "fit: " not in caplog.text
    model = quantized(randomize(Depthwise()), [batch])
    reconstruct(model, LAYERS, NORMS, [batch], progress=True)
    assert "fit: 4 of 5, left" in caplog.text


@pytest.mark.parametrize("parts", [1, 100])
def test_calibration_notes_what_a_pass_of_its_own_would(monkeypatch, parts):
    monkeypatch.setattr(calibration, "VALUES_BACK", parts)
    batches, plan = [images(5), images(4, seed=5)], GridPlan(norms=NORMS)
    model, choice = randomize(Depthwise(True)), LayerSelection(tuple(LAYERS), {})
    with noting_while_calibrated(model, choice, plan, lambda: batches) as noted:
        apply_quantization(model, choice, Rounding(), batches, "output_mse", plan)
    wanted = note_outputs(randomize(Depthwise(True)), LAYERS, NORMS, batches)
    assert (noted.places, noted.shifted) == (wanted.places, wanted.shifted)
    for found, expected in ((noted.samples, wanted.samples), (noted.means, wanted.means)):
        assert found.keys() == expected.keys() >= {"project", "head"}
        for path, values in found.items():
            np.testing.assert_allclose(values, expected[path], rtol=0, atol=1e-5)
    assert not any(layer._forward_post_hooks for layer in model.sublayers(include_self=True))
    again = randomize(Depthwise(True))
    apply_quantization(again, choice, Rounding(), batches, "output_mse", plan)
    assert reconstruct(model, LAYERS, NORMS, batches, noted=noted) == 5
    assert reconstruct(again, LAYERS, NORMS, batches) == 5
    for path, layer in quantized_layers(model).items():
        other = quantized_layers(again)[path].weight.numpy()
        assert steps_apart(layer.weight.numpy(), other) < 0.01


def test_calibration_on_more_images_than_are_fitted_on_notes_nothing():
    choice = LayerSelection(tuple(LAYERS), {})
    for batches in ([images(5), images(5, side=8)], [images(128), images(1)]):
        model = randomize(Depthwise())
        noting = noting_while_calibrated(model, choice, GridPlan(), partial(list, batches))
        with noting as noted:
            assert noted is None
            assert not model.head._forward_post_hooks


@pytest.mark.parametrize("bits", [4, 8])
def test_other_images_are_answered_more_as_in_float(bits):
    data, other = [images(16, seed=seed) for seed in (1, 2, 3, 4)], images(32, seed=9)
    exact = randomize(Depthwise(True), spread=0.5)(*other).numpy()
    model = quantized(randomize(Depthwise(True), spread=0.5), data, bits)
    before = np.square(model(*other).numpy() - exact).mean()
    reconstruct(model, LAYERS, NORMS, data)
    assert np.square(model(*other).numpy() - exact).mean() < 0.8 * before


def test_weights_are_what_files_hold():
    model = quantized(randomize(Depthwise(True)), [images(10)])
    reconstruct(model, LAYERS, NORMS, [images(10)])
    for path, layer in quantized_layers(model).items():
        value, rounded = layer.weight.numpy(), layer.rounded_weight().numpy()
        assert steps_apart(rounded, value) < 0.01, path


def test_large_maps_are_sampled_and_strides_paddings_and_dilations_known():
    paddle.seed(5)
    exact, model = (
        nn.Sequential(
            nn.Conv2D(3, 6, 3, stride=2, padding=1, dilation=2, padding_mode="reflect"),
            nn.Conv2D(6, 6, 3, padding="SAME", groups=2),
            nn.Conv2D(6, 4, 1, stride=2),
        )
        for _ in range(2)
    )
    model.set_state_dict(exact.state_dict())
    data, other = [images(24, side=40)], images(8, side=40, seed=8)
    quantized(model, data, bits=4)
    assert model[0](data[0][0]).shape[2] * model[0](data[0][0]).shape[3] > PLACES
    before = np.square(model(*other).numpy() - exact(*other).numpy()).mean()
    assert reconstruct(model, ["0", "1", "2"], {}, data) == 3
    assert np.square(model(*other).numpy() - exact(*other).numpy()).mean() < 0.8 * before


class Shared(nn.Layer):
    """A layer that runs twice, a transposed one, one of vectors in sequences, one for training."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2D(3, 3, 1)
        self.up = nn.Conv2DTranspose(3, 5, 2, stride=2)
        self.vectors = nn.Linear(5, 4)
        self.extra = nn.Conv2D(3, 2, 1)

    def forward(self, x):
        x = self.up(self.twice(self.twice(x)))
        x = self.vectors(x.flatten(2).transpose([0, 2, 1]))
        return (x, self.extra(x)) if self.training else x


def test_what_is_fitted_and_what_is_not():
    model = randomize(Shared(), spread=0.1)
    batches = [images(12), images(5, seed=6)]
    quantized(model, batches, bits=4)
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    exact = randomize(Shared(), spread=0.1)(batches[1][0]).numpy()
    off = np.square(model(batches[1][0]).numpy() - exact).mean()
    # all images pass at once, in the order of the batches
    assert reconstruct(model, ["twice", "up", "vectors"], {}, batches) == 1
    changed = {n for n, value in model.state_dict().items() if (value.numpy() != before[n]).any()}
    assert changed == {"up.bias", "vectors.weight", "vectors.bias"}
    assert np.square(model(batches[1][0]).numpy() - exact).mean() < off
    hooks = [layer._forward_post_hooks for layer in model.sublayers(include_self=True)]
    assert not any(hooks)


@pytest.mark.parametrize(("most", "fitted"), [(4, {"vectors.bias", "up.bias"}), (5, None)])
def test_layers_of_very_many_inputs_keep_their_weights(monkeypatch, most, fitted):
    monkeypatch.setattr(layer_fitting, "MOST_INPUTS", most)
    model = randomize(Shared(), spread=0.1)
    batches = [images(12)]
    quantized(model, batches, bits=4)
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    reconstruct(model, ["twice", "up", "vectors"], {}, batches)
    changed = {n for n, value in model.state_dict().items() if (value.numpy() != before[n]).any()}
    assert changed == (fitted or {"vectors.weight", "vectors.bias", "up.bias"})


def test_without_images():
    model = quantized(randomize(Depthwise(True)), [images(4)])
    weights = model.head.weight.numpy()
    with pytest.raises(DataError, match="no batches"):
        reconstruct(model, LAYERS, NORMS, [])
    np.testing.assert_array_equal(model.head.weight.numpy(), weights)
    assert not model.head._forward_post_hooks
