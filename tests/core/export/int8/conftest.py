"""Float networks in a graph and in ONNX, which tests of the writers quantize."""

from __future__ import annotations

import pytest

from tests.networks.int8_layers import (
    Layers,
    Net,
    axis_of,
    build,
    calibrate,
    image,
    randomize,
    to_onnx,
)


@pytest.fixture(scope="module")
def layers():
    """Return one layer of each kind, some with a channel of zeros: model, graph, ONNX model."""
    model = randomize(Layers())
    for layer in (model.conv, model.depthwise, model.linear):
        weight = layer.weight.numpy()
        weight[(slice(None),) * axis_of(layer) + (2,)] = 0
        layer.weight.set_value(weight)
    graph = build(model)
    return model, graph, to_onnx(graph)


@pytest.fixture(scope="module")
def net():
    """Return layers in a network: calibrated grids, graph, ONNX model."""
    model = randomize(Net())
    graph = build(model)
    return calibrate(model, image()), graph, to_onnx(graph)
