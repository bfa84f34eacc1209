"""Teachers: trained networks, frozen whole, that see the student's very batches."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import Layer
from paddle.utils import unique_name

from core.distill.adapters import resize
from core.distill.terms import AnyTerm
from core.errors import ConfigError
from core.settings.config import load_yaml, read, suggest
from core.settings.ranges import check_range
from core.task import Batch, Outputs, Task, build_task
from core.training import checkpoint
from core.training.own_data import completed
from core.training.run import OF_A_RUN

log = logging.getLogger(__name__)

SOURCE, WEIGHTS, TEACHING = "source", "weights", "distill"
OF_TRAINING = (
    "train",
    "seed",
    "device",
    *OF_A_RUN,
)  # sections of a config that a teacher does not need
GREYS = (0, 128, 255)  # grey pictures that show how a task normalises


@dataclass(frozen=True)
class TeachingConfig:
    """Section `distill` of a teacher's file.

    Attributes:
        weight: Factor on all its terms; several teachers add up.
        losses: Its terms; none means those of the recipe.
    """

    weight: float = 1.0
    losses: tuple[AnyTerm, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight: expected 0 or more, got {self.weight}")
        check_range(self, 0, 1e6, "weight")


def read_teacher(path: str) -> dict[str, Any]:
    """Read what `--distill_config` names: a YAML file, or a checkpoint of ours.

    Raises:
        ConfigError: Not readable.
    """
    settings = load_yaml(path) if Path(path).suffix in (".yml", ".yaml") else {WEIGHTS: path}
    if SOURCE in settings:
        raise ConfigError(f"{path}: {SOURCE}: has no meaning; the weights are {WEIGHTS}")
    return {SOURCE: path, **settings}


class Teacher:
    """A frozen network with the scale it wants its inputs in.

    Args:
        settings: As `read_teacher` returns them.
        student: The task of the student.

    Raises:
        UserError: No weights, weights that do not fit, or a task that cannot teach this one.
    """

    def __init__(self, settings: Mapping[str, Any], student: Task) -> None:
        self.title = f"teacher {settings[SOURCE]}"
        teaching = settings.get(TEACHING, {})
        self.teaching = read(TeachingConfig, teaching, f"{settings[SOURCE]}: {TEACHING}")
        self.task, self.model = _load(settings, student)
        freeze(self.model)
        _check_same_pictures(self.title, self.task, student)
        self._scale = _input_scale(self.title, self.task, student)
        self._aligned_at = self.task.slim_hints(self.model).aligned_at
        self._inputs = [spec.name for spec in student.input_spec()]

    def inputs(self, batch: Batch) -> list[Tensor]:
        """Return the student's inputs [N, C, H, W] at the teacher's scale."""
        return [self.scaled(batch[name]) for name in self._inputs]

    def outputs(self, batch: Batch) -> Outputs:
        """Run the network on a batch of the student."""
        with paddle.no_grad():
            return self.task.name_outputs(self.model(*self.inputs(batch)))

    def scaled(self, values: Tensor) -> Tensor:
        """Resize an input of the student, [N, C, H, W], to the teacher's scale."""
        if self._scale == 1.0 or values.ndim != 4:
            return values
        return self._resized(values, self._scale)

    def at_students_scale(self, output: Tensor) -> Tensor:
        """Resize an output of the teacher, [N, C, H, W], to the scale of the student's."""
        if self._scale == 1.0 or output.ndim != 4:
            return output
        return self._resized(output, 1 / self._scale)

    def _resized(self, values: Tensor, ratio: float) -> Tensor:
        size = [round(side * ratio) for side in values.shape[2:]]
        return resize(values, size, self._aligned_at)

    def as_student(self) -> Layer:
        """Return the network as one that takes the student's inputs, to be measured."""
        return _AsStudent(self)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of weights and scale, which identifies the network's answers."""
        digest = hashlib.sha256(repr(self._scale).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()[:16]


class _AsStudent(Layer):
    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self._teacher = teacher
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        teacher = self._teacher
        named = teacher.task.name_outputs(teacher.model(*[teacher.scaled(x) for x in inputs]))
        return teacher.at_students_scale(next(iter(named.values())))


def freeze(model: Layer) -> None:
    """Switch off gradients and training mode, and give the weights names that no other has."""
    model.eval()
    rename(model, "teacher")
    for parameter in model.parameters():
        parameter.stop_gradient = True


def rename(model: Layer, prefix: str) -> None:
    """Give the weights of a further network names of their own.

    Some networks fix the names of their weights, and an optimizer tells parameters by name.
    """
    unique = unique_name.generate(prefix)
    for path, parameter in model.named_parameters():
        parameter.name = f"{unique}/{path}"


def _load(settings: Mapping[str, Any], student: Task) -> tuple[Task, Layer]:
    source = settings[SOURCE]
    own = {key: value for key, value in settings.items() if key not in (SOURCE, WEIGHTS, TEACHING)}
    task = _build_task(own, source) if "task" in own else None
    if task is None and own:
        known = ["task", WEIGHTS, TEACHING]
        key = next(iter(own))
        raise ConfigError(f"{source}: {key}: has no meaning without task.name{suggest(key, known)}")
    path = _weights(settings, task, source)
    task, model = checkpoint.restore(path, task)
    if task.name != student.name:
        raise ConfigError(
            f"{source}: a teacher of the task {task.name!r}, the student's is {student.name!r}"
        )
    log.info("teacher %s: loaded %s", source, path)
    return task, model


def _build_task(own: Mapping[str, Any], source: str) -> Task:
    own = completed(own)
    entry = own["task"]
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise ConfigError(f"{source}: task.name: required, but not given")
    rest = {key: value for key, value in own.items() if key not in ("task", *OF_TRAINING)}
    try:
        return build_task(entry["name"], rest)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _weights(settings: Mapping[str, Any], task: Task | None, source: str) -> Path:
    """Find the file of a teacher's weights: `weights`, else `model.pretrained`."""
    wanted = settings.get(WEIGHTS)
    if wanted is None and task is not None:
        wanted = task.config.model.pretrained
        if task.config.model.reinit:
            raise ConfigError(f"{source}: model.reinit: a teacher with fresh layers knows nothing")
    if not wanted or not isinstance(wanted, (bool, str)):
        raise ConfigError(
            f"{source}: weights: a teacher must be trained: give a checkpoint, a weights file, a "
            f"URL, or true for the published weights, got {wanted!r} (-o teacher.weights=PATH)"
        )
    if task is None:
        return checkpoint.weights_path(str(wanted))
    return checkpoint.locate(task, wanted)


def _check_same_pictures(title: str, teacher: Task, student: Task) -> None:
    """Refuse a teacher that was trained on pictures normalised in another way."""
    for grey in GREYS:
        picture = np.full((64, 48, 3), grey, np.uint8)
        ours, theirs = (_centre(task.preprocess(picture)[0]) for task in (student, teacher))
        for name in ours.keys() & theirs.keys():
            if not np.allclose(ours[name], theirs[name], atol=1e-4):
                raise ConfigError(
                    f"{title}: wants pictures normalised in another way: grey {grey} is "
                    f"{ours[name].round(3).tolist()} for the student and "
                    f"{theirs[name].round(3).tolist()} for the teacher; give both the same "
                    "data.mean and data.std"
                )


def _centre(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the middle pixel of every picture [C, H, W]."""
    return {
        name: value[:, value.shape[1] // 2, value.shape[2] // 2]
        for name, value in sample.items()
        if value.ndim == 3
    }


def _input_scale(title: str, teacher: Task, student: Task) -> float:
    """Return how much larger the teacher's pictures are, where both tasks say a size."""
    scale = 1.0
    theirs = {spec.name: list(spec.shape) for spec in teacher.input_spec()}
    for spec in student.input_spec():
        wanted = theirs.get(spec.name)
        if wanted is None or len(wanted) != len(spec.shape):
            raise ConfigError(f"{title}: has no input {spec.name!r} like the student's")
        sides = [(a, b) for a, b in zip(list(spec.shape)[2:], wanted[2:]) if a and b]
        if len(sides) == 2 and min(min(pair) for pair in sides) > 0:
            (height, high), (width, wide) = sides
            if abs(high * width - wide * height) > max(wide, high):  # more than a pixel's rounding
                raise ConfigError(
                    f"{title}: sees {spec.name} as {high}x{wide}, the student as {height}x{width}: "
                    "pictures of another shape would be distorted"
                )
            scale = high / height
    return scale
