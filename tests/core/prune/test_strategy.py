"""Pruning as a strategy of a run: cuts, resume, replay, targets, refusals."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from core.errors import CheckpointError, ConfigError
from core.export.package import export
from core.network.weights import load_arrays
from core.prune.config import TARGETS, PruneConfig
from core.prune.cut import ChannelEdit, apply_edit
from core.prune.strategy import Prune
from core.settings.config import merge, read
from core.training import checkpoint
from core.training.engine import Engine
from core.training.hooks import Hook
from core.training.run import read_run
from tests.toy_runs import STOPS, StopAfter, plain, train

SETTINGS: dict[str, Any] = {
    "task": {"name": "outside.toy"},
    "model": {"width": 16},
    "synthetic": {"train_images": 16, "val_images": 6},
    "train": {"epochs": 4, "batch_size": 4, "learning_rate": 0.05},
    "device": "cpu",
}
LISTEN = "outside.strategies:Listen"


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return merge(SETTINGS, {"data": {"root": str(tmp_path / "data")}})


def prune(**options: Any) -> dict[str, Any]:
    given = {} if set(options) & set(TARGETS) else {"target_ratio": 0.5}
    return {"kind": "prune", "start_epoch": 1, "calibration_samples": 8, **given, **options}


def arrays(folder: Path, name: str) -> Any:
    return plain(load_arrays(folder / "latest" / name))


def test_one_shot_cuts_trains_on_and_loads_alone(settings: Any, tmp_path: Path) -> None:
    engine = train(settings, tmp_path / "run", prune())
    assert engine.model.conv.weight.shape[0] == 8
    assert engine.model.norm._num_features == 8
    task, again = checkpoint.restore(tmp_path / "run" / "latest")
    image = paddle.randn([2, 3, 8, 8])
    engine.model.eval()
    np.testing.assert_array_equal(again(image).numpy(), engine.model(image).numpy())
    exported = export(task, again, tmp_path / "exported", formats=("paddle", "onnx"))
    assert exported.description.report is not None
    assert exported.description.report.parameters == 8 * 27 + 2 * 8 + 8 + 1
    plain = train(settings, tmp_path / "plain")
    assert plain.model.conv.weight.shape[0] == 16
    sizes = [
        (tmp_path / name / "latest" / file).stat().st_size
        for name in ("run", "plain")
        for file in ("model.safetensors", "training.safetensors")
    ]
    assert sizes[0] < sizes[2]
    assert sizes[1] < sizes[3]


@pytest.mark.parametrize(
    "strategies",
    [
        [prune()],
        [prune(num_steps=2, every_epochs=2)],
        [prune(criterion="taylor"), {"kind": LISTEN}],
        [prune(criterion="random", num_steps=3, allocation="search", search_steps=2)],
        [prune(target_ratio=0.2), prune(target_ratio=0.2, start_epoch=2)],
        [prune(reconstruct=False, num_steps=2)],
        [prune(), {"kind": "outside.strategies:Round", "start_epoch": 2}],
    ],
    ids=[
        *("one", "steps", "taylor+listen", "random search in steps", "twice", "statistics"),
        "then a grid",
    ],
)
def test_resume_is_exact(settings: Any, tmp_path: Path, strategies: Any) -> None:
    straight = train(settings, tmp_path / "straight", *strategies)
    for number, stop in enumerate(STOPS):
        folder = tmp_path / f"stop {number}"
        train(settings, folder, *strategies, hooks=[stop])
        resumed = train(settings, folder, *strategies, resume=True)
        assert straight.windows.edits() == resumed.windows.edits()
        for name in (checkpoint.WEIGHTS, checkpoint.TRAINING):
            assert arrays(tmp_path / "straight", name) == arrays(folder, name)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({}, "fitted 2 layers to what they made before the cut"),
        ({"reconstruct": False}, "estimated the statistics of 1 batch norms anew"),
        ({"calibration_samples": 0}, ""),
    ],
)
def test_what_mends_a_cut(
    settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, choices: Any, said: str
) -> None:
    caplog.set_level(logging.INFO)
    train(settings, tmp_path / "run", prune(**choices))
    told = [words for words in ("fitted", "estimated") if words in caplog.text]
    assert told == said.split()[:1]
    assert said in caplog.text


def test_steps_together_reach_the_target(settings: Any, tmp_path: Path) -> None:
    widths = []

    class Watch(Hook):
        def after_epoch(self, engine: Engine) -> None:
            widths.append(engine.model.conv.weight.shape[0])

    wide = merge(settings, {"model": {"width": 64}})
    train(
        wide,
        tmp_path / "run",
        prune(target_ratio=0.75, num_steps=2, every_epochs=2),
        hooks=[Watch()],
    )
    assert widths == [64, 32, 32, 16]


def test_a_later_step_makes_up_for_what_an_earlier_one_missed(
    settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recipe = prune(target_ratio=0.5, num_steps=2, round_to=8)  # 16 -> 8 or nothing
    engine = train(settings, tmp_path / "run", recipe)
    assert engine.model.conv.weight.shape[0] == 8
    assert "prune step 2 of 2: target_ratio asked to remove 50.0 %, removed 50.0 %" in caplog.text


def test_resume_refuses_another_recipe(settings: Any, tmp_path: Path) -> None:
    train(settings, tmp_path / "run", prune(num_steps=3), hooks=[StopAfter(2)])
    with pytest.raises(
        ConfigError, match=r"strategies\.0\.target_ratio: the run to resume has 0\.5"
    ):
        train(settings, tmp_path / "run", prune(num_steps=3, target_ratio=0.7), resume=True)


def test_a_pruned_checkpoint_is_pruned_again(settings: Any, tmp_path: Path) -> None:
    train(settings, tmp_path / "first", prune())
    start = {"model": {"pretrained": str(tmp_path / "first" / "latest")}}
    engine = train(merge(settings, start), tmp_path / "second", prune(start_epoch=0))
    assert engine.model.conv.weight.shape[0] == 4
    edits = json.loads((tmp_path / "second" / "latest" / "model.json").read_text())["edits"]
    assert [kind for kind, _ in edits] == ["prune", "prune"]
    _, again = checkpoint.restore(tmp_path / "second" / "latest")
    assert again.conv.weight.shape[0] == 4


def test_channels_of_layers_that_start_anew_are_warned_about(
    settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(settings, tmp_path / "plain")
    weights = {"pretrained": str(tmp_path / "plain" / "latest"), "reinit": ["conv.*"]}
    start = merge(settings, {"model": weights, "train": {"epochs": 1}})
    train(start, tmp_path / "run", prune(start_epoch=0))
    assert "model.reinit starts conv.* anew" in caplog.text


def test_the_choice_is_the_smallest_filters(settings: Any, tmp_path: Path) -> None:
    train(settings, tmp_path / "plain")
    weights = tmp_path / "plain" / "latest"
    start = merge(settings, {"model": {"pretrained": str(weights)}, "train": {"epochs": 1}})
    train(start, tmp_path / "run", prune(start_epoch=0, calibration_samples=0))
    edits = json.loads((tmp_path / "run" / "latest" / "model.json").read_text())["edits"]
    cut = edits[0][1]["cuts"][0]
    kept = cut["positions"][cut["weights"]["conv.weight"]["0"]]
    norms = np.abs(load_arrays(weights / "model.safetensors")["conv.weight"]).sum((1, 2, 3))
    assert kept == sorted(np.argsort(norms)[8:].tolist())


def test_other_targets(settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = train(settings, tmp_path / "a", prune(target_parameters_ratio=0.5))
    before, after = (sum(27 * w + 2 * w + w + 1 for w in [width]) for width in (16, 8))
    assert engine.model.conv.weight.shape[0] == 8
    assert f"{1 - after / before:.1%}".replace("%", " %") in caplog.text
    engine = train(settings, tmp_path / "b", prune(pruned_ratio=0.25, round_to=4))
    assert engine.model.conv.weight.shape[0] == 12
    engine = train(settings, tmp_path / "c", prune(pruned_ratio={"conv*": 0.75}))
    assert engine.model.conv.weight.shape[0] == 4


def test_a_target_out_of_reach_is_told(
    settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(settings, tmp_path / "run", prune(target_ratio=0.9, max_ratio=0.25))
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any("asked to remove 90.0 %, removed 25.0 %" in message for message in warnings)
    why = "prune: no layer loses more than 25 % of its channels (max_ratio)"
    assert any(message.startswith(why) for message in warnings)


def test_a_run_that_cuts_nothing_says_so(
    settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for asked in ({"target_ratio": 0.5, "round_to": 4096}, {"target_ratio": 1e-9}):
        caplog.clear()
        train(settings, tmp_path / "run", prune(**asked), overwrite=True)
        warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        told = "prune: nothing is cut: in all 1 groups, target, round_to and max_ratio leave"
        assert any(message.startswith(told) for message in warnings)


@pytest.mark.parametrize("drift", [1.0, 2.5, 0.3])
def test_latency_comes_down_to_a_target(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drift: float
) -> None:
    """The loop of predicting, cutting, measuring and correcting, with a clock of our own.

    Once the model is measured other programs may start or end, which slows all down by a factor.
    """
    from core.prune import planner as module

    def load(task: Any, model: Any, specs: Any, backend: Any, threads: Any) -> float:
        return 2.0 + 0.5 * float(model.conv.weight.shape[0])  # 10 ms of 16 channels

    def measure(runs: Any, threads: int) -> list[float]:
        return [run if len(runs) == 1 else run * drift for run in runs]

    class Flat:
        def __init__(self, *_arguments: Any) -> None:
            pass

        def predict(self, shapes: Any) -> float:
            return float(sum(shape.in_channels * shape.out_channels for shape in shapes))

    monkeypatch.setattr(module, "load_run", load)
    monkeypatch.setattr(module, "model_ms", measure)
    monkeypatch.setattr(module, "LatencyTable", Flat)
    engine = train(settings, tmp_path / "a", prune(target_latency_ratio=0.4))
    assert engine.model.conv.weight.shape[0] == 8  # 6 ms
    config = {"kind": "prune", "start_epoch": 1, "target_latency_ms": 4.0}
    engine = train(settings, tmp_path / "b", config)
    assert engine.model.conv.weight.shape[0] == 4
    # 10 -> 6 ms in two steps of the same share: 10 * 0.6 ** (1 / 2) is 7.75 ms
    engine = train(
        settings, tmp_path / "two", prune(target_latency_ratio=0.4, num_steps=2, round_to=1)
    )
    assert engine.model.conv.weight.shape[0] == 8
    with pytest.raises(ConfigError, match=r"target_latency_ms: expected less than the 10.00 ms"):
        train(settings, tmp_path / "c", config | {"target_latency_ms": 11.0})


@pytest.mark.chain
def test_latency_is_really_measured(settings: Any, tmp_path: Path) -> None:
    wide = merge(settings, {"model": {"width": 256}, "train": {"epochs": 2}})
    engine = train(wide, tmp_path / "run", prune(target_latency_ratio=0.5, round_to=8))
    assert engine.model.conv.weight.shape[0] < 256
    measured = json.loads((tmp_path / "run" / "latency.json").read_text())
    assert measured["tables"][0]["backend"] == "onnxruntime"


def test_sensitivity_is_kept_and_reused(
    settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "sensitivities.json"
    recipe = prune(allocation="sensitive", delta_rate=0.25, sensitivities_file=str(file))
    train(settings, tmp_path / "a", recipe)
    assert "sensitivity of 1 groups, 0 of them measured before" in caplog.text
    [entry] = json.loads(file.read_text())["measurements"]
    assert entry["curves"]["conv"]["ratios"] == [0.25, 0.5, 0.75]
    assert (tmp_path / "a" / "sensitivity.png").is_file()
    train(settings, tmp_path / "b", recipe)
    assert "sensitivity of 1 groups, 1 of them measured before" in caplog.text


def test_search_leaves_statistics_alone_and_never_ends_worse(
    settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recipe = prune(allocation="search", search_steps=3)
    one, two = (train(settings, tmp_path / name, recipe) for name in ("a", "b"))
    assert one.model.conv.weight.shape[0] == 8
    for name, value in one.model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), two.model.state_dict()[name].numpy())
    found = re.search(r"search: (\S+) with equal shares, (\S+) with the best", caplog.text)
    assert found is not None
    assert float(found[2]) >= float(found[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_ratio": None}, "give exactly one of target_ratio"),
        ({"pruned_ratio": 0.5}, "pruned_ratio: give exactly one .* got target_ratio and"),
        ({"target_ratio": 1.0}, "target_ratio: expected 0 < ratio < 1, got 1.0"),
        ({"target_ratoi": 0.5}, "target_ratoi: unknown key .did you mean 'target_ratio'"),
        ({"criterion": "l1norm"}, "criterion: expected one of l1_norm.*did you mean 'l1_norm'"),
        ({"round_to": 0}, "round_to: expected 1 or more, got 0"),
        ({"num_steps": 0}, "num_steps: expected 1 or more"),
        ({"eval_rate": 0.0}, "eval_rate: expected 0 < eval_rate <= 1"),
        ({"delta_rate": 1.0}, "delta_rate: expected 0 < ratio < 1"),
        ({"criterion": "taylor", "calibration_samples": 0}, "calibration_samples: too few"),
        ({"reconstruct": True, "calibration_samples": 0}, "calibration_samples: too few"),
        ({"target_ratio": None, "pruned_ratio": {"*": 2.0}}, r"pruned_ratio.\*: expected 0 <"),
        ({"target_ratio": None, "pruned_ratio": 0.5, "num_steps": 2}, "pruned_ratio: says by"),
        (
            {"num_steps": 3, "every_epochs": 2, "end_epoch": 4},
            "end_epoch: 3 cuts last until epoch 5",
        ),
        ({"target_ratio": None, "pruned_ratio": 0.95}, "pruned_ratio: expected ratios up to max"),
        ({"target_ratio": None, "pruned_ratio": {}}, "pruned_ratio: expected ratios up to max"),
        ({"target_ratio": None, "target_latency_ms": -1.0}, "target_latency_ms: expected > 0"),
    ],
)
def test_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(PruneConfig, {"target_ratio": 0.5, **options})


def test_what_cannot_be_done_is_said_before_training(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would rank the channels of random weights"):
        train(settings, tmp_path / "a", prune(start_epoch=0))
    for options, message in (
        ({"pruned_params": ["covn*"]}, "pruned_params: 'covn\\*' matches no weight"),
        ({"never_prune": ["covn"]}, "never_prune: 'covn' matches nothing .did you mean 'conv'"),
        ({"pruned_ratio": {"heda": 0.5}}, "pruned_ratio: 'heda' matches no weight"),
        ({"never_prune": ["norm"]}, "never_prune: 'norm' names no layer that makes channels"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(settings, tmp_path / "a", prune(start_epoch=3, **options))
        assert not (tmp_path / "a" / "latest").exists()


@pytest.mark.parametrize("groups", [8, 2])
def test_a_record_whose_groups_do_not_fit_is_refused(groups: int) -> None:
    model = nn.Sequential(nn.Conv2D(3, 8, 1), nn.Conv2D(8, 8, 3, groups=8))
    before = model.state_dict()["1.weight"].numpy()
    kept = {f"{i}.{name}": {"0": 0} for i in (0, 1) for name in ("weight", "bias")}
    record = {"positions": [[0, 1, 2, 3]], "weights": kept, "settings": {"1": {"_groups": groups}}}
    with pytest.raises(CheckpointError, match=r"^1: pruned in the checkpoint to channels that its"):
        apply_edit(model, ChannelEdit.from_record(record))
    assert model[1]._groups == 8
    np.testing.assert_array_equal(model.state_dict()["1.weight"].numpy(), before)
    record["settings"]["1"]["_groups"] = 4
    apply_edit(model, ChannelEdit.from_record(record))
    assert model(paddle.rand([1, 3, 5, 5])).shape == [1, 4, 3, 3]


def test_the_record_of_another_model_is_refused(settings: Any) -> None:
    model = read_run(settings).task.build_model()
    record = {"positions": [[0, 20]], "weights": {"conv.weight": {"0": 0}}, "settings": {}}
    with pytest.raises(CheckpointError, match=r"conv.weight: channel 20 is kept on axis 0"):
        Prune.replay(model, {"cuts": [record]})
    record = {"positions": [[0]], "weights": {"body.weight": {"0": 0}}, "settings": {}}
    with pytest.raises(CheckpointError, match=r"body.weight: pruned in the checkpoint"):
        Prune.replay(model, {"cuts": [record]})
