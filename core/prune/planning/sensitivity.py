"""Sensitivity to pruning: the metric that is lost while the channels of one group are cut."""

from __future__ import annotations

import core.settings.plain_matplotlib  # isort: skip  # noqa: F401 - before its parts

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from paddle.nn import Layer
from rich.table import Table

from core.errors import DataError
from core.prune.choices import Criterion
from core.prune.cut import cut_for_now, plan_edit
from core.prune.planning.criteria import score, training_gradients
from core.prune.planning.plan import Ranking, choose_groups
from core.prune.structure.analysis import Analysis
from core.settings.files import write_bytes
from core.settings.plain_matplotlib import plain_settings
from core.settings.progress import progress
from core.task import Task
from core.training.measurements import MeasurementStore, Meter, fingerprint, load, save

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Curve:
    """Loss of one group at rising shares of removed channels."""

    ratios: tuple[float, ...]
    losses: tuple[float, ...]  # share of the metric that is lost; below 0 it became better

    def __post_init__(self) -> None:
        if len(self.losses) != len(self.ratios) or not np.isfinite(self.losses).all():
            raise ValueError(f"losses: expected a number for each ratio, got {list(self.losses)}")


@dataclass(frozen=True)
class Sensitivity:
    """Measurement of one state of a model.

    Attributes:
        fingerprint: Digest of weights and settings.
        metric: Name of the metric.
        baseline: The metric of the whole model.
        curves: By name of the group.
    """

    fingerprint: str
    metric: str
    baseline: float
    curves: dict[str, Curve] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not np.isfinite(self.baseline):
            raise ValueError(f"baseline: expected a number, got {self.baseline}")

    def table(self) -> Table:
        """List the losses, the most sensitive group first."""
        ratios = sorted({ratio for curve in self.curves.values() for ratio in curve.ratios})
        table = Table(title=f"share of {self.metric} ({self.baseline:.4f}) that is lost")
        table.add_column("group", no_wrap=True)
        for ratio in ratios:
            table.add_column(f"-{ratio:.0%}", justify="right")
        for name, curve in self.by_worst():
            known = dict(zip(curve.ratios, curve.losses))
            cells = [f"{known[ratio]:.4f}" if ratio in known else "" for ratio in ratios]
            table.add_row(name, *cells)
        return table

    def by_worst(self) -> list[tuple[str, Curve]]:
        """Return the curves by falling mean loss."""
        return sorted(self.curves.items(), key=lambda item: -float(np.mean(item[1].losses or [0])))


def ratios_in_steps(delta_rate: float) -> list[float]:
    """Return the ratios delta, 2 delta, ... below 1."""
    count = math.ceil(1 / delta_rate - 1e-9) - 1
    return [round(delta_rate * (index + 1), 6) for index in range(count)]


def measure(
    model: Layer,
    ranking: Ranking,
    ratios: Sequence[float],
    meter: Meter,
    file: Path | None = None,
) -> Sensitivity:
    """Measure the metric with each group cut at each ratio, one at a time.

    Args:
        model: Cut and made whole again.
        ranking: Groups, and which of their channels go first; its steps should not be rounded.
        ratios: Shares of a group's channels.
        meter: Measures the model.
        file: JSON in which to find and to keep measurements, group by group, so that an
            interrupted measurement goes on where it was.

    Raises:
        DataError: The file is broken.
        FileError: The file cannot be written.
    """
    order = zip(ranking.analysis.groups, ranking.orders)
    parts = [group.name.encode() + channels.tobytes() for group, channels in order]
    key = fingerprint(model, meter, *parts)
    store = MeasurementStore(Sensitivity, file, key)
    found = store.found
    if found is None:
        baseline = meter.value(model)
        if not np.isfinite(baseline):
            raise DataError(f"sensitivity: {meter.metric} is no number before anything is cut")
        found = Sensitivity(key, meter.metric, baseline)
    if found.baseline == 0:
        _log.warning(
            "%s is 0 before anything is cut: sensitivity tells nothing; "
            "start from trained weights, or raise eval_rate",
            meter.metric,
        )
    wanted = [index for index, steps in enumerate(ranking.steps) if len(steps) > 1]
    names = {index: ranking.analysis.groups[index].name for index in wanted}
    missing = [index for index in wanted if not _covers(found.curves.get(names[index]), ratios)]
    for index in progress(missing, "sensitivity", unit="group"):
        losses = _measure_group(model, ranking, index, sorted(ratios), meter, found.baseline)
        if not np.isfinite(losses).all():
            raise DataError(f"sensitivity: {meter.metric} is no number without {names[index]}")
        found.curves[names[index]] = Curve(tuple(sorted(ratios)), tuple(losses))
        store.save(found)
    reused = len(wanted) - len(missing)
    _log.info("sensitivity of %d groups, %d of them measured before", len(wanted), reused)
    return found


