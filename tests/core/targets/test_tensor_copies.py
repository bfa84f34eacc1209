"""Tensors of which Paddle Inference must be given a copy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from paddle import nn

from core.export.int8.paddle_writer import quantize_program
from core.graph.operators import only
from core.targets.instructions import multiplies_int8_exactly
from tests.networks.int8_layers import (
    Moves,
    Named,
    build,
    calibrate,
    close,
    fake_quantized,
    image,
    on_any_processor,
    randomize,
    run_paddle,
)


def test_no_output_of_a_scale_operator_is_quantized():
    """Paddle Inference would read a grid that is not there; how that ends differs by run."""
    model = randomize(Moves())
    made = quantize_program(build(model), calibrate(model, image()))
    makers = {only(op.outputs, "Out"): op.type for op in made.operators}
    read = [only(op.inputs, "X") for op in made.operators if op.type == "quantize_linear"]
    assert "scale" in makers.values()
    assert not [name for name in read if makers.get(name) in ("scale", "concat", "pool2d")]


@pytest.mark.parametrize("layer", [nn.Conv2D(16, 5, 1), nn.Linear(16, 5)])
def test_behind_a_dropout_that_scales(tmp_path, layer):
    """Paddle Inference makes a `scale` of it, of whose input it would want a grid."""
    drop = nn.Dropout(0.2, mode="downscale_in_infer")
    ending = [nn.Flatten(), layer] if isinstance(layer, nn.Linear) else [layer]
    pooled = [nn.AdaptiveAvgPool2D(1), nn.Conv2D(8, 16, 1), nn.Hardswish(), drop, *ending]
    model, x = randomize(Named(nn.Sequential(*pooled))), image()
    model.eval()
    graph, table = build(model), calibrate(model, x)
    assert "dropout" in [op.type for op in graph.operators]
    graph, table = on_any_processor(graph, table, "paddle")
    close(run_paddle(quantize_program(graph, table), x, tmp_path), fake_quantized(model, table, x))


class Branch(nn.Layer):
    """What is read by a layer and by others: made by an addition, made by a convolution."""

    def __init__(self):
        super().__init__()
        self.entry = nn.Conv2D(8, 8, 1)
        self.first = nn.Conv2D(8, 8, 1)
        self.second = nn.Conv2D(8, 8, 1)

    def forward(self, image):
        x = nn.functional.relu(self.entry(image))
        y = nn.functional.relu(self.first(x) + x)
        return {"output": self.second(y) + y}


def test_only_what_convolutions_make_is_copied(tmp_path):
    model, x = randomize(Branch()), image()
    graph, table = build(model), calibrate(model, x)
    made = quantize_program(graph, table)
    kinds = [op.type for op in made.operators]
    assert kinds.count("relu") == 3  # two of the network, and the copy of the first
    assert "elementwise_mul" not in kinds
    if multiplies_int8_exactly("paddle"):
        unsigned = {"first.weight", "second.weight"}
        fine = [replace(e, input=replace(e.input, signed=e.weight not in unsigned)) for e in table]
        close(run_paddle(made, x, tmp_path), fake_quantized(model, fine, x))
    graph, even = on_any_processor(graph, table, "paddle")
    made = quantize_program(graph, even)
    kinds = [op.type for op in made.operators]
    assert (kinds.count("clip"), kinds.count("elementwise_mul")) == (2, 1)
    close(run_paddle(made, x, tmp_path), fake_quantized(model, even, x))
