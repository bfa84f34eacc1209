"""Students and teachers of the toy task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle

from core.training.engine import Engine
from core.training.hooks import Checkpoints, Hook
from core.training.recipe import read_recipe
from core.training.run import read_run

NARROW, ROUND = "outside.strategies:Narrow", "outside.strategies:Round"


WIDE = {"model": {"width": 6}}


def make_engine(
    settings: Any, save_dir: Path, steps: Any, teachers: Any, hooks: Any = ()
) -> Engine:
    run = read_run(settings)
    recipe = read_recipe({"strategies": list(steps)}, run.train.epochs, bool(teachers))
    save_dir.mkdir(exist_ok=True)
    return Engine(run, recipe, save_dir, [Checkpoints(), *hooks], teachers)


class Watch(Hook):
    """Notes the terms and the optimizer of every step."""

    def __init__(self, stop: int = 99) -> None:
        self.terms: list[dict[str, float]] = []
        self.optimizers: list[str] = []
        self.stop = stop

    def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
        self.terms.append(dict(terms))
        self.optimizers.append(type(engine._optimizer._paddle).__name__)

    def after_epoch(self, engine: Engine) -> None:
        engine.stop = engine.epoch == self.stop


def bytes_of(model: paddle.nn.Layer) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


ADAPTED = {"kind": "l2", "student": "conv"}


RECIPES = {
    "adapter": [{"kind": "distill", "end_epoch": 3, "losses": [ADAPTED, {"kind": "l2"}]}],
    "generated": [{"kind": "distill", "losses": [{"kind": "mgd", "student": "conv"}]}],
    "own optimizer": [
        {"kind": "distill", "end_epoch": 3, "losses": [ADAPTED], "optimizer": {"kind": "adamw"}}
    ],
    "narrow and round": [
        {"kind": "distill", "losses": [ADAPTED]},
        {"kind": NARROW, "start_epoch": 1},
        {"kind": ROUND, "start_epoch": 2},
    ],
}


def classifier(tmp_path: Path, classes: int) -> dict[str, Any]:
    return {
        "task": {"name": "cls"},
        "model": {"name": "MobileNetV3_small_x0_35", "num_classes": classes},
        "data": {
            **{"root": str(tmp_path / f"data{classes}"), "image_size": 32, "resize_short": 32},
            **{"num_workers": 0},
        },
        "synthetic": {"train_images": 8, "val_images": 4, "side": 32},
        "augment": {"scale": [1.0, 1.0], "ratio": [1.0, 1.0], "flip": 0.0},
        "train": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01},
        "device": "cpu",
    }


def train_alone(settings: Any, save_dir: Path) -> None:
    run = read_run(settings)
    save_dir.mkdir()
    Engine(run, read_recipe({}, run.train.epochs, False), save_dir, [Checkpoints()]).train()
