"""A run: the content of a config file, the task's sections and the core's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import paddle

from core.errors import ConfigError
from core.settings.config import Problems, read
from core.settings.optimizer_config import Momentum, OptimizerConfig
from core.settings.ranges import check_range
from core.task import Split, Task, load_package
from core.training.image_settings import MOST_SEED
from core.training.loader import Loader
from core.training.own_data import completed
from core.training.precision import AmpType
from core.training.schedules import MOST_EPOCHS, Cosine, LearningRateSchedule
from core.training.unknown_keys import in_other_section, key_paths, unknown_sections

MOST_SAMPLES = 10_000_000  # in a batch; batches in an epoch: all are listed before it begins

# keys of a config on its run, beside task and training, see `core.workflows.run_plan`
OF_A_RUN = ("slim", "distill_config", "save_dir", "resume", "use_vdl", "use_tensorboard")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of training for every task; the learning rate goes with batch_size x processes."""

    epochs: int
    batch_size: int  # per process
    learning_rate: float
    # None: an epoch is one pass over the data. A number: an epoch is so many optimizer steps of an
    # endless shuffled stream, and training lasts epochs x steps_per_epoch iterations.
    steps_per_epoch: int | None = None
    eval_every: int = 1  # epochs
    eval_batch_size: int | None = None  # None: batch_size
    accumulate: int = 1  # batches whose gradients make one step
    optimizer: OptimizerConfig = field(default_factory=Momentum)
    schedule: LearningRateSchedule = field(default_factory=Cosine)
    clip_norm: float | None = None  # largest global norm of the gradients
    clip_each: bool = False  # of each parameter's gradient alone, in the place of the global one
    ema_decay: float | None = None  # evaluate and keep an average of the weights
    amp: AmpType = "off"
    sync_bn: bool = False  # normalise over the batches of all processes
    early_stop: int | None = None  # epochs without a better metric

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_every", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        for name in ("steps_per_epoch", "eval_batch_size", "early_stop"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate: expected > 0, got {self.learning_rate}")
        check_range(self, 0, 1e6, "learning_rate")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm: expected > 0, got {self.clip_norm}")
        if self.clip_each and self.clip_norm is None:
            raise ValueError("clip_each: acts only with clip_norm")
        check_range(self, 1, MOST_EPOCHS, "epochs", "eval_every", "early_stop", "accumulate")
        check_range(self, 1, MOST_SAMPLES, "batch_size", "eval_batch_size", "steps_per_epoch")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay: expected between 0 and 1, got {self.ema_decay}")


@dataclass(frozen=True)
class Run:
    """A task with how to train it."""

    task: Task
    train: TrainConfig
    seed: int
    device: str


@dataclass(frozen=True)
class _TaskName:
    name: str


@dataclass(frozen=True)
class _CoreSections:
    task: _TaskName
    train: TrainConfig
    seed: int = 0
    device: Literal["auto", "cpu", "gpu"] = "auto"

    def __post_init__(self) -> None:
        check_range(self, 0, MOST_SEED, "seed")


def read_run(settings: Mapping[str, Any]) -> Run:
    """Check a whole config and build its task; `device: auto` takes a GPU if Paddle has one.

    What it leaves out comes from the data, see `core.training.own_data`. What a config says of a
    run's recipe and teachers is not looked at.

    Raises:
        ConfigError: Anything unknown, missing or of the wrong type: all of it together.
    """
    settings = completed(settings)
    own = {key: value for key, value in settings.items() if key in _CoreSections.__annotations__}
    rest = {k: value for k, value in settings.items() if k not in own and k not in OF_A_RUN}
    known, package, problems = list(key_paths(_CoreSections)), None, Problems()
    named = own.get("task")
    name = named.get("name") if isinstance(named, Mapping) else None
    if isinstance(name, str):
        with problems.gathered():
            package = load_package(name)
    if package is not None:
        known += key_paths(package.Config)
        wrong = unknown_sections(settings, known, OF_A_RUN)
        problems.add(*wrong.values())
        rest = {key: value for key, value in rest.items() if key not in wrong}
    with problems.gathered():
        core = read(_CoreSections, own)
    if package is not None:
        with problems.gathered():
            task = package.Task(read(package.Config, rest))
    problems.tell(lambda problem: in_other_section(problem, known))
    return Run(task, core.train, core.seed, pick_device(core.device))


def pick_device(wanted: str) -> str:
    """Return `cpu` or `gpu`.

    Raises:
        ConfigError: A GPU is asked for, but this Paddle has none.
    """
    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if wanted == "gpu" and not has_gpu:
        raise ConfigError("device: gpu was asked for, but this Paddle sees none")
    return "gpu" if has_gpu and wanted != "cpu" else "cpu"


def build_loader(run: Run, split: Split, rank: int = 0, world: int = 1) -> Loader:
    """Open a split of the run's data as batches of this process."""
    config, data, train = run.train, run.task.config.data, split == "train"
    steps = config.steps_per_epoch * config.accumulate if config.steps_per_epoch else None
    return Loader(
        run.task.build_dataset(split),
        batch_size=config.batch_size if train else config.eval_batch_size or config.batch_size,
        train=train,
        seed=run.seed,
        steps=steps if train else None,
        num_workers=data.num_workers,
        on_error=data.on_error,
        rank=rank,
        world=world,
    )


def order_settings(run: Run, world: int, samples: int) -> dict[str, Any]:
    """Return the settings that fix which samples a step sees and what state it leaves.

    An interrupted run can only go on exactly with the same.
    """
    return {
        "seed": run.seed,
        "train.batch_size x processes": run.train.batch_size * world,
        "train.accumulate": run.train.accumulate,
        "train.steps_per_epoch": run.train.steps_per_epoch,
        "train.optimizer.kind": run.train.optimizer.kind,
        "train.ema_decay": run.train.ema_decay,
        "data (samples)": samples,
    }
