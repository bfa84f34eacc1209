"""Entries of tables of scales, and the rounding of weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import pytest
from paddle import nn

from core.errors import ExportError
from core.export.int8.onnx_writer import quantize_onnx
from core.export.int8.paddle_writer import quantize_program
from core.quant.scales import Grid, LayerScales
from core.quant.weight_grid import quantize_weight
from core.targets.presets import PRESETS
from tests.networks.int8_layers import (
    ABSMAX,
    build,
    close,
    image,
    randomize,
    rounded,
    rounded_weight,
    run_paddle,
)

pytestmark = pytest.mark.int8


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"weight": "grouped.wait"}, r"^grouped.wait: no convolution or linear layer"),
        ({"weight": "stem.bias"}, r"^stem.bias: no convolution or linear layer"),
        ({"weight_bits": 4}, r"^stem.weight: int8 files hold weights of 8 bits, not of 4"),
        ({"input": Grid(1.0, bits=6)}, r"^stem.weight: int8 files hold inputs of 8 bits, not of 6"),
    ],
)
def test_entries_that_cannot_be_stored_are_named(net, entry, message):
    _, graph, proto = net
    table = [replace(LayerScales("stem.weight", Grid(1.0)), **entry)]
    with pytest.raises(ExportError, match=message):
        quantize_program(graph, table)
    with pytest.raises(ExportError, match=message):
        quantize_onnx(proto, table, PRESETS["tensorrt"])


def test_a_second_entry_is_refused(net):
    _, graph, _ = net
    table = [LayerScales("stem.weight", Grid(absmax)) for absmax in (1.0, 2.0)]
    with pytest.raises(ExportError, match=r"^stem.weight: the table of scales has two entries"):
        quantize_program(graph, table)


def test_groups_of_transposed_convolutions(tmp_path):
    """No axis of [in, out / groups, h, w] counts the output channels."""
    model = randomize(nn.Sequential(nn.Conv2DTranspose(8, 6, 2, groups=2)))
    graph, table = build(model), [LayerScales("0.weight", Grid(ABSMAX))]
    message = r"^0.weight: a transposed convolution of 2 groups cannot have a scale for each output"
    with pytest.raises(ExportError, match=message):
        quantize_program(graph, table)
    weight = rounded_weight(model[0].weight.numpy(), None)
    model[0].weight.set_value(weight)
    fed = paddle.to_tensor(rounded(image(), Grid(ABSMAX)))
    wanted = {"output": model(fed).numpy()}
    made = quantize_program(graph, [replace(table[0], per_channel=False)])
    close(run_paddle(made, image(), tmp_path), wanted)


def test_rounding_of_weights():
    weight = np.float32([[0.5, -1.5, 127.0], [0.0, 0.0, 0.0], [2.54, -2.54, 0.01]])
    steps, absmax = quantize_weight(weight, 0)
    assert steps.tolist() == [[0, -2, 127], [0, 0, 0], [127, -127, 0]]
    np.testing.assert_array_equal(absmax, np.float32([127, 1, 2.54]))
    steps, absmax = quantize_weight(weight, None)
    assert steps.tolist() == [[0, -2, 127], [0, 0, 0], [3, -3, 0]]
    np.testing.assert_array_equal(absmax, np.float32([127]))