def measure_task(
    task: Task,
    model: Layer,
    analysis: Analysis,
    criterion: Criterion,
    globs: Sequence[str],
    delta_rate: float,
    meter: Meter,
    file: Path,
) -> Sensitivity:
    """Measure a task's model; the file serves `allocation: sensitive` of a recipe.

    Args:
        task: Reads training data, for `taylor`.
        model: Cut and made whole again.
        analysis: Analysis of the model.
        criterion: Criterion by which channels are cut first.
        globs: On weights whose groups are measured.
        delta_rate: See `ratios_in_steps`.
        meter: Measures the model.
        file: See `measure`.

    Raises:
        ConfigError: A glob matches nothing.
        DataError: The file, or training data, cannot be read.
        FileError: The file cannot be written.
    """
    save(file, load(Sensitivity, file))  # an unusable file is reported now
    gradients = training_gradients(task, model) if criterion == "taylor" else None
    scores = score(model, analysis.groups, analysis.weights, criterion, gradients=gradients)
    chosen = choose_groups(analysis, globs, "--params")
    ranking = Ranking(analysis, scores, max_ratio=1.0, chosen=chosen)
    return measure(model, ranking, ratios_in_steps(delta_rate), meter, file)


def _covers(curve: Curve | None, ratios: Sequence[float]) -> bool:
    return curve is not None and set(ratios) <= set(curve.ratios)


def _measure_group(
    model: Layer,
    ranking: Ranking,
    index: int,
    ratios: Sequence[float],
    meter: Meter,
    baseline: float,
) -> list[float]:
    losses, by_count = [], {0: 0.0}
    for ratio in ratios:
        count = ranking.nearest(index, round(len(ranking.analysis.groups[index]) * ratio))
        if count not in by_count:
            counts = [0] * len(ranking.steps)
            counts[index] = count
            edit = plan_edit(model, ranking.analysis, ranking.keep(counts))
            with cut_for_now(model, edit):
                value = meter.value(model)
            by_count[count] = meter.lost(baseline, value) / (abs(baseline) or 1.0)
        losses.append(by_count[count])
    return losses


@plain_settings()
def plot(sensitivity: Sensitivity, file: Path) -> None:
    """Draw the loss of every group over the share that is cut: the darker, the more it hurts.

    Raises:
        FileError: The picture cannot be written.
    """
    curves = sensitivity.by_worst()
    ratios = sorted({ratio for _, curve in curves for ratio in curve.ratios})
    values = np.full((len(curves), len(ratios)), np.nan)
    for row, (_, curve) in enumerate(curves):
        for ratio, loss in zip(curve.ratios, curve.losses):
            values[row, ratios.index(ratio)] = max(loss, 0.0) * 100
    figure = Figure(figsize=(4 + 0.6 * len(ratios), 1.5 + 0.22 * len(curves)), layout="tight")
    axes = figure.add_subplot()
    image = axes.imshow(values, aspect="auto", cmap="magma_r", vmin=0)
    axes.set_xticks(range(len(ratios)), [f"{ratio:.0%}" for ratio in ratios])
    axes.set_yticks(range(len(curves)), [name for name, _ in curves], fontsize=7)
    axes.set_xlabel("channels removed")
    axes.set_title(f"{sensitivity.metric} lost, % of {sensitivity.baseline:.4f}", fontsize=9)
    figure.colorbar(image)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_bytes(file, picture.getvalue())
