"""A rehearsed run says what the real one does, and fails where the real one would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import ConfigError, FileError, UserError
from core.graph.cost import count_parameters
from core.network.weights import load_arrays
from core.settings.config import merge
from core.training.engine import Engine
from core.training.hooks import Checkpoints, Hook
from core.training.recipe import read_recipe
from core.workflows.rehearsal import Stretch, timeline_table
from core.workflows.run_plan import RunFiles, RunPlan, read_plan, settle
from core.workflows.training import PreparedRun, save_plan

PRUNE = {"kind": "prune", "start_epoch": 1, "target_ratio": 0.4, "calibration_samples": 4}
QAT = {"kind": "qat", "start_epoch": 3, "calibration_samples": 4, "warmup_epochs": 0}


@pytest.fixture
def plan(toy_settings: Callable[..., dict[str, Any]]) -> Callable[..., RunPlan]:
    def make(*strategies: dict[str, Any], train: Any = (), **others: Any) -> RunPlan:
        settings = merge(toy_settings(epochs=5, **dict(train)), {"model": {"width": 16}})
        return RunPlan({**settings, "device": "cpu"}, {"strategies": list(strategies)}, **others)

    return make


def training(plan: RunPlan, save_dir: Path) -> PreparedRun:
    return PreparedRun(*settle(plan), save_dir)


class Notes(Hook):
    """Writes down what a real run does."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.parameters: list[int] = []

    def after_step(self, engine: Engine, terms: Any, rate: float) -> None:
        self.rates.append(rate)

    def after_epoch(self, engine: Engine) -> None:
        grids = sum(p.size for n, p in engine.model.named_parameters() if "quantizer" in n)
        self.parameters.append(count_parameters(engine.model) - grids)


def test_it_is_what_the_run_does(plan: Callable[..., RunPlan], tmp_path: Path) -> None:
    listen = {"kind": "outside.strategies:Listen", "start_epoch": 1, "learning_rate": 0.01}
    strategies = [PRUNE, {**QAT, "learning_rate_scale": 0.5}, {**listen, "end_epoch": 3}]
    told = training(plan(*strategies), tmp_path / "run").rehearse()
    assert not (tmp_path / "run").exists()
    assert [(each.start, each.end, each.steps) for each in told] == [
        (0, 1, 4),
        (1, 2, 4),
        (2, 3, 4),
        (3, 5, 8),
    ]
    assert told[1].events[0].startswith("prune: 3")
    assert "listen" in told[3].events[0].lower()
    assert told[3].events[1].startswith("qat: quantized 2 layers")
    assert told[1].size.macs < told[0].size.macs
    assert told[2].size.int8_mb is None
    assert told[3].size.int8_mb is not None
    assert told[3].size.int8_mb < told[3].size.float_mb == told[1].size.float_mb

    _, run, recipe = settle(plan(*strategies))
    (tmp_path / "real").mkdir()
    notes = Notes()
    Engine(run, recipe, tmp_path / "real", [notes]).train()
    for each in told:
        rates = notes.rates[4 * each.start : 4 * each.end]
        assert each.rates == pytest.approx((rates[0], max(rates), rates[-1]))
        assert each.size.parameters == notes.parameters[each.start]
    assert timeline_table(told).row_count == 4


