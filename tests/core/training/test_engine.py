"""The training loop on a toy task: resume, windows, guards, hooks."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
import yaml

from core.errors import CheckpointError, ConfigError, TrainingError
from core.network.weights import load_arrays
from core.settings.config import merge
from core.training import checkpoint
from core.training.engine import Engine
from core.training.hooks import (
    Checkpoints,
    EarlyStop,
    Hook,
    Interruptible,
    LogFile,
    Progress,
    SaveFolder,
    TensorBoard,
    VisualDL,
)
from core.training.recipe import read_recipe
from core.training.results import Results
from core.training.review import Review
from core.training.run import read_run
from core.training.standard_hooks import standard_hooks
from tests.toy_runs import STOP_NAMES, STOPS, plain

NARROW, ROUND = "outside.strategies:Narrow", "outside.strategies:Round"
LISTEN, EXPLODE = "outside.strategies:Listen", "outside.strategies:Explode"


def make_engine(settings: Any, save_dir: Path, steps: Any = (), hooks: Any = None) -> Engine:
    run = read_run(settings)
    recipe = read_recipe({"strategies": list(steps)}, run.train.epochs, has_teacher=False)
    save_dir.mkdir(exist_ok=True)
    return Engine(run, recipe, save_dir, [Checkpoints()] if hooks is None else hooks)


def states(save_dir: Path) -> Any:
    latest = save_dir / "latest"
    return (
        plain(load_arrays(latest / "model.safetensors")),
        plain(load_arrays(latest / "training.safetensors")),
        json.loads((latest / "model.json").read_text()),
    )


RECIPES = {
    "plain": [],
    "listen": [{"kind": LISTEN, "start_epoch": 1}],
    "listen then close": [{"kind": LISTEN, "end_epoch": 2}],
    "narrow and listen": [{"kind": LISTEN}, {"kind": NARROW, "start_epoch": 1}],
    "all": [
        {"kind": LISTEN, "start_epoch": 1, "end_epoch": 3},
        {"kind": ROUND, "start_epoch": 2, "learning_rate_scale": 0.5},
        {"kind": NARROW},
    ],
}


@pytest.mark.parametrize("steps", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("stop", STOPS, ids=STOP_NAMES)
def test_resume_equals_training_straight(
    toy_settings: Any, tmp_path: Path, steps: Any, stop: Hook
) -> None:
    settings = toy_settings(ema_decay=0.9, schedule={"kind": "cosine", "warmup_epochs": 1})
    settings["model"] = {"dropout": 0.5}
    make_engine(settings, tmp_path / "straight", steps).train()
    first = make_engine(settings, tmp_path / "halves", steps, [Checkpoints(), stop])
    with contextlib.suppress(KeyboardInterrupt):
        first.train()
    assert 0 < first.step < 16
    second = make_engine(settings, tmp_path / "halves", steps)
    second.train(resume=True)
    assert second.epoch == 4
    assert states(tmp_path / "straight") == states(tmp_path / "halves")


@pytest.mark.parametrize("kind", ["momentum", "adamw", "sgd"])
def test_resume_keeps_every_optimizer(toy_settings: Any, tmp_path: Path, kind: str) -> None:
    settings = toy_settings(epochs=2, optimizer={"kind": kind}, accumulate=2, clip_norm=1.0)
    make_engine(settings, tmp_path / "straight").train()
    one = make_engine(settings, tmp_path / "halves")
    one.epochs = 1
    one.train()
    make_engine(settings, tmp_path / "halves").train(resume=True)
    assert states(tmp_path / "straight") == states(tmp_path / "halves")


def test_same_seed_same_run_other_seed_other_run(toy_settings: Any, tmp_path: Path) -> None:
    settings = toy_settings(epochs=1)
    for name in ("a", "b"):
        make_engine(settings, tmp_path / name).train()
    settings["seed"] = 4
    make_engine(settings, tmp_path / "c").train()
    assert states(tmp_path / "a") == states(tmp_path / "b")
    assert states(tmp_path / "a")[0] != states(tmp_path / "c")[0]


def test_training_learns(toy_settings: Any, tmp_path: Path) -> None:
    settings = toy_settings(epochs=15)
    engine = make_engine(settings, tmp_path / "out")
    metrics = engine.train()
    assert engine.best is not None
    assert engine.best <= metrics["mae"]
    assert engine.best < 0.05  # a constant guess is off by about 0.15


def test_accumulation_equals_a_larger_batch(toy_settings: Any, tmp_path: Path) -> None:
    small = toy_settings(epochs=1, batch_size=2, accumulate=2)
    large = toy_settings(epochs=1, batch_size=4)
    for settings in (small, large):
        settings["noise"] = 0.0
    # batch statistics differ between batches of 2 and 4, so the comparison freezes them
    results = []
    for settings, name in ((small, "small"), (large, "large")):
        engine = make_engine(settings, tmp_path / name)
        engine.model.norm._use_global_stats = True
        engine.train()
        results.append(engine.model.conv.weight.numpy())
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)


def test_strategies_attach_by_phase_and_listeners_move_to_replaced_layers(
    toy_settings: Any, tmp_path: Path
) -> None:
    seen = []

    class Watch(Hook):
        def after_epoch(self, engine: Engine) -> None:
            live = list(engine.windows._live.values())
            seen.append([type(s).__name__ for s in live])
            for strategy in live:
                if hasattr(strategy, "seen_type"):
                    seen[-1].append(strategy.seen_type)

    steps = [
        {"kind": LISTEN, "layer": "conv"},
        {"kind": ROUND, "start_epoch": 1},
        {"kind": NARROW},
    ]
    engine = make_engine(toy_settings(epochs=3), tmp_path / "out", steps, [Watch()])
    engine.train()
    assert seen == [
        ["Narrow", "Listen", "Conv2D"],
        ["Round", "Listen", "Rounded"],
        ["Round", "Listen", "Rounded"],
    ]
    assert [kind for kind, _ in engine.windows.edits()] == [NARROW, ROUND]
    assert not engine.model.conv._forward_post_hooks


def test_a_checkpoint_rebuilds_its_own_structure(toy_settings: Any, tmp_path: Path) -> None:
    steps = [{"kind": NARROW}, {"kind": ROUND, "start_epoch": 2}, {"kind": LISTEN}]
    engine = make_engine(toy_settings(), tmp_path / "out", steps)
    engine.train()
    task, model = checkpoint.restore(tmp_path / "out" / "latest")
    image = paddle.rand([2, 3, 8, 8])
    engine.model.eval()
    assert task.name == "outside.toy"
    assert model.head.weight.shape == [2, 1]
    assert type(model.conv).__name__ == "Rounded"
    np.testing.assert_array_equal(model(image).numpy(), engine.model(image).numpy())
    weights = load_arrays(tmp_path / "out" / "latest" / "model.safetensors")
    assert not any("strateg" in name or "offset" in name for name in weights)


def test_pretrained_takes_a_checkpoint_with_its_edits(toy_settings: Any, tmp_path: Path) -> None:
    make_engine(toy_settings(epochs=2), tmp_path / "first", [{"kind": NARROW}]).train()
    settings = toy_settings(epochs=1)
    settings["model"] = {"pretrained": str(tmp_path / "first" / "latest")}
    engine = make_engine(settings, tmp_path / "second")
    engine.train()
    assert engine.model.head.weight.shape == [2, 1]
    _, model = checkpoint.restore(tmp_path / "second" / "latest" / "model.safetensors")
    assert model.head.weight.shape == [2, 1]
    # the first checkpoint is not needed any more
    shutil.rmtree(tmp_path / "first")
    settings["train"]["epochs"] = 2
    resumed = make_engine(settings, tmp_path / "second")
    resumed.train(resume=True)
    assert [kind for kind, _ in resumed.windows.edits()] == [NARROW]


def test_norms_that_were_folded_away_can_be_trained(
    toy_settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_engine(toy_settings(epochs=1), tmp_path / "first", [{"kind": NARROW}]).train()
    description = checkpoint.load_description(tmp_path / "first" / "latest")
    _, model = checkpoint.restore(tmp_path / "first" / "latest")
    model.norm._mean.set_value(paddle.zeros_like(model.norm._mean))
    model.norm._variance.set_value(paddle.ones_like(model.norm._variance))
    model.norm.bias.set_value(paddle.ones_like(model.norm.bias))
    image = paddle.rand([2, 3, 8, 8])
    answer = model(image).numpy()
    assert description is not None
    checkpoint.save(tmp_path / "folded", description, model.state_dict())
    settings = toy_settings(epochs=1, learning_rate=1e-9)
    settings["model"] = {"pretrained": str(tmp_path / "folded")}
    engine = make_engine(settings, tmp_path / "second")
    with caplog.at_level("INFO"):
        engine.train()
    assert "batch norms that the loaded weights have folded away: 1;" in caplog.text
    assert engine.model.norm._mean.numpy().any()
    engine.model.eval()
    apart = np.abs(engine.model(image).numpy() - answer).max()
    assert apart < 0.1 * np.abs(answer).max()


def test_best_is_forgotten_when_the_structure_changes(toy_settings: Any, tmp_path: Path) -> None:
    steps = [{"kind": NARROW, "start_epoch": 3, "keep": 1}]
    engine = make_engine(toy_settings(learning_rate=1e-6), tmp_path / "out", steps)
    engine.train()
    description = checkpoint.load_description(tmp_path / "out" / "best_model")
    assert engine.best_epoch == 4
    assert description is not None
    assert description.epoch == 4
    assert description.edits == [(NARROW, {"keep": 1})]


def test_best_model_holds_the_averaged_weights(toy_settings: Any, tmp_path: Path) -> None:
    engine = make_engine(toy_settings(epochs=1, ema_decay=0.5), tmp_path / "out")
    engine.train()
    assert engine.ema is not None
    best = load_arrays(tmp_path / "out" / "best_model" / "model.safetensors")
    average = engine.ema.state_dict()
    np.testing.assert_array_equal(best["conv.weight"], average["conv.weight"])
    assert np.abs(best["conv.weight"] - engine.model.conv.weight.numpy()).max() > 0


def test_a_loss_that_is_not_finite_stops_with_its_name_and_step(
    toy_settings: Any, tmp_path: Path
) -> None:
    engine = make_engine(toy_settings(), tmp_path / "out", [{"kind": EXPLODE, "start_epoch": 1}])
    with pytest.raises(TrainingError, match=r"^loss_explode: is nan in step 5 \(epoch 2\)"):
        engine.train()
    assert checkpoint.load_description(tmp_path / "out" / "latest").epoch == 1


def test_weights_that_the_loss_does_not_show_are_not_saved(
    toy_settings: Any, tmp_path: Path
) -> None:
    class Spoil(Hook):
        def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
            if engine.step == 8:  # the last one of the second epoch
                weight = engine.model.conv.weight
                weight.set_value(weight.numpy() * np.nan)

    with pytest.raises(TrainingError, match=r"^conv\.weight: not finite after step 8 \(ep"):
        make_engine(toy_settings(), tmp_path / "out", hooks=[Checkpoints(), Spoil()]).train()
    assert checkpoint.load_description(tmp_path / "out" / "latest").epoch == 1


def test_an_epoch_without_evaluation_claims_no_metric(toy_settings: Any, tmp_path: Path) -> None:
    claimed = []

    class Watch(Hook):
        def after_epoch(self, engine: Engine) -> None:
            description = checkpoint.load_description(tmp_path / "out" / "latest")
            claimed.append((engine.evaluated, sorted(description.metrics)))

    settings = toy_settings(epochs=3, eval_every=2)
    make_engine(settings, tmp_path / "out", hooks=[Checkpoints(), Watch()]).train()
    assert claimed == [(False, []), (True, ["mae"]), (True, ["mae"])]


def test_log_and_visualdl_are_written(toy_settings: Any, tmp_path: Path) -> None:
    from visualdl import LogReader

    settings = toy_settings(epochs=2, early_stop=5)
    run = read_run(settings)
    kinds = [type(hook) for hook in standard_hooks(run.train, tmp_path, 0, True, settings)]
    common = [Checkpoints, Interruptible]
    assert kinds == [SaveFolder, LogFile, Progress, Results, Review, *common, VisualDL, EarlyStop]
    others = [type(hook) for hook in standard_hooks(run.train, tmp_path, 1, True, settings)]
    assert others == [*common, EarlyStop]
    import logging

    logging.getLogger().setLevel(logging.INFO)
    hooks = standard_hooks(run.train, tmp_path / "out", 0, True, settings)
    make_engine(settings, tmp_path / "out", hooks=hooks).train()
    text = (tmp_path / "out" / "train.log").read_text()
    shown = re.findall(r"epoch \d/2 loss_square (\S+) ", text)
    rows = csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines())
    exact = [float(row["train/loss_square"]) for row in rows]
    # heatmaps have losses of 1e-5, which four decimals would show as zero
    assert shown == [f"{value:#.4g}" for value in exact]
    assert "images/s left 0:00:00" in text
    assert "mae" in text
    assert yaml.safe_load((tmp_path / "out" / "config.yml").read_text()) == settings
    file = next((tmp_path / "out" / "vdl").iterdir())
    reader = LogReader(file_path=str(file))
    assert len(reader.get_data("scalar", "val/mae")) == 2
    assert len(reader.get_data("scalar", "train/loss_square")) == 8


class Recorder:
    """tensorboardX's writer, as far as it is used."""

    def __init__(self, folder: str, purge_step: int | None) -> None:
        self.folder, self.purge_step, self.closed = Path(folder).name, purge_step, False
        self.scalars: dict[str, list[int]] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.setdefault(name, []).append(step)

    def close(self) -> None:
        self.closed = True


