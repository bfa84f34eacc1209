"""Learning-rate schedules: the rate of each step as a function of training's progress."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from core.settings.ranges import check_range

MOST_EPOCHS = 1_000_000


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from the rate down to `end_factor` of it."""

    kind: ClassVar[str] = "cosine"
    warmup_epochs: float = 0.0
    warmup_start: float = 0.0  # fraction of the rate at the first step of the warm-up
    warmup_steps: int | None = None  # in the place of warmup_epochs
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self)
        check_range(self, 0, 1, "end_factor")

    def factor(self, progress: float, epoch: float) -> float:
        """Return the fraction of the rate at `progress` in [0, 1]."""
        half = 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.end_factor + (1.0 - self.end_factor) * half


@dataclass(frozen=True)
class Poly:
    """Polynomial decay, (1 - progress) ** power."""

    kind: ClassVar[str] = "poly"
    warmup_epochs: float = 0.0
    warmup_start: float = 0.0
    warmup_steps: int | None = None
    power: float = 0.9
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self)
        check_range(self, 0, 1, "end_factor")
        check_range(self, 0, 100, "power")

    def factor(self, progress: float, epoch: float) -> float:
        """Return the fraction of the rate at `progress` in [0, 1]."""
        return self.end_factor + (1.0 - self.end_factor) * math.pow(1.0 - progress, self.power)


@dataclass(frozen=True)
class Piecewise:
    """The rate times `gamma` at each milestone (an epoch); several are taken one by one."""

    kind: ClassVar[str] = "piecewise"
    milestones: tuple[float, ...]
    warmup_epochs: float = 0.0
    warmup_start: float = 0.0
    warmup_steps: int | None = None
    gamma: float | tuple[float, ...] = 0.1

    def __post_init__(self) -> None:
        _check_warmup(self)
        check_range(self, 0, 1, "gamma")
        if not isinstance(self.gamma, float) and len(self.gamma) != len(self.milestones):
            count = len(self.milestones)
            raise ValueError(f"gamma: expected one, or one for each of {count} milestones")
        check_range(self, 0, MOST_EPOCHS, "milestones")

    def factor(self, progress: float, epoch: float) -> float:
        """Return the fraction of the rate in (fractional) epoch `epoch`."""
        passed = sum(epoch >= milestone for milestone in self.milestones)
        if isinstance(self.gamma, float):
            return float(self.gamma**passed)
        return math.prod(self.gamma[:passed])


@dataclass(frozen=True)
class Constant:
    """The rate as it is, after the warm-up."""

    kind: ClassVar[str] = "constant"
    warmup_epochs: float = 0.0
    warmup_start: float = 0.0
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        _check_warmup(self)

    def factor(self, progress: float, epoch: float) -> float:
        """Return 1."""
        return 1.0


LearningRateSchedule = Cosine | Poly | Piecewise | Constant


def _check_warmup(schedule: LearningRateSchedule) -> None:
    if schedule.warmup_epochs < 0:
        raise ValueError(f"warmup_epochs: expected 0 or more, got {schedule.warmup_epochs}")
    check_range(schedule, 0, MOST_EPOCHS, "warmup_epochs")
    if schedule.warmup_steps is not None and (schedule.warmup_steps < 0 or schedule.warmup_epochs):
        raise ValueError(
            f"warmup_steps: expected 0 or more, and no warmup_epochs, got {schedule.warmup_steps}"
        )
    if not 0 <= schedule.warmup_start <= 1:
        raise ValueError(f"warmup_start: expected 0..1, got {schedule.warmup_start}")


def learning_rate(
    rate: float, schedule: LearningRateSchedule, step: int, total_steps: int, steps_per_epoch: int
) -> float:
    """Return the learning rate of optimizer step `step` (from 0): warm-up, then the schedule.

    The schedule runs over the steps after the warm-up; its last step is `total_steps - 1`, whose
    rate is one step short of the end, as in Paddle's CosineAnnealingDecay(T_max=total).
    """
    warmup = schedule.warmup_steps
    if warmup is None:
        warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return rate * (schedule.warmup_start + (1.0 - schedule.warmup_start) * step / warmup)
    progress = (step - warmup) / max(total_steps - warmup, 1)
    return rate * schedule.factor(min(progress, 1.0), step / steps_per_epoch)
