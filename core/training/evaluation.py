"""Measure a model, eager or exported, with the task's metric over all processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import paddle
from paddle.nn import Layer

from core.errors import DataError
from core.network.modes import evaluation_mode
from core.settings.progress import progress as shown
from core.task import Arrays, Forward, Metric, Task
from core.training.distributed import gather
from core.training.loader import Loader

_log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Looks at an evaluation."""

    def after_batch(self, outputs: Arrays, batch: Arrays) -> None:
        """Look at a batch of the validation data [N, ...] and the model's answers to it."""
        ...


def validation_loader(task: Task, batch_size: int = 1) -> Loader:
    """Open the validation split of a task.

    Raises:
        DataError: It cannot be read.
    """
    data = task.config.data
    return Loader(
        task.build_dataset("val"),
        batch_size=batch_size,
        train=False,
        num_workers=data.num_workers,
        on_error=data.on_error,
    )


def eager_forward(task: Task, model: Layer) -> Forward:
    """Return the model as arrays in, named arrays out, without gradients."""

    def run(*inputs: np.ndarray) -> Arrays:
        with paddle.no_grad():
            raw = model(*[paddle.to_tensor(value) for value in inputs])
        return {name: tensor.numpy() for name, tensor in task.name_outputs(raw).items()}

    return run


def evaluate(
    task: Task,
    run: Forward,
    loader: Loader,
    progress: bool = False,
    what: str = "evaluate",
    watchers: Sequence[Watcher] = (),
) -> Metric:
    """Run the validation split through `run` and return the filled metric.

    With several processes each measures its share, and all get the metric of the whole.

    Args:
        task: Knows the metric.
        run: The model.
        loader: Loader of the split.
        progress: Show how far it is.
        what: Is done, in words.
        watchers: Get each batch of this process with its outputs.

    Raises:
        DataError: The data cannot be read, or not one of them where broken items are skipped, or
            the model answers every image with NaN.
    """
    metric = task.build_metric()
    metric.reset()
    hidden = not progress or loader.rank > 0
    images = silent = 0
    for batch in shown(loader.epoch(), what, len(loader), "batch", hidden):
        arrays = {name: tensor.numpy() for name, tensor in batch.items()}
        outputs = task.infer(run, arrays)
        images += len(next(iter(arrays.values())))
        silent += _count_with_nan(outputs)
        metric.update(outputs, arrays)
        for watcher in watchers:
            watcher.after_batch(outputs, arrays)
    if sum(gather(images)) == 0:
        why = f": {loader.skipped[0]}" if loader.skipped else ""
        raise DataError(f"data.root: not one item of the validation split can be read{why}")
    if silent and silent == images and loader.world == 1:
        raise DataError("the model answers all images with NaN")
    if silent:
        _log.warning("%d of %d images: the model answers with NaN", silent, images)
    states = gather(metric.state())
    if len(states) > 1:
        metric.merge(states)
    return metric


def _count_with_nan(outputs: Arrays) -> int:
    """Return of how many images outputs [N, ...] have a NaN."""
    found = [
        np.isnan(values).reshape(len(values), -1).any(axis=1)
        for values in outputs.values()
        if values.dtype.kind == "f"
    ]
    return int(np.any(found, axis=0).sum()) if found else 0


def measure(task: Task, loader: Loader, model: Layer, share: float = 1.0) -> dict[str, float]:
    """Return the metrics of an eager model on a random share of the data, always the same one."""
    return evaluate_model(task, model, loader.share(share)).compute()


def evaluate_model(
    task: Task,
    model: Layer,
    loader: Loader,
    progress: bool = False,
    watchers: Sequence[Watcher] = (),
) -> Metric:
    """Evaluate an eager model in evaluation mode; its layers get back the modes they had."""
    with evaluation_mode(model):
        run = eager_forward(task, model)
        return evaluate(task, run, loader, progress, watchers=watchers)
