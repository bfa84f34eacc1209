"""Students that teach each other, on the toy task."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import paddle
import pytest
import yaml

from core.distill.mutual import Mutual
from core.errors import ConfigError
from core.export.package import export
from core.network.weights import load_arrays
from core.settings.config import merge
from core.training import checkpoint
from core.training.engine import Engine
from core.training.evaluation import evaluate_model
from core.training.hooks import Checkpoints, Hook
from core.training.recipe import read_recipe
from core.training.run import read_run
from tests.toy_runs import STOP_NAMES, STOPS, plain

NARROW, ROUND = "outside.strategies:Narrow", "outside.strategies:Round"


def make_engine(settings: Any, save_dir: Path, steps: Any, hooks: Any = ()) -> Engine:
    run = read_run(settings)
    recipe = read_recipe({"strategies": list(steps)}, run.train.epochs, False)
    save_dir.mkdir(exist_ok=True)
    return Engine(run, recipe, save_dir, [Checkpoints(), *hooks])


class Watch(Hook):
    def __init__(self, stop: int = 99) -> None:
        self.terms: list[dict[str, float]] = []
        self.metrics: list[dict[str, float]] = []
        self.stop = stop

    def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
        self.terms.append(dict(terms))
        self.engine = engine

    def after_epoch(self, engine: Engine) -> None:
        self.metrics.append(dict(engine.metrics))
        engine.stop = engine.epoch == self.stop


def states(save_dir: Path) -> list[Any]:
    found = []
    for folder in ("latest", "peer_1/latest", "peer_1/best_model"):
        found.append(plain(load_arrays(save_dir / folder / "model.safetensors")))
        found.append(json.loads((save_dir / folder / "model.json").read_text()))
    return [*found, plain(load_arrays(save_dir / "latest" / "training.safetensors"))]


def test_peers_have_weights_of_their_own(
    toy_settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Networks without dropout draw nothing between their own weights and those of the peers."""
    watch = Watch()
    make_engine(
        toy_settings(epochs=1), tmp_path / "out", [{"kind": "mutual", "students": 3}], [watch]
    ).train()
    begun = watch.terms[0]
    losses = {begun["loss_square"], begun["peer_1.loss_square"], begun["peer_2.loss_square"]}
    assert len(losses) == 3
    assert "begins with the model's own weights" not in caplog.text


def test_each_is_trained_evaluated_and_shipped(toy_settings: Any, tmp_path: Path) -> None:
    watch = Watch()
    steps = [{"kind": "mutual", "students": 3}]
    engine = make_engine(toy_settings(epochs=15), tmp_path / "out", steps, [watch])
    engine.train()
    assert list(watch.terms[0]) == [
        "loss_square",
        "peer_1.loss_square",
        "peer_2.loss_square",
        "mutual.l2",
        "peer_1.mutual.l2",
        "peer_2.mutual.l2",
    ]
    assert [set(metrics) for metrics in watch.metrics] == [{"mae", "peer_1.mae", "peer_2.mae"}] * 15
    for name in ("peer_1", "peer_2"):
        values = [metrics[f"{name}.mae"] for metrics in watch.metrics]
        assert min(values) < 0.06 < values[0]
        task, model = checkpoint.restore(tmp_path / "out" / name / "best_model")
        loader = engine.val_loader
        measured = evaluate_model(task, model, loader).compute()["mae"]
        assert measured == pytest.approx(min(values), abs=1e-6)
        export(task, model, tmp_path / f"exported_{name}")
    weights = load_arrays(tmp_path / "out" / "latest" / "model.safetensors")
    assert weights.keys() == engine.task.build_model().state_dict().keys()


def test_nobody_is_pulled_by_what_it_says_to_others(toy_settings: Any, tmp_path: Path) -> None:
    """The gradient of each student is that of its own terms, as in the paper."""
    run = read_run(toy_settings(epochs=1))
    engine = make_engine(toy_settings(epochs=1), tmp_path, [{"kind": "mutual", "weight": 3.0}], [])
    engine._open_epoch()
    (strategy,) = engine.windows._live.values()
    assert isinstance(strategy, Mutual)
    peer = strategy._peers[0].model
    batch = next(iter(engine.train_loader.epoch()))
    engine.model.train()
    engine.model.drop.p = peer.drop.p = 0.0
    outputs = {"level": engine.model(batch["image"])}
    other = peer(batch["image"])
    for source, target, name in (
        (outputs["level"], other, ""),
        (other, outputs["level"], "peer_1."),
    ):
        gap = source.detach().numpy() - target.detach().numpy()
        terms = strategy.losses(batch, {"level": engine.model(batch["image"])})
        found = terms[f"{name}mutual.l2"]
        assert float(found) == pytest.approx(3 * float((gap**2).mean()), rel=1e-5)
        for model in (engine.model, peer):
            model.clear_gradients()
        found.backward()
        own, foreign = (peer, engine.model) if name else (engine.model, peer)
        expected = 3 * 2 * gap.mean()
        assert float(own.head.bias.grad) == pytest.approx(expected, rel=1e-4)
        assert foreign.head.bias.grad is None or not foreign.head.bias.grad.numpy().any()
    assert run.task.name == "outside.toy"


