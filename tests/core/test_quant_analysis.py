"""What single layers cost, and the controls that rest on it: accuracy and speed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle import nn

from core.config import merge
from core.deploy.formats import BACKENDS
from core.errors import ConfigError, DataError, FileError
from core.evaluation import validation_loader
from core.measurements import Meter
from core.quant import analysis, control, insert, speed
from core.quant.control import Control, hold, keep_accuracy, keep_speed
from core.quant.layers import quantized_layers
from core.quant.layout import Layout
from core.quant.parts import float_parts
from core.quant.quantizers import Rounding
from core.task import Task, build_task

FOUR_BITS = Rounding(activation_type="fixed", weight_bits=4, activation_bits=4)


@pytest.fixture
def task(toy_settings: Callable[..., dict[str, Any]]) -> Task:
    settings = toy_settings()
    kept = {key: settings[key] for key in ("data", "synthetic")}
    return build_task("outside.toy", merge(kept, {"model": {"width": 8}}))


def network() -> nn.Layer:
    """Six layers in a row; the third has channels of very different size."""
    paddle.seed(0)
    layers = [nn.Conv2D(3, 8, 3), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2D(8, 8, 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 4))
    model.eval()
    model[4].weight.set_value(
        model[4].weight * paddle.to_tensor([30.0] + [1.0] * 7).reshape([1, -1, 1, 1])
    )
    return model


def images(count: int = 2) -> list[list[paddle.Tensor]]:
    rng = np.random.default_rng(0)
    return [
        [paddle.to_tensor(rng.normal(size=(3, 3, 8, 8)).astype("float32"))] for _ in range(count)
    ]


def quantized(model: nn.Layer, chosen: list[str] | None = None) -> nn.Layer:
    choice = insert.choose(model, FOUR_BITS, ["Conv2D", "Linear"], [])
    if chosen is not None:
        choice = dataclasses.replace(choice, layers=tuple(chosen))
    insert.insert(model, choice, FOUR_BITS, images(), "abs_max", Layout())
    return model


class Outputs:
    """As much of a task as the errors of outputs need."""

    def __init__(self, higher_is_better: bool = True) -> None:
        self.higher_is_better = higher_is_better

    def name_outputs(self, raw: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return {"y": raw, "decided": raw.argmax(1)}

    def build_metric(self) -> Outputs:
        return self


def meter(costs: dict[str, float], calls: list[list[str]] | None = None) -> Meter:
    """A metric of 0.9, from which each layer that rounds takes its cost."""

    def value(model: nn.Layer) -> float:
        layers = quantized_layers(model)
        on = [path for path, layer in layers.items() if not layer.passing]
        if calls is not None:
            calls.append(on)
        return 0.9 - sum(costs.get(path, 0.0) for path in on)

    return Meter("score", True, value, "none")


def test_errors_are_those_of_a_model_with_one_layer_quantized() -> None:
    batches = images()
    exact = [network()(*inputs).numpy() for inputs in batches]
    whole = quantized(network())
    before = [whole(*inputs).numpy() for inputs in batches]
    paths = list(quantized_layers(whole))
    found = analysis.output_errors(Outputs(), whole, batches, paths)
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
        analysis.output_errors(Outputs(), whole, [], paths)


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
        analysis.measure(Outputs(), model, images(), interrupted, file)
    assert calls == [[], paths, *([path] for path in paths[:3])]
    assert not any(layer.passing for layer in quantized_layers(model).values())
    [kept] = json.loads(file.read_text())["measurements"]
    assert list(kept["layers"]) == paths[:3]

    calls.clear()
    found = analysis.measure(Outputs(), model, images(), meter(costs, calls), file)
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
    assert analysis.measure(Outputs(), model, images(), meter(costs, calls), file) == found
    assert calls == []

    # another weight, another grid, other images: another measurement, and the old one is kept
    model[0].weight.set_value(model[0].weight * 1.01)
    analysis.measure(Outputs(), model, images(), meter({}, calls), file, [paths[1]])
    analysis.measure(Outputs(), model, images(1), meter({}, calls), file, [paths[1]])
    quantized_layers(model)[paths[1]].input_quantizer.absmax.set_value(paddle.full([1], 9.0))
    analysis.measure(Outputs(), model, images(), meter({}, calls), file, [paths[1]])
    kept = json.loads(file.read_text())["measurements"]
    assert [len(each["layers"]) for each in kept] == [6, 1, 1, 1]


def test_a_lower_metric_may_be_better() -> None:
    model = quantized(network())
    first = next(iter(quantized_layers(model)))
    upside_down = dataclasses.replace(meter({first: -0.3}), higher_is_better=False)
    found = analysis.measure(Outputs(), model, images(), upside_down, globs=[first])
    assert found.quantized == pytest.approx(1.2)
    assert found.layers[first].lost == pytest.approx(0.3)


def test_what_a_measurement_refuses(tmp_path: Path) -> None:
    model = quantized(network())
    with pytest.raises(ConfigError, match="params: 'conv9' matches nothing"):
        analysis.measure(Outputs(), model, images(), meter({}), None, ["conv9"])
    (tmp_path / "bad.json").write_text('{"format": 1, "measurements": [{"metric": "score"}]}')
    calls: list[list[str]] = []
    with pytest.raises(DataError, match=r"bad\.json: not a file of sensitivities"):
        analysis.measure(Outputs(), model, images(), meter({}, calls), tmp_path / "bad.json")
    with pytest.raises(FileError, match="/proc/nowhere"):
        analysis.measure(Outputs(), model, images(), meter({}, calls), Path("/proc/nowhere/x.json"))
    assert calls == []  # told before anything long runs


def test_a_picture_of_every_layer(tmp_path: Path) -> None:
    found = analysis.measure(Outputs(), quantized(network()), images(), meter({}))
    analysis.plot(found, tmp_path / "few.png")
    many = {f"layer{index}": cost for index, cost in enumerate(list(found.layers.values()) * 5)}
    analysis.plot(dataclasses.replace(found, layers=many), tmp_path / "many.png")
    few, tall = (cv2.imread(str(tmp_path / name)) for name in ("few.png", "many.png"))
    assert few.shape[1] == tall.shape[1]
    assert tall.shape[0] > 2 * few.shape[0]  # room for each name
    assert 0.5 < few.mean() / 255 < 0.99  # neither empty nor black


# accuracy control


@pytest.mark.parametrize("worst", [1, 2, 3, 5])
def test_the_fewest_layers_go_back(worst: int) -> None:
    model = quantized(network())
    paths = list(quantized_layers(model))
    errors = analysis.output_errors(Outputs(), model, images(), paths)
    ranked = sorted(paths, key=lambda path: -errors[path])
    costs = dict.fromkeys(ranked[:worst], 0.01)
    metric = keep_accuracy(Outputs(), model, images(), meter(costs).value, 0.9, 0.5)
    assert metric == pytest.approx(0.9)
    assert set(quantized_layers(model)) == set(ranked[worst:])
    assert not any(layer.passing for layer in quantized_layers(model).values())


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

    assert control._smallest(holds, most) == (wanted if wanted <= most else None)
    assert all(1 <= count <= most for count in asked)
    assert len(asked) == len(set(asked)) <= 2 * most.bit_length() + 1


def test_one_layer_cannot_go_back() -> None:
    assert control._smallest(lambda count: True, 0) is None


# speed control


@contextlib.contextmanager
def scripted(milliseconds: Callable[[frozenset[str]], float]) -> Iterator[Any]:
    yield lambda choices: [milliseconds(choice) for choice in choices]


def toy(task: Task) -> nn.Layer:
    paddle.seed(0)
    model = task.build_model()
    choice = insert.choose(model, FOUR_BITS, ["Conv2D", "Linear"], [])
    eight = Rounding(activation_type="fixed")
    rng = np.random.default_rng(0)
    batches = [[paddle.to_tensor(rng.random((4, 3, 8, 8)).astype("float32"))]]
    insert.insert(model, choice, eight, batches, "abs_max", Layout())
    model.eval()
    return model


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

    monkeypatch.setattr(speed, "_timer", lambda *_arguments: scripted(milliseconds))
    found = speed.measure_speed(task, toy(task), "openvino")
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
        speed, "_timer", lambda *_arguments: scripted(lambda choice: milliseconds[len(choice)])
    )
    assert speed.measure_speed(task, toy(task), "openvino").slow == ("conv", "head")
    milliseconds[2] = 9.0
    assert speed.measure_speed(task, toy(task), "openvino").slow == ()


def test_one_lucky_measurement_is_not_enough(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[frozenset[str]] = []

    def milliseconds(choice: frozenset[str]) -> float:
        asked.append(choice)
        lucky = choice == {"conv"} and asked.count(choice) == 1
        return 5.0 if lucky else 10.0 - len(choice)

    monkeypatch.setattr(speed, "_timer", lambda *_arguments: scripted(milliseconds))
    assert speed.measure_speed(task, toy(task), "openvino").slow == ()


@pytest.mark.chain
@pytest.mark.parametrize("backend", BACKENDS)
def test_files_hold_the_layers_that_are_measured(task: Task, backend: Any) -> None:
    model = toy(task)
    seen: list[np.ndarray] = []

    def look(runs: list[Callable[[], Any]], *_rest: Any) -> list[float]:
        seen.extend(run()["level"] for run in runs)
        return [1.0] * len(runs)

    choices = [frozenset[str](), frozenset({"conv"}), frozenset({"conv", "head"})]
    [array] = speed.real_batches(task, task.input_spec())[0]
    wanted = []
    for choice in choices:
        with float_parts(model):
            for path in choice:
                quantized_layers(model)[path].passing = False
            wanted.append(model(paddle.to_tensor(array[:1])).numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "shortest_ms", look)
        with speed._timer(task, model, backend, 1) as time_ms:
            time_ms(choices)
    apart = [[float(np.abs(a - b).max()) for b in wanted] for a in seen]
    for row, values in enumerate(apart):
        assert min(values) == values[row], apart  # each is closest to its own
    assert apart[0][0] < 1e-6 < apart[0][1]


@pytest.mark.chain
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_runtime_can_be_measured(task: Task, backend: str) -> None:
    model = toy(task)
    found = speed.measure_speed(task, model, backend)
    assert set(found.slow) <= {"conv", "head"}
    assert min(found.float_ms, found.int8_ms, found.chosen_ms) > 0
    assert len(quantized_layers(model)) == 2  # it only measures
    assert len(found.trials) == 2


def test_only_what_runs_here_is_measured(task: Task) -> None:
    for target in ("tensorrt", "lite", "openvine"):
        with pytest.raises(ConfigError, match=f"speed_control: {target} cannot be measured here"):
            Control(speed_control=True).check(target, None)
    with pytest.raises(ConfigError, match="max_drop: there is no validation data"):
        Control(max_drop=0.5).check("openvino", None)
    with pytest.raises(ValueError, match="max_drop: expected points"):
        Control(max_drop=-1)


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
    assert speed._kind(layer) == kind


# both, and the diagnosis


@pytest.mark.parametrize(("drop", "diagnosed"), [(0.029, False), (0.031, True)])
def test_a_large_drop_is_diagnosed(
    task: Task, caplog: pytest.LogCaptureFixture, drop: float, diagnosed: bool
) -> None:
    model, loader = toy(task), validation_loader(task)
    nothing = Control()
    # mae: lower is better
    metric, rows = hold(task, model, nothing, "openvino", loader, lambda _: 0.0, 0.2, 0.2 + drop)
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

    monkeypatch.setattr(speed, "_timer", lambda *_arguments: scripted(milliseconds))
    model, loader = toy(task), validation_loader(task)
    both = Control(max_drop=1.0, speed_control=True)
    asked: list[list[str]] = []

    def measure(model: Any) -> float:
        asked.append(list(quantized_layers(model)))
        return 0.205

    metric, [row] = hold(task, model, both, "openvino", loader, measure, 0.2, 0.3)
    assert metric == row.metric == 0.205
    assert row.model == "quantized, 1 back in float"
    assert list(quantized_layers(model)) == ["conv"]
    assert asked[0] == ["conv"]
    assert "8.00 with what pays in int8" in caplog.text
