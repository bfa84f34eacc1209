"""What a new run must not replace: an earlier one, and the weights that it starts from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import paddle
import pytest
import yaml

from core.errors import ConfigError
from core.task import Task, build_task
from core.training import checkpoint
from core.training.engine import Engine
from core.training.hooks import Checkpoints, Hook, SaveFolder
from core.training.recipe import read_recipe
from core.training.run import read_run
from core.training.save_folder import check_free


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "data")}})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def save(folder: Path, epoch: int = 0) -> Path:
    """Write what looks like a checkpoint."""
    task = build_task("outside.toy", {"data": {"root": "nowhere"}})
    weights = {"weight": paddle.ones([1])}
    checkpoint.save(folder, replace(checkpoint.describe(task), epoch=epoch), weights)
    return folder


def named(task: Task, pretrained: Any) -> Task:
    """Return the task with weights to start from."""
    model = replace(task.config.model, pretrained=pretrained)
    task.config = replace(task.config, model=model)
    return task


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check_free(*arguments, **options)
    return str(caught.value)


def test_a_folder_without_a_run_is_free(task: Task, tmp_path: Path, out: Path) -> None:
    check_free(tmp_path / "absent", task)
    for name in ("config.yml", "train.log", "mine.txt"):  # a run that failed at its start
        (out / name).write_text("epochs: 3")
        check_free(out, task)
    save(out / "other" / "best_model")
    check_free(out, task)


@pytest.mark.parametrize(
    ("epoch", "config", "said"),
    [
        (2, {"train": {"epochs": 5}}, "a run that ended after 2 of 5 epochs; go on with it (--res"),
        (5, {"train": {"epochs": 5}}, "a finished run of 5 epochs; name another folder (--save_d"),
        (
            5,
            {"train": "all"},
            "an earlier run; go on with it (--resume), name another folder (--sa",
        ),
        (5, None, "an earlier run; go on with it (--resume), name another folder (--save_dir), or"),
    ],
)
def test_an_earlier_run_is_refused_with_the_ways_out(
    task: Task, out: Path, epoch: int, config: Any, said: str
) -> None:
    save(out / "latest", epoch)
    if config is not None:
        (out / "config.yml").write_text(yaml.safe_dump(config))
    told = refusal(out, task)
    assert told.startswith(f"save_dir: {out} holds {said}")
    for way in ("--resume", "--save_dir", "--overwrite"):
        assert way in told
    check_free(out, task, overwrite=True)


def test_a_damaged_run_is_one_all_the_same(task: Task, out: Path) -> None:
    save(out / "latest")
    (out / "latest" / "model.json").write_text("{")
    assert "holds an earlier run; " in refusal(out, task)


def test_a_model_alone_is_refused(task: Task, out: Path) -> None:
    save(out / "best_model")
    assert f"{out} holds the best_model of an earlier run; name another" in refusal(out, task)
    check_free(out, task, overwrite=True)
    assert "is a checkpoint itself" in refusal(out / "best_model", task, overwrite=True)


@pytest.mark.parametrize("where", ["best_model", "latest", ""])
def test_weights_that_the_run_reads_stay_even_with_overwrite(
    task: Task, out: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = save(out / where) / "model.pdparams"
    if not where:
        (out / "model.json").unlink()
        (out / "model.safetensors").unlink()
        weights = weights.rename(out / "mine.pdparams")
    monkeypatch.chdir(out)
    for wanted in (str(weights), f"../out/{weights.relative_to(out)}"):
        told = refusal(out, named(task, wanted), overwrite=True)
        assert told.startswith(f"save_dir: {out} holds the weights that this run starts from (mod")
        assert "; name another folder with --save_dir" in told
        teacher = {"source": "t.yml", "weights": wanted}
        told = refusal(out, named(task, None), [teacher], overwrite=True)
        assert "(teacher t.yml: " in told
    check_free(out.parent / "other", task, [teacher])


@pytest.mark.parametrize("wanted", [True, None, "gone", "https://host/weights.pdparams"])
def test_weights_that_are_elsewhere(task: Task, out: Path, wanted: Any) -> None:
    check_free(out, named(task, wanted), [{"source": "t", "weights": wanted}, {"source": "u"}])


def test_a_run_that_is_replaced(toy_settings: Callable[..., dict[str, Any]], out: Path) -> None:
    """Its best model stays until an epoch is finished, and nothing goes on from its state."""
    settings = toy_settings(epochs=2, eval_every=2)

    def train(*hooks: Hook, **how: bool) -> None:
        run, recipe = read_run(settings), read_recipe({}, 2, False)
        hooks = (SaveFolder(settings), Checkpoints(), *hooks)
        Engine(run, recipe, out, hooks).train(**how)

    class Fail(Hook):
        def __init__(self, where: str) -> None:
            self.after_step = self.after_epoch = lambda *_: None  # type: ignore[method-assign]
            setattr(self, where, self.fail)

        def fail(self, *_: Any) -> None:
            raise ConfigError("stopped here")

    train()
    before = (out / "best_model" / "model.json").read_bytes()
    with pytest.raises(ConfigError, match=re.escape(f"{out} holds a finished run of 2 epochs")):
        train()
    with pytest.raises(ConfigError, match="stopped here"):
        train(Fail("after_step"), overwrite=True)
    assert (out / "best_model" / "model.json").read_bytes() == before
    assert not (out / "latest").exists()
    with pytest.raises(ConfigError, match="stopped here"):
        train(Fail("after_epoch"), overwrite=True)
    assert not (out / "best_model").exists()  # this run has none yet
    train(resume=True)
    assert (out / "best_model" / "model.json").is_file()
