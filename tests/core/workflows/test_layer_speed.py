"""Layers that int8 makes faster, and those that it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from core.errors import ConfigError
from core.quant.layers import quantized_layers
from core.quant.sites import float_sites
from core.settings.config import merge
from core.targets.names import BACKENDS
from core.task import Task, build_task
from core.workflows import layer_speed
from core.workflows.comparison_table import Validation
from core.workflows.float_fallback import (
    QualityLimits,
    keep_speed,
)
from tests.networks.ranked_layers import scripted, toy


@pytest.fixture
def task(toy_settings: Callable[..., dict[str, Any]]) -> Task:
    settings = toy_settings()
    kept = {key: settings[key] for key in ("data", "synthetic")}
    return build_task("outside.toy", merge(kept, {"model": {"width": 8}}))


@pytest.mark.parametrize(
    ("gain", "slow"),
    [
        ({"conv": 2.0, "head": -1.0}, ("head",)),  # milliseconds that int8 saves
        ({"conv": -2.0, "head": 1.0}, ("conv",)),
        ({"conv": 2.0, "head": 1.0}, ()),
        ({"conv": -2.0, "head": -1.0}, ("conv", "head")),
        ({"conv": 2.0, "head": -0.05}, ()),  # less than the clock can tell
    ],
)
def test_layers_that_do_not_pay(
    task: Task, monkeypatch: pytest.MonkeyPatch, gain: dict[str, float], slow: tuple[str, ...]
) -> None:
    def milliseconds(choice: frozenset[str]) -> float:
        return 10 - sum(gain[path] for path in choice)

    monkeypatch.setattr(layer_speed, "_timer", lambda *_arguments: scripted(milliseconds))
    found = layer_speed.measure_speed(task, toy(task), "openvino")
    assert found.slow == slow
    assert (found.float_ms, found.int8_ms) == (10, 10 - sum(gain.values()))
    assert found.chosen_ms == 10 - sum(saved for path, saved in gain.items() if path not in slow)
    assert [trial.group for trial in found.trials] == ["convolution 3x3 8x8", "linear vectors"]
    model = toy(task)
    if len(slow) == 2:
        with pytest.raises(ConfigError, match=r"int8 makes no layer faster on openvino \(10.00 ms"):
            keep_speed(task, model, "openvino")
        assert len(quantized_layers(model)) == 2
    else:
        keep_speed(task, model, "openvino")
        assert tuple(quantized_layers(model)) == tuple(p for p in ("conv", "head") if p not in slow)


def test_it_begins_with_the_faster_of_all_and_nothing(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    # no single change leads from one to the other
    milliseconds = {0: 10.0, 1: 12.0, 2: 11.0}
    monkeypatch.setattr(
        layer_speed,
        "_timer",
        lambda *_arguments: scripted(lambda choice: milliseconds[len(choice)]),
    )
    assert layer_speed.measure_speed(task, toy(task), "openvino").slow == ("conv", "head")
    milliseconds[2] = 9.0
    assert layer_speed.measure_speed(task, toy(task), "openvino").slow == ()


def test_one_lucky_measurement_is_not_enough(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[frozenset[str]] = []

    def milliseconds(choice: frozenset[str]) -> float:
        asked.append(choice)
        lucky = choice == {"conv"} and asked.count(choice) == 1
        return 5.0 if lucky else 10.0 - len(choice)

    monkeypatch.setattr(layer_speed, "_timer", lambda *_arguments: scripted(milliseconds))
    assert layer_speed.measure_speed(task, toy(task), "openvino").slow == ()


@pytest.mark.chain
@pytest.mark.parametrize("backend", BACKENDS)
def test_files_hold_the_layers_that_are_measured(task: Task, backend: Any) -> None:
    model = toy(task)
    seen: list[np.ndarray] = []

    def look(runs: list[Callable[[], Any]], *_rest: Any) -> list[float]:
        seen.extend(run()["level"] for run in runs)
        return [1.0] * len(runs)

    choices = [frozenset[str](), frozenset({"conv"}), frozenset({"conv", "head"})]
    [array] = layer_speed.real_batches(task, task.input_spec())[0]
    wanted = []
    for choice in choices:
        with float_sites(model):
            for path in choice:
                quantized_layers(model)[path].bypassed = False
            wanted.append(model(paddle.to_tensor(array[:1])).numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_speed, "shortest_ms", look)
        with layer_speed._timer(task, model, backend) as time_ms:
            time_ms(choices)
    apart = [[float(np.abs(a - b).max()) for b in wanted] for a in seen]
    for row, values in enumerate(apart):
        assert min(values) == values[row], apart  # each is closest to its own
    assert apart[0][0] < 1e-6 < apart[0][1]


@pytest.mark.chain
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_runtime_can_be_measured(task: Task, backend: str) -> None:
    model = toy(task)
    found = layer_speed.measure_speed(task, model, backend)
    assert set(found.slow) <= {"conv", "head"}
    assert min(found.float_ms, found.int8_ms, found.chosen_ms) > 0
    assert len(quantized_layers(model)) == 2  # it only measures
    assert len(found.trials) == 2


def test_only_what_runs_here_is_measured(task: Task) -> None:
    for target in ("tensorrt", "lite", "openvine"):
        with pytest.raises(ConfigError, match=f"speed_control: {target} cannot be measured here"):
            QualityLimits(speed_control=True).check(target, Validation(task))
    with pytest.raises(ConfigError, match="max_drop: there is no validation data"):
        QualityLimits(max_drop=0.5).check("openvino", Validation(task))
    with pytest.raises(ValueError, match="max_drop: expected points"):
        QualityLimits(max_drop=-1)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Conv2D(4, 8, 1), "convolution 1x1"),
        (nn.Conv2D(4, 8, (3, 5)), "convolution 3x5"),
        (nn.Conv2D(4, 8, 3, groups=4), "depthwise 3x3"),
        (nn.Conv2D(4, 8, 3, groups=2), "grouped 3x3"),
        (nn.Conv2DTranspose(4, 8, 2), "transposed 2x2"),
        (nn.Linear(4, 8), "linear"),
    ],
)
def test_kinds_of_layers(layer: nn.Layer, kind: str) -> None:
    assert layer_speed._kind(layer) == kind
