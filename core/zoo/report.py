"""The report of a reproduction: one HTML page without a network, and the same figures as JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from core.runtimes.operator_times import OperatorTime, by_kind, explain, int8_share
from core.settings.files import write_text
from core.targets.names import BACKENDS, Backend
from core.zoo.reproduction import ZooResult
from core.zoo.steps import COMPRESSED, FLOAT

CURVES, SENSITIVITY = "curves.png", "sensitivity.png"  # in the folder of a training
PAGE, FIGURES = "report.html", "report.json"
TEMPLATE = Path(__file__).with_name("report.html.jinja")
GREY = "#808080"  # can be read on white and on black
COLOURS = {FLOAT: "#3b82f6", COMPRESSED: "#f97316"}
# the date and the random names in an SVG would make each report another file
STEADY = {"svg.hashsalt": "trislim", "svg.fonttype": "none"}


def write_report(results: Sequence[ZooResult], failures: dict[str, str], folder: Path) -> Path:
    """Write `report.html` and `report.json`; return the page.

    Args:
        results: Rows that were reproduced.
        failures: Message for each row that failed.
        folder: Folder of the report.

    Raises:
        FileError: A file cannot be written.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    rows = [_row(result) for result in results]
    page = template.render(
        rows=rows,
        failures=failures,
        charts=list(_charts(results)),
        machine=_machine(results[0].environment) if results else {},
        dates=sorted({result.date for result in results}),
        backends=BACKENDS,
    )
    content = {"rows": [asdict(result) for result in results], "failures": failures}
    write_text(folder / FIGURES, json.dumps(content, indent=1) + "\n")
    write_text(folder / PAGE, page)
    return folder / PAGE


def _machine(environment: dict[str, Any]) -> dict[str, str]:
    """Describe a machine in words."""
    words = {}
    for key, value in environment.items():
        if isinstance(value, dict):
            value = [f"{name} {each}" for name, each in value.items()]
        if value:
            words[key] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return words


def _row(result: ZooResult) -> dict[str, Any]:
    """Lay out the figures of a row as the template wants them."""
    published = result.row["published"]
    files = []
    for backend in BACKENDS:
        before, after = (result.measured(model, backend) for model in (FLOAT, COMPRESSED))
        files.append(
            {
                "backend": backend,
                "metrics": [result.metric(model, backend) for model in (FLOAT, COMPRESSED)],
                "sizes": [each and each["size_mb"] for each in (before, after)],
                "times": [each and each["mean_ms"] for each in (before, after)],
                "threads": [_by_threads(result, backend, count) for count in result.threads()],
                "operators": _operators(before, after),
            }
        )
    reached = [_best(result, model) for model in (FLOAT, COMPRESSED)]
    wanted = [published["float_metric"], published["compressed_metric"]]
    return {
        "result": result,
        "row": result.row,
        "published": published,
        "files": files,
        "reached": reached,
        "difference": [
            None if None in pair else pair[0] - pair[1] for pair in zip(reached, wanted)
        ],
        "predictions": _pictures(result.pictures),
        "curves": _pictures(
            {model: str(Path(folder, CURVES)) for model, folder in result.trainings.items()}
        ),
        # a pruning by sensitivity measures it before it cuts
        "sensitivity": _pictures(
            {model: str(Path(folder, SENSITIVITY)) for model, folder in result.trainings.items()}
        ),
        "strategies": [
            (dict(each).pop("kind", "?"), {k: v for k, v in each.items() if k != "kind"})
            for each in (result.changes.strategies if result.changes else ())
        ],
    }


def _pictures(files: dict[str, str]) -> list[tuple[str, str]]:
    """Return pictures that are there, as URLs that hold them, by model."""
    found = [(model, _embedded(Path(file))) for model, file in files.items()]
    return [(model, url) for model, url in found if url is not None]


def _by_threads(result: ZooResult, backend: str, threads: int) -> dict[str, Any]:
    """Return times of both models with so many threads, and both speed-ups."""
    rows = [result.measured(model, backend, threads) for model in (FLOAT, COMPRESSED)]
    ratio = rows[1] and rows[0] and rows[0]["mean_ms"] / rows[1]["mean_ms"]
    return {
        "count": threads,
        "times": [each and each["mean_ms"] for each in rows],
        "speedup": ratio and 1 - 1 / ratio,
        "ratio": ratio,
    }


def _operators(
    before: dict[str, Any] | None, after: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Return times of classes of operators, and their explanation; None if either is not known."""
    if not (before and after and before.get("operators") and after.get("operators")):
        return None
    times = [[OperatorTime(**each) for each in row["operators"]] for row in (before, after)]
    kinds = [by_kind(each) for each in times]
    names = sorted(
        kinds[0].keys() | kinds[1].keys(), key=lambda name: -max(k.get(name, 0.0) for k in kinds)
    )
    shares = {name: int8_share([t for t in times[1] if t.kind == name]) for name in names}
    return {
        "rows": [(name, [each.get(name) for each in kinds], shares[name]) for name in names],
        "reason": explain(*times),
    }


def _best(result: ZooResult, model: str) -> float | None:
    """Return a model's metric in the first runtime that ran it."""
    found = (result.metric(model, backend) for backend in BACKENDS)
    return next((value for value in found if value is not None), None)


def _embedded(file: Path) -> str | None:
    """Return a picture as a URL that holds it, or None if there is none."""
    if not file.is_file():
        return None
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def _charts(results: Sequence[ZooResult]) -> Iterable[tuple[str, str]]:
    """Draw, for each metric, accuracy against latency and against size; yield titles and SVG."""
    for metric in sorted({result.row["metric"] for result in results}):
        those = [result for result in results if result.row["metric"] == metric]
        yield f"{metric} against latency in OpenVINO", _chart(those, metric, "mean_ms", "ms")
        yield f"{metric} against size of the ONNX file", _chart(those, metric, "size_mb", "MB")


def _chart(results: Sequence[ZooResult], metric: str, key: str, unit: str) -> str:
    backend: Backend = "openvino"
    with matplotlib.rc_context(STEADY):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.add_subplot(xlabel=unit, ylabel=metric)
        for result in results:
            points = []
            for model, colour in COLOURS.items():
                measured, value = result.measured(model, backend), result.metric(model, backend)
                if measured is not None and value is not None:
                    points.append((measured[key], value))
                    axes.plot(*points[-1], "o", color=colour)
            if len(points) == 2:
                arrow = {"arrowstyle": "->", "color": GREY}
                axes.annotate("", points[1], points[0], arrowprops=arrow)
            if points:
                where = Annotation(
                    result.name, points[-1], xytext=(6, 6), textcoords="offset points"
                )
                where.set(color=GREY, fontsize=8)
                axes.add_artist(where)
        axes.set_xlim(left=0)
        axes.margins(y=0.15)
        for part in (axes.xaxis.label, axes.yaxis.label):
            part.set_color(GREY)
        axes.tick_params(colors=GREY, which="both")
        axes.spines[:].set_color(GREY)
        for side in (figure.patch, axes.patch):
            side.set_alpha(0)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]
