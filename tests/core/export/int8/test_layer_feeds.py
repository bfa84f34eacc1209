"""What layers are fed is on their grids, small, and from all of the grid."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from core.errors import ExportError
from core.export.int8.layer_feeds import EagerLayers
from core.quant.layers import quantized_layers
from tests.networks.compared_layers import (
    Net,
    images,
    prepared,
    quantized,
    randomize,
)

pytestmark = pytest.mark.int8


def test_feeds_are_on_the_grids_and_small() -> None:
    model = quantized(randomize(Net()), 40)
    rounded = prepared(model, size=40)
    layers = quantized_layers(model)
    eager = EagerLayers(model, rounded.graph, layers)
    with eager.noting():
        for batch in images(40):
            model(paddle.to_tensor(batch[0]))
    shapes = {path: eager.feeds[path].values.shape for path in layers}
    assert shapes == {
        "stem": (3, 3, 16, 16),
        "depthwise": (3, 8, 16, 16),
        "grouped": (3, 8, 16, 16),
        "up": (3, 16, 16, 16),
        "tokens": (3, 16, 6),
        "head": (18, 10),  # of a vector, more are drawn, as a single output may cancel out
    }
    assert {path: each.drawn for path, each in eager.feeds.items() if each.drawn > 1} == {
        "head": 16
    }
    for path, layer in layers.items():
        values, grid = eager.feeds[path].values, layer.input_quantizer.grid()
        steps = values / grid.step
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
        assert np.abs(values[:2]).max() > 0  # of the images
        drawn = np.unique(np.rint(steps[2]))
        assert drawn.min() < 0.9 * grid.lowest or not grid.signed
        assert drawn.max() > 0.9 * grid.highest
    assert model.stem._forward_pre_hooks == {}


def test_a_layer_that_does_not_run_is_named() -> None:
    model = quantized(randomize(Net()))
    layers = {path: quantized_layers(model)[path] for path in ("stem", "tokens")}
    eager = EagerLayers(model, prepared(model).graph, layers)
    message = r"^tokens: is in the graph, but the model does not run it"
    with pytest.raises(ExportError, match=message), eager.noting():
        model.stem(paddle.rand([1, 3, 12, 12]))
