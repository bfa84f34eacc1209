"""Distillation: the student learns from frozen teachers beside the truth."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import paddle
from paddle import Tensor
from paddle.nn import Layer

from core.distill.cache import AnswerCache, check_not_random
from core.distill.pairs import Comparison, pair_up
from core.distill.taps import OUTPUT, Side, Taps, look_at
from core.distill.teacher import Teacher
from core.distill.terms import AnyTerm
from core.errors import ConfigError
from core.network.modes import training_mode
from core.settings.ranges import check_range
from core.strategy import Context, Phase, Strategy, StrategyConfig
from core.task import Batch, Losses, Outputs

log = logging.getLogger(__name__)

TRUTH_EVERY = 10  # batches: the teacher's loss is only watched, so a sample of it says enough


@dataclass(frozen=True)
class WeightScheduleConfig:
    """Course of the weight of imitation through the window, epoch by epoch.

    Attributes:
        decay: From 1 in the first epoch to `end_factor` in the last.
        end_factor: Factor of the last epoch.
        warmup_epochs: Before that, so many epochs rise evenly to 1.
    """

    decay: Literal["none", "linear", "cosine"] = "none"
    end_factor: float = 0.0
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        for name in ("end_factor", "warmup_epochs"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        check_range(self, 0, 1e6, "end_factor", "warmup_epochs")

    def factor(self, epoch: int, start: int, end: int) -> float:
        """Return the factor in an epoch of the window [start, end)."""
        done = epoch - start
        if done < self.warmup_epochs:
            return (done + 1) / (self.warmup_epochs + 1)
        if self.decay == "none":
            return 1.0
        progress = (done - self.warmup_epochs) / max(end - start - self.warmup_epochs - 1, 1)
        left = 1 - progress if self.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.end_factor + (1 - self.end_factor) * left


@dataclass(frozen=True)
class ImitationConfig(StrategyConfig):
    """Base of distillation and mutual learning.

    Attributes:
        weight: Factor on all terms between networks.
        truth_weight: Factor on the task's own terms, of student and truth.
        losses: Terms; none takes what suits the task.
        schedule: Schedule of `weight` through the window.
    """

    weight: float = 1.0
    truth_weight: float = 1.0
    losses: tuple[AnyTerm, ...] = ()
    schedule: WeightScheduleConfig = field(default_factory=WeightScheduleConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("weight", "truth_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        check_range(self, 0, 1e6, "weight", "truth_weight")
        if not self.weight and not self.truth_weight:
            raise ValueError("weight and truth_weight are 0, so that nothing would be learned")


@dataclass(frozen=True)
class DistillConfig(ImitationConfig):
    """Settings of distillation.

    Attributes:
        teacher_truth: Log the teacher's own loss, of every tenth batch; it has no gradient.
        cache: Keep the teachers' answers under `teacher_cache` of the save folder; only without
            random augmentation.
    """

    teacher_truth: bool = True
    cache: bool = False


class Imitation(Strategy):
    """The settings' effects that distillation and mutual learning share."""

    phase = Phase.LOSS
    _factor = 1.0

    def before_epoch(self, epoch: int) -> bool:
        config = self.config
        end = self._end_epoch
        self._factor = config.weight * config.schedule.factor(epoch, config.start_epoch, end)
        return False

    def task_weight(self) -> float:
        weight: float = self.config.truth_weight
        return weight

    def check(self, context: Context) -> None:
        """Attach to a fresh model and let go of it."""
        model = context.task.build_model()
        self.attach(model, context)
        self.detach(model)

    def _open(self, model: Layer, context: Context) -> tuple[Batch, Side]:
        """Read a batch and look at the student in training mode."""
        self._end_epoch = context.end_epoch
        [batch] = context.calibration(1)
        inputs = [batch[spec.name] for spec in context.task.input_spec()]
        with training_mode(model):
            side = look_at("student", context.task, model, inputs)
        return batch, side


