"""What single layers cost, and the controls that rest on it: accuracy and speed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn

from core.errors import ConfigError, DataError, FileError
from core.quant.layers import quantized_layers
from core.workflows import layer_sensitivity
from tests.networks.ranked_layers import Outputs, images, meter, network, quantized


def test_errors_are_those_of_a_model_with_one_layer_quantized() -> None:
    batches = images()
    exact = [network()(*inputs).numpy() for inputs in batches]
    whole = quantized(network())
    before = [whole(*inputs).numpy() for inputs in batches]
    paths = list(quantized_layers(whole))
    found = layer_sensitivity.output_errors(Outputs(), whole, batches, paths)
    assert list(found) == ["", *paths]
    for path, error in found.items():
        other = quantized(network(), [path] if path else None)
        apart = [other(*inputs).numpy() - e for inputs, e in zip(batches, exact)]
        wanted = [np.sqrt((a**2).mean() / (e**2).mean()) for a, e in zip(apart, exact)]
        # of each batch, then the root mean square of both
        assert error == pytest.approx(float(np.sqrt(np.mean(np.square(wanted)))), rel=1e-4)
        assert error > 0
    for inputs, wanted in zip(batches, before):
        np.testing.assert_array_equal(whole(*inputs).numpy(), wanted)
    with pytest.raises(DataError, match="no images"):
        layer_sensitivity.output_errors(Outputs(), whole, [], paths)


def test_measurements_are_kept_and_go_on(tmp_path: Path) -> None:
    model, file = quantized(network()), tmp_path / "s" / "q.json"
    paths = list(quantized_layers(model))
    costs = {paths[2]: 0.2, paths[0]: -0.05}

    def stops(model: nn.Layer) -> float:
        if len(calls) == 5:  # in float, quantized, three layers
            raise KeyboardInterrupt
        return meter(costs, calls).value(model)

    calls: list[list[str]] = []
    interrupted = dataclasses.replace(meter(costs), value=stops)
    with pytest.raises(KeyboardInterrupt):
        layer_sensitivity.measure(Outputs(), model, images(), interrupted, file)
    assert calls == [[], paths, *([path] for path in paths[:3])]
    assert not any(layer.bypassed for layer in quantized_layers(model).values())
    [kept] = json.loads(file.read_text())["measurements"]
    assert list(kept["layers"]) == paths[:3]

    calls.clear()
    found = layer_sensitivity.measure(Outputs(), model, images(), meter(costs, calls), file)
    assert calls == [[path] for path in paths[3:]]
    assert (found.in_float, found.quantized) == pytest.approx((0.9, 0.75))
    assert found.together.lost == pytest.approx(0.15)
    assert {path: round(cost.lost, 6) for path, cost in found.layers.items() if cost.lost} == {
        paths[0]: -0.05,
        paths[2]: 0.2,
    }
    assert found.by_worst()[0][0] == paths[2]
    assert found.by_worst()[-1][0] == paths[0]
    calls.clear()
    assert layer_sensitivity.measure(Outputs(), model, images(), meter(costs, calls), file) == found
    assert calls == []

    # another weight, another grid, other images: another measurement, and the old one is kept
    model[0].weight.set_value(model[0].weight * 1.01)
    layer_sensitivity.measure(Outputs(), model, images(), meter({}, calls), file, [paths[1]])
    layer_sensitivity.measure(Outputs(), model, images(1), meter({}, calls), file, [paths[1]])
    quantized_layers(model)[paths[1]].input_quantizer.absmax.set_value(paddle.full([1], 9.0))
    layer_sensitivity.measure(Outputs(), model, images(), meter({}, calls), file, [paths[1]])
    kept = json.loads(file.read_text())["measurements"]
    assert [len(each["layers"]) for each in kept] == [6, 1, 1, 1]


def test_a_lower_metric_may_be_better() -> None:
    model = quantized(network())
    first = next(iter(quantized_layers(model)))
    upside_down = dataclasses.replace(meter({first: -0.3}), higher_is_better=False)
    found = layer_sensitivity.measure(Outputs(), model, images(), upside_down, globs=[first])
    assert found.quantized == pytest.approx(1.2)
    assert found.layers[first].lost == pytest.approx(0.3)


def test_what_a_measurement_refuses(tmp_path: Path) -> None:
    model = quantized(network())
    with pytest.raises(ConfigError, match="params: 'conv9' matches nothing"):
        layer_sensitivity.measure(Outputs(), model, images(), meter({}), None, ["conv9"])
    (tmp_path / "bad.json").write_text('{"format": 1, "measurements": [{"metric": "score"}]}')
    calls: list[list[str]] = []
    with pytest.raises(DataError, match=r"bad\.json: not a file of sensitivities"):
        layer_sensitivity.measure(
            Outputs(), model, images(), meter({}, calls), tmp_path / "bad.json"
        )
    with pytest.raises(FileError, match="/proc/nowhere"):
        layer_sensitivity.measure(
            Outputs(), model, images(), meter({}, calls), Path("/proc/nowhere/x.json")
        )
    assert calls == []  # told before anything long runs


def test_a_picture_of_every_layer(tmp_path: Path) -> None:
    found = layer_sensitivity.measure(Outputs(), quantized(network()), images(), meter({}))
    layer_sensitivity.plot(found, tmp_path / "few.png")
    many = {f"layer{index}": cost for index, cost in enumerate(list(found.layers.values()) * 5)}
    layer_sensitivity.plot(dataclasses.replace(found, layers=many), tmp_path / "many.png")
    few, tall = (cv2.imread(str(tmp_path / name)) for name in ("few.png", "many.png"))
    assert few.shape[1] == tall.shape[1]
    assert tall.shape[0] > 2 * few.shape[0]  # room for each name
    assert 0.5 < few.mean() / 255 < 0.99  # neither empty nor black
