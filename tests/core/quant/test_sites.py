"""Quantization sites that are bypassed, or go back to float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.quant.apply import record_of
from core.quant.layers import quantized_layers
from core.quant.outputs import rounded_outputs
from core.quant.sites import float_sites, restore, sites_of
from core.task import Task, build_task
from tests.networks.residual import ALL, KEY, batches, network, quantized


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})


def test_a_site_goes_back_to_float(task: Task) -> None:
    model = quantized(task)
    (x,) = batches()[0]
    conv = quantized_layers(model)["blocks.1.conv1"]
    shared = conv.input_quantizer
    restore(model, f"blocks.0.{KEY}")
    assert not conv.shares_quantizer
    assert conv.input_quantizer is not shared
    assert conv.input_quantizer.grid() == shared.grid()
    assert set(rounded_outputs(model)) == set(ALL) - {"blocks.0"}
    rounded = {}
    conv.register_forward_pre_hook(lambda _l, inputs: rounded.update(x=inputs[0].numpy()))
    model(x)
    steps = rounded["x"] / shared.grid().step
    assert np.abs(steps - np.rint(steps)).max() > 0.01  # the addition reads floats again
    for part in list(sites_of(model)):
        restore(model, part)
    np.testing.assert_array_equal(model(x).numpy(), network()(x).numpy())
    assert model.state_dict().keys() == network().state_dict().keys()


def test_a_layer_in_float_reads_what_is_rounded_for_all(task: Task) -> None:
    model = quantized(task)
    (x,) = batches()[0]
    restore(model, "blocks.1.conv1")
    assert "blocks.1.conv1" not in sites_of(model)
    assert rounded_outputs(model).keys() == ALL.keys()
    assert "blocks.1.conv1" not in str(record_of(model)["outputs"])
    with float_sites(model):
        np.testing.assert_allclose(model(x).numpy(), network()(x).numpy(), atol=1e-6)


def test_one_layer_alone_still_rounds_what_it_reads(task: Task) -> None:
    model = quantized(task)
    (x,) = batches()[0]
    layer = quantized_layers(model)["blocks.0.conv1"]
    with float_sites(model):
        layer.bypassed = False
        alone = model(x).numpy()
        layer.bypassed = True
        plain = model(x).numpy()
        rounded_outputs(model)["act"].bypassed = False
        both = model(x).numpy()
        layer.bypassed = False
        together = model(x).numpy()
    assert len({each.tobytes() for each in (alone, plain, both, together)}) == 4
