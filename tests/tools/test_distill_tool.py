"""Distillation as a user calls it, and on a network with several outputs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.distill.teacher import read_teacher
from core.settings.config import load_yaml, merge
from core.training import checkpoint
from core.training.engine import Engine
from core.training.hooks import Checkpoints, Hook
from core.training.recipe import read_recipe
from core.training.run import read_run

ROOT = Path(__file__).resolve().parents[2]


def train(cwd: Path, *arguments: Any) -> list[str]:
    """Call tools/train.py and return the lines of its log."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/plugins")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tools/train.py"), "-c", "toy.yml", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_a_teacher_needs_no_recipe(toy_settings: Any, tmp_path: Path) -> None:
    (tmp_path / "toy.yml").write_text(yaml.safe_dump(toy_settings(epochs=2)))
    train(tmp_path, "--save_dir", "teacher")
    distill = {"losses": [{"kind": "l1"}]}
    (tmp_path / "teacher.yml").write_text(yaml.safe_dump({"_base_": "toy.yml", "distill": distill}))
    best = "teacher/best_model"
    for name, arguments, term in (
        ("a", ["--distill_config", best], "distill.l2"),
        ("b", ["--distill_config=teacher.yml", "-o", f"teacher.weights={best}"], "distill.l1"),
    ):
        lines = train(tmp_path, "--save_dir", name, *arguments)
        epochs = [line for line in lines if "INFO epoch" in line]
        assert len(epochs) == 2
        for part in (" loss_square ", f" {term} ", " teacher.loss_square "):
            assert all(part in line for line in epochs)
        measured = [i for i, line in enumerate(lines) if "INFO teacher" in line and " mae " in line]
        assert measured[0] < lines.index(epochs[0])


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*/*_teacher.yml")), ids=str)
def test_the_teachers_files_are_configs_of_their_task(path: Path) -> None:
    """Without weights a teacher is refused only for that."""
    from core.distill.teacher import TEACHING, WEIGHTS, TeachingConfig
    from core.settings.config import read

    settings = load_yaml(path)
    settings.pop(WEIGHTS)
    assert read(TeachingConfig, settings.pop(TEACHING)).losses
    assert read_run(settings).task.name == path.parent.name


def test_five_outputs_learn_from_one(tmp_path: Path) -> None:
    """BiSeNetV2 in training has five outputs with a weight each, Fast-SCNN as a teacher one."""

    class Watch(Hook):
        terms: dict[str, float]

        def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
            self.terms = terms

    settings = merge(
        load_yaml(ROOT / "configs" / "seg" / "demo.yml"),
        {
            "data": {"root": str(tmp_path / "data")},
            "synthetic": {"train_images": 4, "val_images": 2},
            "train": {"epochs": 1, "batch_size": 4},
            "device": "cpu",
        },
    )
    single = merge(settings, {"model": {"name": "FastSCNN"}, "loss": {"coef": [1.0, 0.4]}})
    task = read_run(single).task
    state = task.build_model().state_dict()
    checkpoint.save(tmp_path / "teacher", checkpoint.describe(task), state)
    teachers, watch = [read_teacher(str(tmp_path / "teacher"))], Watch()
    recipe = read_recipe({"strategies": [{"kind": "distill"}]}, 1, True)
    engine = Engine(read_run(settings), recipe, tmp_path / "out", [Checkpoints(), watch], teachers)
    engine.train()
    heads = [f"{name}/cross_entropy" for name in ("logits", "aux_1", "aux_2", "aux_3", "aux_4")]
    assert list(watch.terms) == [*heads, "distill.cwd", "teacher.logits/cross_entropy"]
