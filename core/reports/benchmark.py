"""The report of a benchmark: models side by side, and why one is faster than the other."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from core.reports.figures import BLUE, ORANGE, ChartPath, paths_chart
from core.reports.measured import ComparedOperators, compare_operators
from core.reports.page import machine_in_words, write_page
from core.runtimes.benchmark import BenchmarkRow, Protocol
from core.runtimes.environment import environment
from core.runtimes.formats import find_files
from core.zoo.changes import Changes, LayerChange, read_layers


def write_benchmark_report(
    folder: Path, rows: Sequence[BenchmarkRow], protocol: Protocol, command: str
) -> Path:
    """Write `report.html` and `report.json`; return the page.

    Args:
        folder: Folder of the report.
        rows: Rows of all numbers of threads.
        protocol: Protocol of the first of these numbers.
        command: Command of the benchmark.

    Raises:
        FileError: A file cannot be written.
        ExportError: An ONNX file cannot be read.
    """
    about, date = environment(), datetime.date.today().isoformat()
    models = list(dict.fromkeys(row.model for row in rows))
    changes = {model: _changes(models[0], model, rows) for model in models[1:]}
    content = {
        "rows": [asdict(row) for row in rows],
        "changes": {model: asdict(each) for model, each in changes.items()},
        "protocol": asdict(protocol),
        "environment": about,
        "command": command,
        "date": date,
    }
    return write_page(
        folder,
        "benchmark.html.jinja",
        content,
        rows=rows,
        numbers={model: number for number, model in enumerate(models, 1)},
        protocol=protocol,
        charts=list(_charts(rows, protocol.threads)),
        operators=list(_operators(rows)),
        changes={model: each for model, each in changes.items() if each.layers},
        command=command,
        date=date,
        machine=machine_in_words(about),
    )


def _changes(first: str, model: str, rows: Sequence[BenchmarkRow]) -> Changes:
    """Compare two models with ONNX files; without those, by their parameters and MACs alone."""
    alike = [next(row for row in rows if row.model == name) for name in (first, model)]
    read = [{row.backend for row in rows if row.model == name} for name in (first, model)]
    layers: tuple[LayerChange, ...] = ()
    if all("onnxruntime" in each for each in read):
        files = [find_files(Path(name), "onnxruntime")[0] for name in (first, model)]
        layers = read_layers(*files)
    counts = [(row.parameters, row.macs) for row in alike]
    known = all(None not in each for each in counts)
    parameters, macs = zip(*counts) if known else ((None, None), (None, None))
    return Changes((), parameters, macs, layers)


def _charts(rows: Sequence[BenchmarkRow], threads: int) -> Iterator[tuple[str, str]]:
    """Draw size against latency in each runtime, the first model in blue."""
    models = list(dict.fromkeys(row.model for row in rows))
    for backend in dict.fromkeys(row.backend for row in rows):
        alike = [row for row in rows if (row.backend, row.threads) == (backend, threads)]
        paths = [
            ChartPath(
                str(1 + models.index(row.model)),
                ((row.mean_ms, row.size_mb, BLUE if row.model == models[0] else ORANGE),),
            )
            for row in alike
        ]
        yield f"size against latency in {backend}", paths_chart(paths, "ms", "MB")


def _operators(rows: Sequence[BenchmarkRow]) -> Iterator[tuple[str, ComparedOperators]]:
    """Yield the times of classes of operators beside those of the first model."""
    for row in rows:
        first = next(each for each in rows if each.backend == row.backend)
        if row is not first and row.operators and first.operators:
            yield f"{row.model} in {row.backend}", compare_operators(first.operators, row.operators)
