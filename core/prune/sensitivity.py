"""How much of the metric each layer's channels are worth, measured by cutting them for a moment."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from paddle.nn import Layer
from rich.table import Table
from tqdm import tqdm

from core.config import read
from core.errors import ConfigError, DataError
from core.files import write_bytes, write_text
from core.prune.cut import cut_for_now, plan_edit
from core.prune.plan import Ranking

Evaluate = Callable[[Layer], float]
FORMAT = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Curve:
    """Loss of one group at rising shares of removed channels."""

    ratios: tuple[float, ...]
    losses: tuple[float, ...]  # share of the metric that is lost; below 0 it became better


@dataclass(frozen=True)
class Sensitivity:
    """What was measured on one state of a model.

    Attributes:
        fingerprint: Of weights and settings; other weights, other losses.
        metric: Name of the metric.
        baseline: The metric of the whole model.
        curves: By name of the group.
    """

    fingerprint: str
    metric: str
    baseline: float
    curves: dict[str, Curve] = field(default_factory=dict)

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
    evaluate: Evaluate,
    metric: str,
    higher_is_better: bool,
    settings: str = "",
    file: Path | None = None,
) -> Sensitivity:
    """Measure the metric with each group cut at each ratio, one at a time.

    Args:
        model: Cut and made whole again.
        ranking: Groups, and which of their channels go first.
        ratios: Shares of a group's channels.
        evaluate: Returns the metric.
        metric: Its name.
        higher_is_better: Its sense.
        settings: Whatever else the losses depend on, for the fingerprint.
        file: JSON in which to find and to keep measurements, group by group, so that an
            interrupted measurement goes on where it was.

    Raises:
        DataError: The file is broken.
        FileError: The file cannot be written.
    """
    key = _fingerprint(model, f"{metric} {settings}")
    others = [] if file is None else [s for s in load(file) if s.fingerprint != key]
    known = [] if file is None else [s for s in load(file) if s.fingerprint == key]
    found = known[0] if known else Sensitivity(key, metric, evaluate(model))
    if found.baseline == 0:
        _log.warning(
            "%s is 0 before anything is cut: sensitivity tells nothing; "
            "start from trained weights, or raise eval_rate",
            metric,
        )
    reused = 0
    names = [group.name for group in ranking.analysis.groups]
    wanted = [index for index, steps in enumerate(ranking.steps) if len(steps) > 1]
    for index in tqdm(wanted, desc="sensitivity", disable=None):
        curve = found.curves.get(names[index])
        if curve is not None and set(ratios) <= set(curve.ratios):
            reused += 1
            continue
        found.curves[names[index]] = _measure_group(
            model, ranking, index, sorted(ratios), evaluate, found.baseline, higher_is_better
        )
        if file is not None:
            save(file, [*others, found])
    _log.info("sensitivity of %d groups, %d of them measured before", len(wanted), reused)
    return found


def _measure_group(
    model: Layer,
    ranking: Ranking,
    index: int,
    ratios: Sequence[float],
    evaluate: Evaluate,
    baseline: float,
    higher_is_better: bool,
) -> Curve:
    losses, by_count = [], {0: 0.0}
    for ratio in ratios:
        count = ranking.nearest(index, round(len(ranking.analysis.groups[index]) * ratio))
        if count not in by_count:
            counts = [0] * len(ranking.steps)
            counts[index] = count
            edit = plan_edit(model, ranking.analysis, ranking.keep(counts))
            with cut_for_now(model, edit):
                value = evaluate(model)
            lost = baseline - value if higher_is_better else value - baseline
            by_count[count] = lost / (abs(baseline) or 1.0)
        losses.append(by_count[count])
    return Curve(tuple(ratios), tuple(losses))


def _fingerprint(model: Layer, settings: str) -> str:
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Content:
    format: int
    measurements: tuple[Sensitivity, ...]


def load(file: Path) -> list[Sensitivity]:
    """Read measurements; none if there is no such file.

    Raises:
        DataError: It is not what `save` wrote.
    """
    if not file.exists():
        return []
    try:
        content = read(_Content, json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, ConfigError) as error:
        raise DataError(
            f"{file}: not a file of sensitivities ({error}); remove it to measure anew"
        ) from error
    if content.format != FORMAT:
        raise DataError(f"{file}: format {content.format}, expected {FORMAT}")
    return list(content.measurements)


def save(file: Path, measurements: Sequence[Sensitivity]) -> None:
    """Write measurements as JSON; the file is there whole or not at all.

    Raises:
        FileError: It cannot be written.
    """
    content = asdict(_Content(FORMAT, tuple(measurements)))
    write_text(file, json.dumps(content, indent=1))


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
