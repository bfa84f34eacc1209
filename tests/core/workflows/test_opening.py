"""The task that a config or a description names, and whether they fit each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import ConfigError
from core.runtimes.description import DeployDescription, Port, Preprocess, Report, TaskSettings
from core.settings.config import to_mapping
from core.task import build_task
from core.workflows.opening import exported_task

RUNS: dict[str, dict[str, Any]] = {
    "cls": {
        "data": {"root": "nowhere", "image_size": 32},
        "model": {"name": "MobileNetV1_x0_25", "num_classes": 4},
    },
    "seg": {
        "data": {"root": "nowhere", "size": [32, 32]},
        "model": {"name": "FastSCNN", "num_classes": 4},
    },
    "keypoint": {
        "data": {"root": "nowhere", "input_size": [32, 32]},
        "model": {"name": "upsampling", "backbone": "MobileNetV1_x0_25", "num_joints": 5},
        "joints": {"flip_pairs": [], "upper_body": [0, 1]},
    },
}
TRAIN = {"epochs": 1, "batch_size": 2, "learning_rate": 0.01}


def described(name: str) -> DeployDescription:
    settings = to_mapping(build_task(name, RUNS[name]).config)
    return DeployDescription(
        trislim="1",
        inputs=(Port("image", (-1, 3, 32, 32), "float32"),),
        outputs=(Port("out", (-1, 4), "float32"),),
        ending="raw",
        preprocess=Preprocess("RGB", (0.5,) * 3, (0.5,) * 3, (32, 32)),
        report=Report(1.0, 1, 1, ((1, 3, 32, 32),)),
        task=TaskSettings(name, settings),
        quantization=None,
    )


def config_file(folder: Path, name: str, **model: int) -> Path:
    settings = {"task": name, **RUNS[name], "train": TRAIN}
    settings["model"] = {**RUNS[name]["model"], **model}
    (folder / f"{name}.yml").write_text(yaml.safe_dump(settings))
    return folder / f"{name}.yml"


@pytest.mark.parametrize("exported", RUNS)
@pytest.mark.parametrize("config", RUNS)
def test_the_config_must_be_of_the_task_that_was_exported(
    tmp_path: Path, exported: str, config: str
) -> None:
    about, file = described(exported), config_file(tmp_path, config)
    if exported == config:
        assert exported_task("out", about, about.inputs, file).name == exported
        return
    said = f"^out: was exported from the task '{exported}', the config is of '{config}'$"
    with pytest.raises(ConfigError, match=said):
        exported_task("out", about, about.inputs, file)


@pytest.mark.parametrize(
    ("name", "key"), [("cls", "num_classes"), ("seg", "num_classes"), ("keypoint", "num_joints")]
)
def test_the_config_must_have_as_many_classes_or_joints(
    tmp_path: Path, name: str, key: str
) -> None:
    about = described(name)
    was = RUNS[name]["model"][key]
    said = rf"^model\.{key}: out was exported with {was}, got 3$"
    with pytest.raises(ConfigError, match=said):
        exported_task("out", about, about.inputs, config_file(tmp_path, name, **{key: 3}))
    with pytest.raises(ConfigError, match=said):
        exported_task("out", about, about.inputs, None, [f"model.{key}=3"])
