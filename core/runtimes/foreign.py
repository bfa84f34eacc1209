"""Models that other projects exported: their input's size and their answers, in a task's words."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle

from core.errors import ExportError
from core.runtimes.description import Port
from core.runtimes.ports import in_words
from core.runtimes.predictor import Predictor
from core.settings.config import merge, to_mapping
from core.task import ForeignModels, Task, build_task, load_package

SIDE = 224  # where neither the model nor the task says a size
CHANNELS = (1, 3, 4)
_log = logging.getLogger(__name__)


def fitted_task(task: Task, inputs: Sequence[Port], where: str | Path) -> Task:
    """Return the task with images of the size that a model takes; sizes it leaves free stay.

    Args:
        task: Task of the config, or of a deploy.yml.
        inputs: Inputs of the model.
        where: The model, for messages.

    Raises:
        ExportError: The input takes no normalised images [N, C, H, W].
        ConfigError: The task cannot prepare images of that size.
    """
    foreign = _foreign(task)
    if foreign is None or len(inputs) != 1 or not inputs[0].shape:
        return task
    port, own = inputs[0], task.input_spec()[0]
    if len(port.shape) != 4 or (port.shape[1] not in CHANNELS and port.shape[-1] in CHANNELS):
        raise ExportError(
            f"{where}: the input {port.name} is {list(port.shape)}; expected [N, C, H, W], "
            "channels first"
        )
    if port.dtype and np.dtype(port.dtype).kind != "f":
        raise ExportError(
            f"{where}: the input {port.name} takes {port.dtype}; expected floats, which images are "
            "once they are normalised"
        )
    wanted = port.shape[1:]
    mine = [int(size) if size is not None else -1 for size in own.shape[1:]]
    if all(size in (-1, known) for size, known in zip(wanted, mine)):
        return task
    _log.info("%s: takes images of %s, so they are prepared like that", where, list(wanted))
    settings = merge(to_mapping(task.config), foreign.settings_for(task.config, wanted))
    return build_task(task.name, settings)


def tell_of_free_sizes(task: Task, inputs: Sequence[Port], where: str | Path) -> None:
    """Say for which size images are prepared if a model, which describes no task, takes any."""
    if len(inputs) != 1 or min(inputs[0].shape[2:], default=1) > 0:
        return
    own = image_shape(task)
    _log.info(
        "%s: takes images of any size, they are prepared %s; this, data.mean and data.std should "
        "be as in its training",
        *(where, f"as {own[2]}x{own[1]}" if own else "in their own size"),
    )


def fit_output(predictor: Predictor, task: Task, output: str | None) -> None:
    """Let a model answer in the task's words; the models that TriSlim exported do.

    Args:
        predictor: The model; changed.
        task: Fitted to its input.
        output: Name of the output that is the task's; None: the only one.

    Raises:
        ExportError: There is no such output, or there are several.
        ConfigError: Its size is not that of the task.
    """
    description = predictor.description
    if output is None and description.task is not None:
        return
    main = main_output_name(task)
    names = [port.name for port in description.outputs]
    if output is None and len(names) > 1:
        if main in names:
            return
        raise ExportError(
            f"--output: {predictor.folder} has the outputs {in_words(description.outputs)}; "
            "name the one that answers"
        )
    chosen = output or names[0]
    predictor.answer_with(chosen, chosen)
    foreign = _foreign(task)
    name = main if foreign is None else foreign.name_of(task.config, _example(predictor, task))
    predictor.answer_with(chosen, name)


def main_output_name(task: Task) -> str:
    """Return a task's name for the output of a network with one output."""
    return next(iter(task.name_outputs(paddle.zeros([1]))))


def image_shape(task: Task) -> tuple[int, ...] | None:
    """Return [C, H, W] of a task's images; None where it takes any."""
    shape = task.input_spec()[0].shape[1:]
    return None if any(size is None or size < 1 for size in shape) else tuple(map(int, shape))


def is_distribution(scores: np.ndarray) -> bool:
    """Tell whether scores [N, C, ...] are probabilities: from 0 to 1, and 1 in all."""
    total = scores.sum(axis=1)
    return bool((scores >= 0).all() and np.allclose(total, 1, atol=1e-3))


def _example(predictor: Predictor, task: Task) -> np.ndarray:
    """Return the model's answers to noise, [1, ...]."""
    feeds = []
    for port, spec in zip(predictor.description.inputs, task.input_spec()):
        shape = port.shape or (-1, *(int(s) if s is not None else -1 for s in spec.shape[1:]))
        sizes = [size if size > 0 else SIDE if axis else 1 for axis, size in enumerate(shape)]
        known = [int(s) if s is not None and s > 0 else size for s, size in zip(spec.shape, sizes)]
        sizes = [size if size > 0 else k for size, k in zip(shape, known)]
        feeds.append(np.random.default_rng(0).normal(size=sizes).astype(np.float32))
    return next(iter(predictor.run(*feeds).values()))


def _foreign(task: Task) -> ForeignModels | None:
    found: ForeignModels | None = getattr(load_package(task.name), "foreign", None)
    return found