@pytest.mark.parametrize(
    ("strategies", "message"),
    [
        ([{**PRUNE, "start_epoch": 0}], "prune: would rank the channels of random weights"),
        ([{**QAT, "start_epoch": 0}], "qat: would round random weights"),
        (
            [{**PRUNE, "pruned_params": ["conv7*"]}],
            "strategies.0.pruned_params: 'conv7*' matches no weight",
        ),
        (
            [{**QAT, "never_quantize": ["conv7"]}],
            "strategies.0.never_quantize: 'conv7' matches nothing",
        ),
        (
            [{**QAT, "optimizer": {"kind": "sgd", "no_weight_decay": ["x.*"]}}],
            "train.optimizer.no_weight_decay: 'x.*' matches nothing",
        ),
        (
            [{**PRUNE, "allocation": "sensitive", "metric_name": "acc"}],
            "strategies.0.metric_name: the task has no metric 'acc'",
        ),
        (
            [{**PRUNE, "allocation": "sensitive", "sensitivities_file": __file__}],
            f"{__file__}: not a file of sensitivities",
        ),
        ([{"kind": "outside.strategies:Listen", "layer": "gone"}], "gone: the model has no such"),
    ],
)
def test_it_fails_where_the_run_would(
    plan: Callable[..., RunPlan], tmp_path: Path, strategies: Any, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        training(plan(*strategies), tmp_path / "run").rehearse()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "seed: the run to resume has 3, got 5"),
        ({"cut": 0.5}, "strategies.0.target_ratio: the run to resume has 0.4, got 0.5"),
        ({"folder": "gone"}, "{}/gone/latest: no such weights file"),
    ],
)
def test_what_is_not_the_run_to_resume(
    plan: Callable[..., RunPlan], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    training(plan(PRUNE), tmp_path / "run").train()
    whole = training(plan(PRUNE), tmp_path / "run")
    assert [each.end for each in whole.rehearse(resume=True)] == [1, 2, 5]
    other = plan({**PRUNE, "target_ratio": change.get("cut", 0.4)})
    other = replace(other, settings={**other.settings, "seed": change.get("seed", 3)})
    run = training(other, tmp_path / change.get("folder", "run"))
    before = sorted(tmp_path.rglob("*"))
    for attempt in (run.rehearse, run.train):
        with pytest.raises(UserError) as caught:
            attempt(resume=True)
        assert str(caught.value).startswith(message.format(tmp_path))
        if attempt == run.rehearse:
            assert sorted(tmp_path.rglob("*")) == before


def test_losses_that_do_not_fit_the_network(
    plan: Callable[..., RunPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = training(plan(), tmp_path / "run")

    def losses(task: Any, outputs: Any, batch: Any) -> Any:
        assert {len(value) for value in (*outputs.values(), *batch.values())} == {2}
        raise ConfigError("loss.heads: detail judges a head of one channel")

    monkeypatch.setattr(type(run.run.task), "losses", losses)
    with pytest.raises(ConfigError, match=r"^loss\.heads: detail judges"):
        run.rehearse()


def test_files_at_the_end_are_told(plan: Callable[..., RunPlan], tmp_path: Path) -> None:
    whole = plan(QAT)
    for after, told_in in ((4, 2), (5, 1)):
        export = {"after_epoch": after, "save_dir": str(tmp_path / "files")}
        run = training(replace(whole, recipe={**whole.recipe, "exports": [export]}), tmp_path / "r")
        told = run.rehearse()
        assert any("int8 files are written to" in event for event in told[told_in].events)
        assert sum("files are written" in event for each in told for event in each.events) == 1


def test_a_folder_that_cannot_be_made(plan: Callable[..., RunPlan], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"^save_dir: .*file/run cannot be written"):
        training(plan(), tmp_path / "file" / "run").rehearse()


def test_a_latency_is_not_measured(plan: Callable[..., RunPlan], tmp_path: Path) -> None:
    cut = {"kind": "prune", "start_epoch": 1, "target_latency_ratio": 0.25}
    told = training(plan(cut), tmp_path / "run").rehearse()
    assert told[1].events == (
        "prune: to 75% of its latency in onnxruntime, measured when the window opens",
    )


def test_own_words_are_the_same_run(
    plan: Callable[..., RunPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What --save_config writes trains to the same bytes."""
    first, run, recipe = settle(plan(PRUNE, QAT))
    save_plan(first, tmp_path / "ours.yml")
    again, run_again, recipe_again = settle(read_plan(RunFiles(str(tmp_path / "ours.yml"))))
    assert recipe_again == recipe
    assert yaml.safe_load((tmp_path / "ours.yml").read_text())["slim"]["epochs"] == 5
    found = []
    for name, each in (("a", (first, run, recipe)), ("b", (again, run_again, recipe_again))):
        engine = PreparedRun(*each, tmp_path / name).train()
        assert engine.epoch == 5
        found.append(load_arrays(tmp_path / name / "latest" / "model.safetensors"))
        assert read_plan(RunFiles(str(tmp_path / name / "config.yml"))).recipe["strategies"]
    assert found[0].keys() == found[1].keys()
    assert all((found[0][key] == found[1][key]).all() for key in found[0])


def test_windows_of_any_strategy_have_their_own_optimizer(
    plan: Callable[..., RunPlan], tmp_path: Path
) -> None:
    cut = {**PRUNE, "end_epoch": 3, "optimizer": {"kind": "adamw"}, "learning_rate": 0.002}
    told: list[Stretch] = training(plan(cut), tmp_path / "run").rehearse()
    assert [each.optimizer for each in told] == ["momentum", "adamw", "momentum"]
    assert told[1].rates[0] < 0.002 < told[0].rates[1]
    _, run, recipe = settle(plan(cut))
    kinds: list[str] = []

    class Kind(Hook):
        def after_step(self, engine: Engine, terms: Any, rate: float) -> None:
            kinds.append(type(engine._optimizer._paddle).__name__)

    (tmp_path / "real").mkdir()
    Engine(run, recipe, tmp_path / "real", [Kind(), Checkpoints()]).train()
    assert kinds == ["Momentum"] * 4 + ["AdamW"] * 8 + ["Momentum"] * 8


def test_two_that_say_how_to_train_are_refused() -> None:
    listen = {"kind": "outside.strategies:Listen", "learning_rate": 0.1}
    with pytest.raises(ConfigError, match=r"^strategies.1.learning_rate: strategies.0 .* asks"):
        read_recipe({"strategies": [listen, listen]}, 4, False)
    apart = [{**listen, "end_epoch": 2}, {**listen, "start_epoch": 2}]
    assert len(read_recipe({"strategies": apart}, 4, False).steps) == 2
