"""The report of a training: metrics, curves, what its strategies changed, pictures."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paddle.nn import Layer

from core.errors import FileError
from core.export.parity import real_batches
from core.graph import cost
from core.quant.layers import quantized_layers
from core.reports.figures import curve_charts
from core.reports.measured import LayerSensitivity, curves_of, sensitivities_of
from core.reports.page import embedded_pictures, machine_in_words, write_page
from core.runtimes.environment import environment
from core.settings.config import load_yaml
from core.task import Task
from core.training import checkpoint
from core.training.charts import Row
from core.training.review import CONFUSION, SAMPLES, WORST
from core.zoo.changes import CONFIG, Changes, LayerChange

BEST = "best_model"


@dataclass(frozen=True)
class TrainingFigures:
    """Figures of a training.

    Attributes:
        task: Name of the task.
        network: Name of the network.
        metric: Metric that decided which epoch was best.
        epoch: Best epoch.
        before: Metrics of the checkpoint that the training began with; empty if it began with none.
        metrics: Metrics of the best checkpoint.
        size_mb: Size of its weights; 1 MB is 10**6 bytes.
        changes: Changes that the strategies made.
        curves: Measurements of each epoch.
        sensitivity: Sensitivity of layers, if a strategy has measured it.
        command: Command of the training.
        environment: Machine.
        date: Day of the report.
    """

    task: str
    network: str
    metric: str
    epoch: int
    before: dict[str, float]
    metrics: dict[str, float]
    size_mb: float
    changes: Changes
    curves: list[Row]
    sensitivity: list[LayerSensitivity]
    command: str
    environment: dict[str, Any]
    date: str


def write_training_report(folder: Path, command: str) -> Path:
    """Write `report.html` and `report.json` of a finished training; return the page.

    Args:
        folder: Folder of the training, with its `best_model`.
        command: Command of the training.

    Raises:
        UserError: A file of the training is missing or broken, or the report cannot be written.
    """
    found, began = _figures(folder, command)
    pictures = {}
    if began is not None:
        pictures["before this training"] = began.parent / SAMPLES
    pictures |= {"after it": folder / SAMPLES, "worst samples": folder / WORST}
    pictures["confusion matrix"] = folder / CONFUSION
    return write_page(
        folder,
        "training.html.jinja",
        asdict(found),
        found=found,
        charts=list(curve_charts(found.curves)),
        pictures=embedded_pictures(pictures),
        machine=machine_in_words(found.environment),
    )


def _figures(folder: Path, command: str) -> tuple[TrainingFigures, Path | None]:
    """Return the figures of a training, and the checkpoint that it began with, if it is there."""
    best, settings = folder / BEST, load_yaml(folder / CONFIG)
    about = checkpoint.load_description(best)
    if about is None:
        raise FileError(f"{best}: is no checkpoint that describes itself")
    task, model = checkpoint.restore(best)
    began = _began_with(settings["model"].get("pretrained"))
    known = None if began is None else checkpoint.load_description(began)
    first = task.build_model() if began is None else checkpoint.restore(began)[1]
    strategies = tuple((settings.get("slim") or {}).get("strategies", ()))
    found = TrainingFigures(
        task=task.name,
        network=str(getattr(task.config.model, "name", "")),
        metric=task.build_metric().primary,
        epoch=about.epoch,
        before=known.metrics if known else {},
        metrics=about.metrics,
        size_mb=(best / checkpoint.WEIGHTS).stat().st_size / 1e6,
        changes=_changes(task, strategies, first, model),
        curves=curves_of(folder),
        sensitivity=sensitivities_of(folder),
        command=command,
        environment=environment(),
        date=datetime.date.today().isoformat(),
    )
    return found, began


def _began_with(pretrained: object) -> Path | None:
    """Return the checkpoint that a training began with; None of published weights, or of none."""
    if not isinstance(pretrained, str) or not Path(pretrained).is_dir():
        return None
    return Path(pretrained) if checkpoint.load_description(pretrained) else None


def _changes(
    task: Task, strategies: tuple[dict[str, Any], ...], before: Layer, after: Layer
) -> Changes:
    specs = task.input_spec()
    shapes = [(1, *array.shape[1:]) for array in real_batches(task, specs)[0]]
    known = {path: channels for path, _, channels in _layers_of(before)}
    in_int8 = quantized_layers(after)
    return Changes(
        strategies,
        (cost.count_parameters(before), cost.count_parameters(after)),
        (cost.count_macs(before, shapes, specs), cost.count_macs(after, shapes, specs)),
        tuple(
            LayerChange(path, kind, known.get(path), channels, path in in_int8)
            for path, kind, channels in _layers_of(after)
        ),
    )


def _layers_of(model: Layer) -> Iterator[tuple[str, str, int]]:
    """Yield path, class and number of output channels of each layer with a matrix of weights."""
    for path, layer in model.named_sublayers():
        weight = getattr(layer, "weight", None)
        if weight is None or len(weight.shape) < 2:
            continue
        kind = type(layer).__name__.removeprefix("Quantized")
        last = len(weight.shape) == 2  # [inputs, outputs]
        channels = weight.shape[1 if last or "Transpose" in kind else 0]
        groups = getattr(layer, "_groups", 1) if "Transpose" in kind else 1
        yield path, kind, int(channels * groups)
