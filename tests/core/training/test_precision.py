"""Mixed precision: what is computed in fewer bits, what a training learns then, how it resumes.

On a CPU, where Paddle has float32 alone, the same runs with mixed precision off.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from core.network.weights import load_arrays
from core.training.engine import Engine
from core.training.hooks import Checkpoints, Hook
from core.training.precision import Amp
from core.training.recipe import read_recipe
from core.training.run import read_run
from tests.device import AMP_KINDS, DEVICE
from tests.toy_runs import InterruptAfter, StopAfter

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("kind", AMP_KINDS)]
BITS = {"off": paddle.float32, "float16": paddle.float16, "bfloat16": paddle.bfloat16}


def make(settings: Any, save_dir: Path, *hooks: Hook) -> Engine:
    run = read_run(settings | {"device": DEVICE})
    recipe = read_recipe({"strategies": []}, run.train.epochs, has_teacher=False)
    save_dir.mkdir(exist_ok=True)
    return Engine(run, recipe, save_dir, [Checkpoints(), *hooks])


def metric(save_dir: Path) -> float:
    description = json.loads((save_dir / "latest" / "model.json").read_text())
    return float(description["metrics"]["mae"])


def test_products_have_few_bits_and_gradients_many(kind: Any) -> None:
    paddle.seed(0)
    layer, x = paddle.nn.Linear(8, 4), paddle.rand([16, 8])
    layer(x).mean().backward()
    expected = layer.weight.grad.numpy()
    layer.clear_gradients()
    amp = Amp(kind, DEVICE)
    with amp.cast():
        y = layer(x)
    assert y.dtype == BITS[kind]
    amp.backward(y.astype("float32").mean())
    assert layer.weight.grad.dtype == paddle.float32
    scale = amp.state_dict().get("scale", np.ones(1))
    found = layer.weight.grad.numpy() / float(np.asarray(scale).reshape(-1)[0])
    np.testing.assert_allclose(found, expected, rtol=2e-2)


def test_a_training_learns_what_it_learns_in_float32(
    toy_settings: Any, tmp_path: Path, kind: Any
) -> None:
    before = make(toy_settings(epochs=1, learning_rate=1e-9), tmp_path / "none")
    before.train()
    for name, amp in (("full", "off"), ("mixed", kind)):
        make(toy_settings(epochs=6, amp=amp), tmp_path / name).train()
    start, full, mixed = (metric(tmp_path / name) for name in ("none", "full", "mixed"))
    assert full < 0.9 * start
    assert abs(mixed - full) <= 0.1 * full


@pytest.mark.parametrize("stop", [StopAfter(2), InterruptAfter(6)])
def test_a_resumed_training_ends_as_one_in_one_go(
    toy_settings: Any, tmp_path: Path, kind: Any, stop: Hook
) -> None:
    """The scale of the loss is in the checkpoint."""
    settings = toy_settings(epochs=4, amp=kind)
    make(settings, tmp_path / "whole").train()
    with contextlib.suppress(KeyboardInterrupt):
        make(settings, tmp_path / "parts", stop).train()
    assert json.loads((tmp_path / "parts" / "latest" / "model.json").read_text())["epoch"] < 4
    make(settings, tmp_path / "parts").train(resume=True)
    weights = [
        load_arrays(tmp_path / name / "latest" / "model.safetensors") for name in ("whole", "parts")
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], value, err_msg=name)
