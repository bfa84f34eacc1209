"""Files of a training that reports show: curves by epoch, sensitivity of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.prune.planning.sensitivity import Sensitivity
from core.runtimes.operator_times import OperatorTime, by_kind, explain, int8_share
from core.training.charts import Row
from core.training.measurements import load
from core.training.results import RESULTS, read_results
from core.workflows.layer_sensitivity import QuantSensitivity

PRUNING, ROUNDING = "sensitivities.json", "quant_sensitivities.json"


@dataclass(frozen=True)
class LayerSensitivity:
    """Losses of the metric when layers are changed one by one.

    Attributes:
        metric: Name of the metric.
        before: Metric with no layer changed.
        changes: What is done to a layer, a word for each column.
        layers: Loss of the metric of each layer for each change; None where it was not measured.
            The worst come first.
    """

    metric: str
    before: float
    changes: tuple[str, ...]
    layers: Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class ComparedOperators:
    """Times of classes of operators in two models.

    Attributes:
        rows: Class, milliseconds in each of the models, and share of the second in int8.
        reason: Words for what makes the second one faster or slower.
    """

    rows: tuple[tuple[str, tuple[float | None, float | None], float], ...]
    reason: str


def compare_operators(
    before: Sequence[OperatorTime], after: Sequence[OperatorTime]
) -> ComparedOperators:
    """Compare the times of two models in a runtime, the class that takes most first."""
    first, second = by_kind(before), by_kind(after)
    longest = {kind: max(first.get(kind, 0.0), second.get(kind, 0.0)) for kind in first | second}
    rows = tuple(
        (
            kind,
            (first.get(kind), second.get(kind)),
            int8_share([each for each in after if each.kind == kind]),
        )
        for kind in sorted(longest, key=lambda kind: -longest[kind])
    )
    return ComparedOperators(rows, explain(before, after))


def curves_of(training: Path) -> list[Row]:
    """Return the measurements of each epoch of a training; none if it has written none.

    Raises:
        FileError: The file is broken.
    """
    file = training / RESULTS
    return read_results(file) if file.is_file() else []


def sensitivities_of(folder: Path) -> list[LayerSensitivity]:
    """Return what pruning, or rounding, of single layers costs, as far as a folder has it.

    Raises:
        DataError: A file is broken.
    """
    cuts = [_of_pruning(each) for each in load(Sensitivity, folder / PRUNING)]
    return [*cuts, *(_of_rounding(each) for each in load(QuantSensitivity, folder / ROUNDING))]


def _of_pruning(found: Sensitivity) -> LayerSensitivity:
    """Losses of a pruning are shares of the metric before."""
    ratios = sorted({ratio for curve in found.curves.values() for ratio in curve.ratios})
    layers = {}
    for name, curve in found.by_worst():
        lost = dict(zip(curve.ratios, curve.losses))
        layers[name] = [lost[each] * found.baseline if each in lost else None for each in ratios]
    changes = tuple(f"{ratio:.0%} of the channels cut" for ratio in ratios)
    return LayerSensitivity(found.metric, found.baseline, changes, layers)


def _of_rounding(found: QuantSensitivity) -> LayerSensitivity:
    layers = {name: [cost.lost] for name, cost in found.by_worst()}
    return LayerSensitivity(found.metric, found.in_float, ("int8 in this layer alone",), layers)
