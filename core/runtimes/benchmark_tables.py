"""Tables of a benchmark for people: models, numbers of threads, classes of operators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.table import Table

from core.runtimes.benchmark import BenchmarkRow
from core.runtimes.operator_times import by_kind, explain, int8_share


def to_table(rows: Sequence[BenchmarkRow]) -> Table:
    """Lay the rows of one number of threads out."""
    table = Table()
    table.add_column("model", overflow="fold")
    table.add_column("backend")
    columns = "mean ms|median ms|p95 ms|speed-up|a / b|size MB|parameters M|MACs M|peak memory MB"
    for title in columns.split("|"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row.model,
            row.backend,
            *(f"{value:.2f}" for value in (row.mean_ms, row.median_ms, row.p95_ms)),
            "-" if row.speedup is None else f"{row.speedup:.2%}",
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            f"{row.size_mb:.2f}",
            "-" if row.parameters is None else f"{row.parameters / 1e6:.3f}",
            "-" if row.macs is None else f"{row.macs / 1e6:.1f}",
            "-" if row.peak_memory_mb is None else f"{row.peak_memory_mb:.1f}",
        )
    return table


def threads_table(rows: Sequence[BenchmarkRow]) -> Table:
    """Lay mean times out by numbers of threads, with speed-ups over the first model there.

    Args:
        rows: Rows of several numbers of threads.
    """
    counts = list(dict.fromkeys(row.threads for row in rows))
    table = Table(title="by number of threads")
    table.add_column("model", overflow="fold")
    table.add_column("backend")
    for count in counts:
        name = f"{count} thread{'s' if count > 1 else ''}"
        for title in (f"{name}, ms", "speed-up", "a / b"):
            table.add_column(title, justify="right")
    for model, backend in dict.fromkeys((row.model, row.backend) for row in rows):
        alike = [row for row in rows if (row.model, row.backend) == (model, backend)]
        cells: list[str] = []
        for count in counts:
            # a model that is named twice has two rows
            row = next(row for row in alike if row.threads == count)
            cells += [
                f"{row.mean_ms:.2f}",
                "-" if row.speedup is None else f"{row.speedup:.2%}",
                "-" if row.ratio is None else f"{row.ratio:.2f}",
            ]
        table.add_row(model, backend, *cells)
    return table


def operator_tables(rows: Sequence[BenchmarkRow]) -> Iterator[Table]:
    """Yield a table for each runtime that tells the times of classes of operators.

    Args:
        rows: Rows of one number of threads.
    """
    for backend, alike in _by_backend(rows):
        table = Table(title=f"classes of operators in {backend}, ms of one run, and share in int8")
        table.add_column("class")
        for row in alike:
            table.add_column(row.model, justify="right", overflow="fold")
        times = [by_kind(row.operators or ()) for row in alike]
        kinds = dict.fromkeys(kind for each in times for kind in each)
        for kind in sorted(kinds, key=lambda kind: -max(each.get(kind, 0.0) for each in times)):
            table.add_row(kind, *(_cell(row, kind) for row in alike))
        yield table


def reasons(rows: Sequence[BenchmarkRow]) -> Iterator[str]:
    """Yield a line for each model after the first: which operators make it slower or faster."""
    for backend, (first, *others) in _by_backend(rows):
        for row in others:
            if row.ratio is not None:
                why = explain(first.operators or (), row.operators or ())
                yield f"{row.model} in {backend}, a / b {row.ratio:.2f}: {why}"


def _by_backend(rows: Sequence[BenchmarkRow]) -> Iterable[tuple[str, list[BenchmarkRow]]]:
    found: dict[str, list[BenchmarkRow]] = {}
    for row in rows:
        if row.operators is not None:
            found.setdefault(row.backend, []).append(row)
    return found.items()


def _cell(row: BenchmarkRow, kind: str) -> str:
    alike = [each for each in row.operators or () if each.kind == kind]
    if not alike:
        return "-"
    count, share = sum(each.count for each in alike), int8_share(alike)
    said = f"{sum(each.ms for each in alike):.2f} ({count})"
    return f"{said} {share:.0%}" if share else said
