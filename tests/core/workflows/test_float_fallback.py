"""Layers that go back to float until the metric holds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from core.quant.layers import quantized_layers
from core.settings.config import merge
from core.task import Task, build_task
from core.training.evaluation import validation_loader
from core.workflows import layer_sensitivity, layer_speed
from core.workflows.comparison_table import Validation
from core.workflows.float_fallback import (
    QualityLimits,
    _smallest,
    apply_float_fallback,
    keep_accuracy,
)
from tests.networks.ranked_layers import Outputs, images, meter, network, quantized, scripted, toy


@pytest.fixture
def task(toy_settings: Callable[..., dict[str, Any]]) -> Task:
    settings = toy_settings()
    kept = {key: settings[key] for key in ("data", "synthetic")}
    return build_task("outside.toy", merge(kept, {"model": {"width": 8}}))


@pytest.mark.parametrize("worst", [1, 2, 3, 5])
def test_the_fewest_layers_go_back(worst: int) -> None:
    model = quantized(network())
    paths = list(quantized_layers(model))
    errors = layer_sensitivity.output_errors(Outputs(), model, images(), paths)
    ranked = sorted(paths, key=lambda path: -errors[path])
    costs = dict.fromkeys(ranked[:worst], 0.01)
    metric = keep_accuracy(Outputs(), model, images(), meter(costs).value, 0.9, 0.5)
    assert metric == pytest.approx(0.9)
    assert set(quantized_layers(model)) == set(ranked[worst:])
    assert not any(layer.bypassed for layer in quantized_layers(model).values())


def test_nothing_goes_back_where_it_holds() -> None:
    model, calls = quantized(network()), []
    paths = list(quantized_layers(model))
    value = meter({paths[0]: 0.0049}, calls).value
    assert keep_accuracy(Outputs(), model, images(), value, 0.9, 0.5) == pytest.approx(0.8951)
    assert list(quantized_layers(model)) == paths
    assert len(calls) == 1


def test_what_never_holds_leaves_the_model_alone() -> None:
    model = quantized(network())
    paths, before = list(quantized_layers(model)), model(*images()[0]).numpy()
    value = meter(dict.fromkeys(paths, 0.1)).value
    with pytest.raises(
        ConfigError, match=r"max_drop: with all layers but one in float .* 2 points"
    ):
        keep_accuracy(Outputs(), model, images(), value, 0.9, 2.0)
    assert list(quantized_layers(model)) == paths
    np.testing.assert_array_equal(model(*images()[0]).numpy(), before)


def test_errors_that_rise_are_losses_where_lower_is_better() -> None:
    model = quantized(network())
    everything = len(quantized_layers(model))
    value = meter(dict.fromkeys(quantized_layers(model), 0.05)).value  # falls: an improvement
    keep_accuracy(Outputs(higher_is_better=False), model, images(), value, 0.9, 0.0)
    assert len(quantized_layers(model)) == everything


@given(st.integers(1, 400), st.data())
def test_the_search_finds_the_threshold(most: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, most + 1))
    asked: list[int] = []

    def holds(count: int) -> bool:
        asked.append(count)
        return count >= wanted

    assert _smallest(holds, most) == (wanted if wanted <= most else None)
    assert all(1 <= count <= most for count in asked)
    assert len(asked) == len(set(asked)) <= 2 * most.bit_length() + 1


def test_one_layer_cannot_go_back() -> None:
    assert _smallest(lambda count: True, 0) is None


@pytest.mark.parametrize(("drop", "diagnosed"), [(0.029, False), (0.031, True)])
def test_a_large_drop_is_diagnosed(
    task: Task, caplog: pytest.LogCaptureFixture, drop: float, diagnosed: bool
) -> None:
    model, validation = toy(task), Validation(task, validation_loader(task))
    # mae: lower is better
    metric, rows = apply_float_fallback(
        model, QualityLimits(), "openvino", validation, 0.2, 0.2 + drop
    )
    assert (metric, rows) == (0.2 + drop, [])
    assert ("more than 3 points lost" in caplog.text) == diagnosed
    for name in ("conv", "head", "all 2 together"):
        assert (f"│ {name} " in caplog.text) == diagnosed


def test_speed_first_then_accuracy(
    task: Task, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    saved = {"conv": 2.0, "head": -1.0}

    def milliseconds(choice: frozenset[str]) -> float:
        return 10 - sum(saved[path] for path in choice)

    monkeypatch.setattr(layer_speed, "_timer", lambda *_arguments: scripted(milliseconds))
    model = toy(task)
    both = QualityLimits(max_drop=1.0, speed_control=True)
    asked: list[list[str]] = []

    class Noting(Validation):
        def measure(self, model: Any) -> float:
            asked.append(list(quantized_layers(model)))
            return 0.205

    validation = Noting(task, validation_loader(task))
    metric, [row] = apply_float_fallback(model, both, "openvino", validation, 0.2, 0.3)
    assert metric == row.metric == 0.205
    assert row.model == "quantized, 1 back in float"
    assert list(quantized_layers(model)) == ["conv"]
    assert asked[0] == ["conv"]
    assert "8.00 with what pays in int8" in caplog.text
