"""What a config leaves out: the config's own word first, then the data's, then the defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from core.errors import ConfigError, DataError
from core.training.own_data import completed, inspections, short_config
from core.training.run import read_run
from core.workflows.run_plan import RunFiles, read_plan, settle


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(("ant", "bee", "cat")):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for index in range(4):
            cv2.imwrite(str(folder / f"{index}.png"), np.full((9, 9, 3), 40 * number, np.uint8))
    return tmp_path / "data"


def test_config_goes_before_data_and_data_before_defaults(root: Path) -> None:
    found = completed({"task": "cls", "data": {"root": str(root)}})
    assert list(found)[:2] == ["task", "data"]
    assert found["task"] == {"name": "cls"}
    assert found["model"] == {"name": "MobileNetV3_small_x1_0", "num_classes": 3}
    assert found["train"]["batch_size"] == 9  # of 32, as there are no more pictures
    assert found["train"]["optimizer"]["kind"] == "adamw"
    mine = {"model": {"num_classes": 7}, "train": {"batch_size": 2, "epochs": 1}}
    given = completed({"task": {"name": "cls"}, "data": {"root": str(root)}, **mine})
    assert given["model"]["num_classes"] == 7
    assert given["train"]["batch_size"] == 2
    assert given["train"]["epochs"] == 1
    assert completed(found) == found


def test_a_learning_rate_of_ones_own_comes_without_our_optimizer(root: Path) -> None:
    train = {"learning_rate": 0.1}
    found = completed({"task": "cls", "data": {"root": str(root)}, "train": train})
    assert found["train"]["learning_rate"] == 0.1
    assert not {"optimizer", "schedule"} & found["train"].keys()


def test_defaults_of_a_network_go_with_its_name_alone() -> None:
    found = completed({"task": "keypoint", "data": {"root": "gone"}})
    assert found["model"] == {"name": "upsampling", "backbone": "PPLCNet_x1_0"}
    found = completed({"task": "keypoint", "model": {"name": "hrnet_w32"}})
    assert found["model"] == {"name": "hrnet_w32"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"task": 3},
        {"task": {"name": "nothing"}},
        {"task": {"name": "outside.toy"}, "data": {"root": "/"}},
    ],
)
def test_what_is_wrong_or_of_another_task_stays_as_it_is(settings: dict[str, Any]) -> None:
    assert completed(settings) == settings


def test_drawn_data_are_not_looked_at(root: Path) -> None:
    found = completed({"task": "cls", "data": {"root": str(root)}, "synthetic": {}})
    assert "num_classes" not in found["model"]


def test_a_plan_records_what_was_found(root: Path) -> None:
    config = {"task": "cls", "data": {"root": str(root)}}
    overrides = ["train.epochs=2", "model.name=MobileNetV1_x0_25"]
    plan, run, _ = settle(read_plan(RunFiles(config, overrides=overrides)))
    assert run.task.config.model.num_classes == 3
    assert plan.settings["model"] == {"num_classes": 3, "name": "MobileNetV1_x0_25"}
    assert read_run(plan.settings).task.config == run.task.config


def test_inspection_finds_the_task_and_its_config_trains(root: Path) -> None:
    best, *others = inspections(str(root))
    assert (best.task, best.sure) == ("cls", 1)
    assert all(other.sure == 0 and other.missing for other in others)
    config = short_config(best, str(root))
    assert len(config.splitlines()) == 3
    run = read_run(yaml.safe_load(config))
    assert len(run.task.build_dataset("train")) == 9
    assert len(run.task.build_dataset("val")) == 3


def test_every_tool_says_what_lies_there(root: Path) -> None:
    (root / "bee").rename(root.parent / "bee")
    (root / "cat").rename(root.parent / "cat")
    run = read_run({"task": "cls", "data": {"root": str(root)}})
    with pytest.raises(DataError, match=r"^data\.root: .* holds folders ant .* CLASS/\*\.jpg"):
        run.task.build_dataset("train")
    [found] = inspections(str(root), ("cls",))
    assert "holds folders ant" in found.in_one_line()


def test_settings_that_are_wrong_are_told_before_the_data_are(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.rot: unknown key"):
        read_run({"task": "cls", "data": {"root": str(root), "rot": 1}})


def test_all_that_is_wrong_in_a_config_is_told_together() -> None:
    settings = {
        "task": "seg",
        "train": {"epochs": "many", "batch_size": 0, "learning_rat": 0.1},
        "data": {"root": 3, "num_workers": -2},
        "augment": {"flip": 2},
        "modle": {},
    }
    with pytest.raises(ConfigError) as caught:
        read_run(settings)
    told = [problem.partition(":")[0] for problem in caught.value.problems]
    assert sorted(told) == sorted(
        ["train.learning_rat", "train.epochs", "modle", "data.root", "augment.flip"]
    )
    assert str(caught.value) == "; ".join(caught.value.problems)