class Distill(Imitation):
    """Adds terms between the student and each teacher; see `core.distill.terms`."""

    Config = DistillConfig
    needs_teacher = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._teachers: list[Teacher] = []
        self._lessons: list[_Lesson] = []
        self._batches = 0  # batches of the epoch so far

    def rehearse(self, model: Layer, context: Context) -> list[str]:
        """Load the teachers and find the layers; their metrics are not measured."""
        self.attach(model, replace(context, resuming=True))
        self.detach(model)
        lines = []
        for lesson in self._lessons:
            lines.append(f"distill: from {lesson.teacher.title}")
            for pair in lesson.comparison.pairs:
                both = f"{', '.join(pair.student)} like {', '.join(pair.teacher)}"
                lines.append(f"  {pair.name} x {pair.term.weight * self.config.weight:g}: {both}")
        return lines

    def attach(self, model: Layer, context: Context) -> None:
        first_time = not self._teachers
        if first_time:
            self._teachers = [Teacher(each, context.task) for each in context.teachers]
        batch, student = self._open(model, context)
        self._task = context.task
        kept = [lesson.comparison.state_dict() for lesson in self._lessons]
        self._lessons = [self._lesson(each, batch, student, context) for each in self._teachers]
        for lesson, state in zip(self._lessons, kept):
            lesson.comparison.load(state)
        used = [path for lesson in self._lessons for path in lesson.student_paths]
        self._taps = Taps(model, used)
        if first_time and not context.resuming:
            for teacher in self._teachers:
                metrics = context.evaluate(teacher.as_student())
                found = " ".join(f"{name} {value:.4f}" for name, value in metrics.items())
                log.info("%s: %s", teacher.title, found)

    def losses(self, batch: Batch, outputs: Outputs) -> Losses:
        caught = self._taps.collect(outputs)
        terms: Losses = {}
        for number, lesson in enumerate(self._lessons):
            suffix = str(number + 1) if len(self._lessons) > 1 else ""
            answers = lesson.answers(batch)
            found = lesson.comparison.losses(caught, answers, batch)
            for name, term in found.items():
                weight = self._factor * lesson.teacher.teaching.weight
                terms[f"distill{suffix}.{name}"] = term * weight
            if self.config.teacher_truth:
                if self._batches % TRUTH_EVERY == 0:
                    lesson.truth = self._teacher_truth(lesson, answers, batch)
                for name, term in lesson.truth.items():
                    terms[f"teacher{suffix}.{name}"] = term
        self._batches += 1
        return terms

    def before_epoch(self, epoch: int) -> bool:
        self._batches = 0
        return super().before_epoch(epoch)

    def parameters(self) -> dict[str, Tensor]:
        return {
            f"{number}.{name}": tensor
            for number, lesson in enumerate(self._lessons)
            for name, tensor in lesson.comparison.parameters().items()
        }

    def detach(self, model: Layer) -> None:
        self._taps.remove()
        for lesson in self._lessons:
            lesson.close()

    def state_dict(self) -> dict[str, Any]:
        return {
            "teachers": [lesson.teacher.fingerprint for lesson in self._lessons],
            "adapters": [lesson.comparison.state_dict() for lesson in self._lessons],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["teachers"] != [lesson.teacher.fingerprint for lesson in self._lessons]:
            raise ConfigError(
                "distill_config: the run to resume had other teachers, or the same with other "
                "weights"
            )
        for lesson, adapters in zip(self._lessons, state["adapters"]):
            lesson.comparison.load(adapters)

    def _lesson(self, teacher: Teacher, batch: Batch, student: Side, context: Context) -> _Lesson:
        inputs = teacher.inputs(batch)
        side = look_at(teacher.title, teacher.task, teacher.model, inputs)
        _check_same_classes(student, side)
        if teacher.teaching.losses:
            terms, setting = teacher.teaching.losses, f"{teacher.title}: distill.losses"
        else:
            terms, setting = self.config.losses, "distill.losses"
        pairs = pair_up(terms, student, side, batch, setting)
        lesson = _Lesson(teacher, Comparison(pairs, student, side), side)
        if self.config.cache:
            check_not_random(context.task.build_dataset("train"))
            digest = lesson.digest()
            lesson.cache = AnswerCache(context.save_dir / "teacher_cache" / digest)
        return lesson

    def _teacher_truth(self, lesson: _Lesson, answers: Batch, batch: Batch) -> Losses:
        output = lesson.side.main_output
        with paddle.no_grad():
            main = lesson.teacher.at_students_scale(answers[output])
            terms = self._task.losses({output.removeprefix(OUTPUT): main}, batch)
        return {name: term.detach() for name, term in terms.items()}


class _Lesson:
    """One teacher with the compared pairs, and its answers."""

    cache: AnswerCache | None = None

    def __init__(self, teacher: Teacher, comparison: Comparison, side: Side) -> None:
        self.teacher, self.comparison, self.side = teacher, comparison, side
        self.truth: Losses = {}  # the teacher's own, of the batch that was last asked
        self.student_paths = [path for pair in comparison.pairs for path in pair.student]
        self._paths = [path for pair in comparison.pairs for path in pair.teacher]
        self._taps = Taps(teacher.model, [*self._paths, side.main_output])

    def answers(self, batch: Batch) -> Batch:
        """Return the outputs of the teacher's layers for a batch, by path."""

        def ask() -> Batch:
            return self._taps.collect(self.teacher.outputs(batch))

        if self.cache is None:
            return ask()
        return self.cache.answer(self.teacher.inputs(batch), ask)

    def digest(self) -> str:
        """Return a name for answers of this teacher at these layers."""
        layers = hashlib.sha256("\n".join(sorted(set(self._paths))).encode()).hexdigest()[:8]
        return f"{self.teacher.fingerprint}-{layers}"

    def close(self) -> None:
        """Stop listening to the teacher."""
        self._taps.remove()


def _check_same_classes(student: Side, teacher: Side) -> None:
    ours, theirs = student.shapes[student.main_output], teacher.shapes[teacher.main_output]
    if ours[1:2] != theirs[1:2]:
        raise ConfigError(
            f"{teacher.title}: its output {teacher.main_output[1:]} has {theirs[1]} channels, the "
            f"student's {ours[1]}: a teacher of other classes or keypoints cannot teach"
        )