def test_tensorboard_gets_the_same_scalars(
    toy_settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = toy_settings(epochs=1)
    made: list[Recorder] = []

    def build(*given: Any, **named: Any) -> Recorder:
        made.append(Recorder(*given, **named))
        return made[-1]

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=build))
    for epochs in (1, 2):
        settings["train"]["epochs"] = epochs
        hooks = standard_hooks(read_run(settings).train, tmp_path / "out", 0, False, settings, True)
        make_engine(settings, tmp_path / "out", hooks=hooks).train(resume=epochs == 2)
    first, second = made
    assert first.folder == "tensorboard"
    assert first.closed
    assert (
        first.scalars["train/loss_square"] == first.scalars["train/learning_rate"] == [1, 2, 3, 4]
    )
    assert (first.scalars["val/mae"], second.scalars["val/mae"]) == ([1], [2])
    assert (first.purge_step, second.purge_step) == (None, 5)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        ConfigError, match=r"^--use_tensorboard: tensorboardX is not installed; run"
    ):
        make_engine(settings, tmp_path / "other", hooks=[TensorBoard(tmp_path / "t")]).train()


def test_resume_refuses_what_cannot_go_on(toy_settings: Any, tmp_path: Path) -> None:
    settings = toy_settings(epochs=2)
    with pytest.raises(CheckpointError, match="latest: no such weights file"):
        make_engine(settings, tmp_path / "none").train(resume=True)
    make_engine(settings, tmp_path / "out", [{"kind": LISTEN}]).train()
    with pytest.raises(
        ConfigError,
        match=r"^slim: in epoch 2 the run to resume had .*Listen at work, this recipe no strategy$",
    ):
        make_engine(settings, tmp_path / "out").train(resume=True)
    for change, message in (
        ({"seed": 5}, r"^seed: the run to resume has 3, got 5"),
        ({"train": {"batch_size": 8}}, r"^train\.batch_size x processes: .* has 4, got 8"),
        ({"train": {"accumulate": 2}}, r"^train\.accumulate: .* has 1, got 2"),
        ({"train": {"steps_per_epoch": 3}}, r"^train\.steps_per_epoch: .* has None, got 3"),
        ({"train": {"optimizer": {"kind": "sgd"}}}, r"^train\.optimizer\.kind: .* got sgd"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_engine(merge(settings, change), tmp_path / "out").train(resume=True)
    (tmp_path / "out" / "latest" / "training.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot go on"):
        make_engine(settings, tmp_path / "out").train(resume=True)


def test_amp_is_refused_on_a_cpu(toy_settings: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^train.amp: float16 needs a GPU"):
        make_engine(toy_settings(amp="float16"), tmp_path / "out")
