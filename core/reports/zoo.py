"""The report of a reproduction: rows of published tables beside what was reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.reports.figures import BLUE, ORANGE, ChartPath, curve_charts, paths_chart
from core.reports.measured import (
    ComparedOperators,
    compare_operators,
    curves_of,
    sensitivities_of,
)
from core.reports.page import embedded_pictures, machine_in_words, write_page
from core.runtimes.operator_times import OperatorTime
from core.targets.names import BACKENDS
from core.zoo.reproduction import ZooResult
from core.zoo.steps import COMPRESSED, FLOAT, SENSITIVITY, SHOWN

MODELS = (FLOAT, COMPRESSED)
COMPARABLE = "full"  # scale whose figures can be compared with published ones


def write_report(results: Sequence[ZooResult], failures: dict[str, str], folder: Path) -> Path:
    """Write `report.html` and `report.json`; return the page.

    Args:
        results: Rows that were reproduced.
        failures: Message for each row that failed.
        folder: Folder of the report.

    Raises:
        FileError: A file cannot be written, or one of a training is broken.
        DataError: A file of sensitivities is broken.
    """
    figures = [_figures(result) for result in results]
    drawn: dict[str, list[tuple[str, str]]] = {}  # rows share float trainings
    for each in figures:
        for model, rows in each["curves"].items():
            place = each["trainings"][model]
            drawn.setdefault(place, list(curve_charts(rows)))
    return write_page(
        folder,
        "zoo.html.jinja",
        {"rows": figures, "failures": failures},
        rows=[_row(*each, drawn) for each in zip(results, figures)],
        failures=failures,
        charts=list(_charts(results)),
        machine=machine_in_words(results[0].environment) if results else {},
        dates=sorted({result.date for result in results}),
        scales=sorted({result.scale for result in results}),
        shown=SHOWN,
    )


def _figures(result: ZooResult) -> dict[str, Any]:
    """Return all figures of a row, for the JSON file."""
    published = result.row["published"]
    reached = {model: result.metric(model, SHOWN) for model in MODELS}
    wanted = {model: published[f"{model}_metric"] for model in MODELS}
    pairs = {model: (reached[model], wanted[model]) for model in MODELS}
    difference = {m: a - b for m, (a, b) in pairs.items() if a is not None and b is not None}
    homes = {model: Path(folder) for model, folder in result.trainings.items()}
    curves = {model: curves_of(home) for model, home in homes.items()}
    # a pruning measures sensitivity before it cuts, into the folder of its training
    measured = [*homes.values(), *(home.parent / SENSITIVITY for home in homes.values())]
    sensitivity = [each for folder in measured for each in sensitivities_of(folder)]
    return {
        **asdict(result),
        "reached": reached,
        "difference": {model: difference.get(model) for model in MODELS},
        "curves": {model: rows for model, rows in curves.items() if rows},
        "sensitivity": [asdict(each) for each in sensitivity],
    }


def _row(
    result: ZooResult, figures: dict[str, Any], drawn: dict[str, list[tuple[str, str]]]
) -> dict[str, Any]:
    """Lay out the figures of a row as the template wants them."""
    files = []
    for backend in BACKENDS:
        before, after = (result.measured(model, backend) for model in MODELS)
        files.append(
            {
                "backend": backend,
                "metrics": [result.metric(model, backend) for model in MODELS],
                "sizes": [each and each["size_mb"] for each in (before, after)],
                "times": [each and each["mean_ms"] for each in (before, after)],
                "threads": [_by_threads(result, backend, count) for count in result.threads()],
                "operators": _operators(before, after),
            }
        )
    return {
        **figures,
        "published": result.row["published"],
        "changes": result.changes,
        "comparable": result.scale == COMPARABLE,
        "files": files,
        "shown": next(each for each in files if each["backend"] == SHOWN),
        "predictions": embedded_pictures({k: Path(v) for k, v in result.pictures.items()}),
        "charts": {model: drawn[result.trainings[model]] for model in figures["curves"]},
    }


def _by_threads(result: ZooResult, backend: str, threads: int) -> dict[str, Any]:
    """Return times of both models with so many threads, and both speed-ups."""
    rows = [result.measured(model, backend, threads) for model in MODELS]
    ratio = rows[1] and rows[0] and rows[0]["mean_ms"] / rows[1]["mean_ms"]
    return {
        "count": threads,
        "times": [each and each["mean_ms"] for each in rows],
        "speedup": ratio and 1 - 1 / ratio,
        "ratio": ratio,
    }


def _operators(
    before: dict[str, Any] | None, after: dict[str, Any] | None
) -> ComparedOperators | None:
    """Compare times of classes of operators; None if either is not known."""
    if not (before and after and before.get("operators") and after.get("operators")):
        return None
    times = [[OperatorTime(**each) for each in row["operators"]] for row in (before, after)]
    return compare_operators(*times)


def _charts(results: Sequence[ZooResult]) -> Iterable[tuple[str, str]]:
    """Draw, for each metric, accuracy against latency and against size; yield titles and SVG.

    Models bear the numbers of their rows in the table, for names would lie upon each other.
    """
    for metric in sorted({result.row["metric"] for result in results}):
        for key, unit, title in (("mean_ms", "ms", "latency"), ("size_mb", "MB", "size")):
            paths = [
                ChartPath(str(number), tuple(_points(result, key)))
                for number, result in enumerate(results, 1)
                if result.row["metric"] == metric
            ]
            yield f"{metric} against {title}", paths_chart(paths, unit, metric)


def _points(result: ZooResult, key: str) -> Iterable[tuple[float, float, str]]:
    for model, color in zip(MODELS, (BLUE, ORANGE)):
        measured, value = result.measured(model, SHOWN), result.metric(model, SHOWN)
        if measured is not None and value is not None:
            yield measured[key], value, color