STEPS = {
    "window": [{"kind": "mutual", "end_epoch": 3}],
    "narrow and round": [
        {"kind": "mutual", "losses": [{"kind": "pkd", "student": "conv"}, {"kind": "l2"}]},
        {"kind": NARROW, "start_epoch": 1},
        {"kind": ROUND, "start_epoch": 2},
    ],
    "adapted": [
        {"kind": NARROW},
        {"kind": "mutual", "losses": [{"kind": "l2", "student": "conv"}]},
    ],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("stop", STOPS, ids=STOP_NAMES)
def test_resume_equals_training_straight(
    toy_settings: Any, tmp_path: Path, steps: Any, stop: Hook
) -> None:
    settings = toy_settings(optimizer={"kind": "adamw", "no_weight_decay": ["*.bias"]})
    settings["model"] = {"dropout": 0.5}
    make_engine(settings, tmp_path / "straight", steps).train()
    with contextlib.suppress(KeyboardInterrupt):
        make_engine(settings, tmp_path / "halves", steps, [stop]).train()
    make_engine(settings, tmp_path / "halves", steps).train(resume=True)
    assert states(tmp_path / "straight") == states(tmp_path / "halves")


def test_peers_are_optimized_like_the_model(toy_settings: Any, tmp_path: Path) -> None:
    watch = Watch()
    settings = toy_settings(epochs=1, optimizer={"kind": "sgd", "no_weight_decay": ["*.bias"]})
    make_engine(settings, tmp_path / "out", [{"kind": "mutual"}], [watch]).train()
    optimizer = watch.engine._optimizer
    names = [parameter.name for parameter in optimizer.parameters.values()]
    assert len(names) == len(set(names))
    spared = {p.name for p in optimizer._paddle._param_groups[1]["params"]}
    biases = {path for path, p in optimizer.parameters.items() if p.name in spared}
    assert biases == {
        *(f"{layer}.bias" for layer in ("norm", "head")),
        *(f"strategies.0:peer_1.{layer}.bias" for layer in ("norm", "head")),
    }


def test_another_architecture(toy_settings: Any, tmp_path: Path) -> None:
    wide = tmp_path / "wide.yml"
    wide.write_text(yaml.safe_dump(merge(toy_settings(), {"model": {"width": 6}})))
    steps = [{"kind": "mutual", "others": [str(wide)]}]
    make_engine(toy_settings(epochs=2), tmp_path / "out", steps).train()
    _, model = checkpoint.restore(tmp_path / "out" / "peer_1" / "latest")
    assert model.head.weight.shape == [6, 1]


def test_peers_may_start_from_a_pruned_checkpoint(
    toy_settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_engine(toy_settings(epochs=1), tmp_path / "first", [{"kind": NARROW}]).train()
    settings = toy_settings(epochs=3)
    settings["model"] = {"pretrained": str(tmp_path / "first" / "latest")}
    steps = [{"kind": "mutual", "losses": [{"kind": "l2", "student": "conv"}]}]
    with caplog.at_level(logging.WARNING):
        make_engine(settings, tmp_path / "straight", steps).train()
    assert "peer 1 begins with the model's own weights" in caplog.text
    make_engine(settings, tmp_path / "halves", steps, [Watch(1)]).train()
    make_engine(settings, tmp_path / "halves", steps).train(resume=True)
    assert states(tmp_path / "straight") == states(tmp_path / "halves")
    _, peer = checkpoint.restore(tmp_path / "halves" / "peer_1" / "latest")
    assert peer.head.weight.shape == [2, 1]
    assert peer(paddle.rand([1, 3, 8, 8])).shape == [1, 1]


def test_refused(toy_settings: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.yml"
    settings = {
        "task": {"name": "cls"},
        "model": {"name": "MobileNetV3_small_x0_35", "num_classes": 4},
        "data": {"root": str(tmp_path)},
        "train": {"epochs": 1, "batch_size": 1, "learning_rate": 0.1},
    }
    other.write_text(yaml.safe_dump(settings))
    for step, message in (
        ({"students": 1}, r"^strategies\.0\.students: expected 2 or more, got 1"),
        ({"others": ["a", "b"]}, r"^strategies\.0\.others: expected fewer than students \(2\)"),
        ({"others": [str(other)]}, r"other\.yml: a student of the task 'cls'"),
        ({"others": ["gone.yml"]}, r"^gone\.yml: no such config file"),
        ({"weight": -1}, r"^strategies\.0\.weight: expected 0 or more"),
        ({"losses": [{"kind": "l2", "student": "x"}]}, r"^mutual\.losses\.0 .*'x' matches nothin"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_engine(toy_settings(), tmp_path / "out", [{"kind": "mutual", **step}]).train()
