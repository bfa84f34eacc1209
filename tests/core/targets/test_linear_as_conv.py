"""Linear layers as convolutions of one pixel."""

from __future__ import annotations

import numpy as np
from paddle import nn

from core.export.int8.paddle_writer import quantize_program
from core.targets.paddle_inference import unsigned_inputs
from tests.networks.int8_layers import (
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


def test_linear_layers_of_vectors_are_convolutions_for_paddle(tmp_path):
    """Weights stay int8 in memory, and pooled maps need not be flattened first."""
    vectors = nn.Sequential(
        nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)
    )
    model, x = randomize(Named(vectors)), image()
    graph, table = build(model), calibrate(model, x)
    made = quantize_program(graph, table)
    kinds = [op.type for op in made.operators]
    assert "matmul_v2" not in kinds
    assert kinds.count("conv2d") == 2
    assert kinds.count("unsqueeze2") == 1  # the first reads what the pooling makes
    assert "flatten_contiguous_range" not in kinds
    for name, shape in (("2.weight", (16, 8, 1, 1)), ("4.weight", (5, 16, 1, 1))):
        assert made.weights[name].shape == shape
        assert made.weights[name].dtype == np.int8
    assert "matmul_v2" in [op.type for op in quantize_program(graph, table, "lite").operators]
    assert unsigned_inputs(graph) == set()
    graph, even = on_any_processor(graph, table, "paddle")
    made = quantize_program(graph, even)
    close(run_paddle(made, x, tmp_path), fake_quantized(model, even, x))
