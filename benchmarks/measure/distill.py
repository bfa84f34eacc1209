"""Measure what a distilled training step costs beside the student's step and the teacher's answer.

    python -m benchmarks.measure.distill                # all tasks
    python -m benchmarks.measure.distill --task seg

Writes docs/benchmarks/distillation.json and docs/benchmarks.md.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.comparison import Job
from benchmarks.measure.command import main

NETWORKS = {
    "cls": {"student": "MobileNetV3_small_x1_0", "teacher": "MobileNetV3_large_x1_0"},
    "seg": {"student": "FastSCNN", "teacher": "BiSeNetV2"},
    "keypoint": {"student": "lite_hrnet_18", "teacher": "hrnet_w32"},
}


def measure(job: Job) -> dict[str, float]:
    """Take turns, step by step on the same batches: the student alone, the teacher, distilled."""
    import paddle

    paddle.set_device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        return _measure(job, Path(folder))


def _measure(job: Job, folder: Path) -> dict[str, float]:
    settings = job.settings()
    settings["model"]["name"] = NETWORKS[job.task]["student"]
    alone = _engine(settings, folder / "alone", [])
    teacher = {**settings, "model": {**settings["model"], "name": NETWORKS[job.task]["teacher"]}}
    distilled = _engine(settings, folder / "distilled", [_save_untrained(teacher, folder)])
    lesson = next(iter(distilled.windows._live.values()))._lessons[0]
    seconds = {"student": 0.0, "teacher": 0.0, "distilled": 0.0}
    batches = distilled.train_loader.epoch()
    for number in range(job.warmup + job.steps):
        batch = next(batches)
        calls = {
            "student": lambda batch=batch: alone._train_step(iter([batch])),
            "teacher": lambda batch=batch: lesson.teacher.outputs(batch),
            "distilled": lambda batch=batch: distilled._train_step(iter([batch])),
        }
        for name, call in calls.items():
            spent = _spent(call)
            seconds[name] += spent if number >= job.warmup else 0.0
    batches.close()
    return {name: 1000 * total / job.steps for name, total in seconds.items()}


def _spent(call: Callable[[], object]) -> float:
    """Return the processor seconds of a call (with one thread, and no loader at work)."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def _engine(settings: dict[str, Any], folder: Path, teachers: list[str]) -> Any:
    from core.distill.teacher import read_teacher
    from core.training.engine import Engine
    from core.training.loader import Loader
    from core.training.recipe import read_recipe
    from core.training.run import read_run

    run = read_run(settings)
    steps = [{"kind": "distill"}] if teachers else []
    recipe = read_recipe({"strategies": steps}, run.train.epochs, bool(teachers))
    folder.mkdir()
    engine = Engine(run, recipe, folder, [], [read_teacher(each) for each in teachers])
    few = _Few(engine.val_loader.dataset)  # a teacher is measured first, which is not asked here
    engine.val_loader = Loader(few, batch_size=1, train=False)
    engine._open_epoch()
    engine.model.train()
    return engine


class _Few:
    """The first two samples of a data set."""

    def __init__(self, dataset: Any) -> None:
        self.sample, self.collate = dataset.sample, dataset.collate

    def __len__(self) -> int:
        return 2


def _save_untrained(settings: dict[str, Any], folder: Path) -> str:
    """Write a network as a checkpoint: what it knows does not change what it costs."""
    from core.training import checkpoint
    from core.training.run import read_run

    task = read_run(settings).task
    model = task.build_model()
    checkpoint.save(folder / "teacher", checkpoint.describe(task), model.state_dict())
    return str(folder / "teacher")


if __name__ == "__main__":
    main(__file__, __doc__, "distillation", ("distilled",), measure, NETWORKS)
