"""A float model, its quantized self and its files, side by side: metric, size, speed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle.nn import Layer
from rich.table import Table

from core.errors import ConfigError, RejectedError, UserError
from core.export.files import format_of_file
from core.export.package import Exported
from core.runtimes.formats import is_installed, read_format
from core.runtimes.predictor import Predictor, load_predictor
from core.settings.acceptance import FileFigures
from core.settings.metric_order import lost
from core.targets.instructions import why_not_as_written
from core.targets.names import BACKENDS, Backend, Format, Processors
from core.targets.presets import FULL_INT8
from core.task import Forward, Task
from core.training.evaluation import evaluate, evaluate_model, validation_loader
from core.training.loader import Loader
from core.workflows.int8_speed import Int8Latency

MeasureMetric = Callable[[Layer | Predictor | Forward], float | None]
# how far the metric of a file may be from that of the eager model: the larger of both
TOLERANCE = 0.01
IMAGES = 2  # images whose share of the metric is tolerated
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasuredMetric:
    """Metric that models are measured by.

    Attributes:
        name: Name of the metric.
        higher_is_better: Whether larger values are better.
        images: Number of images it is measured on, which sets how closely files must reach it.
    """

    name: str = "metric"
    higher_is_better: bool = True
    images: int = 1


@dataclass(frozen=True)
class ComparisonRow:
    """A line of the table: a model, its metric, how long making it took, and its files.

    Attributes:
        model: Name of the model or file.
        metric: None if it was not measured.
        seconds: None if it was there before.
        sizes: Name, bytes in float and bytes in int8 of each file.
        latency: Latency of one image in float and in int8; None if it was not measured.
    """

    model: str
    metric: float | None
    seconds: float | None = None
    sizes: Sequence[tuple[str, int, int]] = ()
    latency: Int8Latency | None = None


def to_table(rows: Sequence[ComparisonRow], metric: str) -> Table:
    """Lay models side by side; the first is the one that metrics are compared with.

    Args:
        rows: Rows of the table.
        metric: Name of the metric.
    """
    table = Table()
    sizes = ("file", "float KB", "int8 KB", "share")
    for column in ("model", metric, "change", "made in s", *sizes, "float → int8 ms"):
        table.add_column(column, justify="left" if column in ("model", "file") else "right")
    first = rows[0].metric
    for row in rows:
        change = None if row.metric is None or first is None else row.metric - first
        table.add_row(
            row.model,
            "-" if row.metric is None else f"{row.metric:.4f}",
            "" if change is None or row is rows[0] else f"{change:+.4f}",
            "" if row.seconds is None else f"{row.seconds:.1f}",
            "\n".join(name for name, _, _ in row.sizes),
            "\n".join(f"{before / 1000:,.1f}" for _, before, _ in row.sizes),
            "\n".join(f"{after / 1000:,.1f}" for _, _, after in row.sizes),
            "\n".join(f"{after / before:.0%}" for _, before, after in row.sizes),
            _times(row.latency),
        )
    return table


def figures_of(rows: Sequence[ComparisonRow], higher_is_better: bool) -> list[FileFigures]:
    """Return the figures of the files among the rows, whose first is the float model."""
    return [
        FileFigures(
            row.model,
            size_mb=sum(after for _, _, after in row.sizes) / 1e6,
            latency_ms=row.latency.int8_ms if row.latency else None,
            metric=row.metric,
            float_metric=rows[0].metric,
            higher_is_better=higher_is_better,
        )
        for row in rows
        if row.sizes
    ]


def _times(latency: Int8Latency | None) -> str:
    return "" if latency is None else f"{latency.float_ms:.2f} → {latency.int8_ms:.2f}"


@dataclass(frozen=True)
class Validation:
    """The validation data of a task, on which models are measured by the task's main metric.

    Attributes:
        task: Task that defines the metric.
        loader: Loader of the data; None: nothing is measured.
        share: Share of the validation data that the loader reads.
    """

    task: Task
    loader: Loader | None = None
    share: float = 1.0

    @property
    def metric(self) -> str:
        """Return the name of the metric."""
        return self.measured.name

    @property
    def higher_is_better(self) -> bool:
        """Tell whether larger values of the metric are better."""
        return self.measured.higher_is_better

    @property
    def measured(self) -> MeasuredMetric:
        """Return the metric with the number of images it is measured on.

        Where nothing is measured there may be no data, which some metrics cannot be built without.
        """
        if self.loader is None:
            return MeasuredMetric()
        metric = self.task.build_metric()
        return MeasuredMetric(metric.primary, metric.higher_is_better, len(self.loader.dataset))

    @property
    def measures(self) -> MeasureMetric | None:
        """Return `measure`, or None if nothing is measured."""
        return self.measure if self.loader else None

    def measure(self, model: Layer | Predictor | Forward) -> float | None:
        """Return the metric of an eager or exported model, or of a function; None without data."""
        if self.loader is None:
            return None
        if isinstance(model, Layer):
            found = evaluate_model(self.task, model, self.loader, progress=True)
        elif isinstance(model, Predictor):
            what = f"evaluate in {model.backend}"
            found = evaluate(self.task, model.run, self.loader, progress=True, what=what)
        else:
            found = evaluate(self.task, model, self.loader, progress=True)
        return found.compute()[self.metric]


def open_validation(task: Task, batch_size: int = 1, share: float = 1.0) -> Validation:
    """Open a share of the validation data; if it cannot be read, warn and measure nothing.

    Nothing is drawn or downloaded only to be measured on.
    """
    root = Path(getattr(task.config.data, "root", "."))
    try:
        if not root.exists():
            raise ConfigError(f"data.root: {root} does not exist")
        return Validation(task, validation_loader(task, batch_size).share(share), share)
    except UserError as error:
        _log.warning("nothing is measured: %s", error)
        return Validation(task)


def runtime_rows(
    folder: Path,
    made: Exported,
    seconds: float,
    measure: MeasureMetric | None,
    latencies: Mapping[Backend, Int8Latency],
) -> list[ComparisonRow]:
    """Return a row for each runtime that can read the files of an export, and for Paddle Lite.

    Args:
        folder: Folder with the files.
        made: The export.
        seconds: Time that the export took.
        measure: See `Validation.measure`; None: no file is opened.
        latencies: Result of `core.workflows.int8_speed.measure_latency`.
    """
    sizes: dict[Format, list[tuple[str, int, int]]] = {}
    for name, before in made.float_bytes.items():
        sizes.setdefault(format_of_file(name), []).append((name, before, made.file_bytes[name]))
    rows = []
    for backend in filter(is_installed, BACKENDS):
        kind = read_format(backend, sizes)
        if kind is not None:
            metric = measure(load_predictor(folder, backend)) if measure else None
            rows.append(
                ComparisonRow(
                    f"int8, {backend}", metric, seconds, sizes[kind], latencies.get(backend)
                )
            )
    if "lite" in sizes:  # it is for other processors than this one
        rows.append(ComparisonRow("int8, lite", None, seconds, sizes["lite"]))
    return rows


_FOR_PADDLE = " (it is laid out for {}; choose --target paddle, or --format without paddle)"


def check_metrics(
    quantized: float | None,
    files: Sequence[ComparisonRow],
    metric: MeasuredMetric,
    target: str,
    processors: Processors = "any",
) -> None:
    """Refuse files whose metric is worse than the quantized model's where they are meant to run.

    A better one is logged. Other runtimes that read the file may round less, and are warned about
    only; so are files that are meant for other processors than this one.

    Args:
        quantized: Metric of the quantized model.
        files: Rows of `runtime_rows`.
        metric: Metric that was measured.
        target: Runtime that the ONNX file is laid out for; ONNX Runtime stands for one that is not
            here.
        processors: Processors on which the files must be right.

    Raises:
        RejectedError: A file is worse by more than a point and by more than two images.
    """
    limit = max(TOLERANCE, IMAGES / metric.images)
    binding = [target if target in BACKENDS else "onnxruntime"]
    if target not in FULL_INT8:  # otherwise Paddle's file rounds less than the model does
        binding.append("paddle")
    reasons = {each: why_not_as_written(each, processors) for each in BACKENDS}
    for row in files:
        if row.metric is None or quantized is None:
            continue
        loss = lost(quantized, row.metric, metric.higher_is_better)
        found = (
            f"{metric.name} of the file is {row.metric:.4f}, of the quantized model {quantized:.4f}"
        )
        said = f"{row.model}: {found}; at most {limit:.4f} worse wanted"
        if loss <= limit:  # not-a-number is not
            if loss < -limit:
                _log.info("%s: %s; better is not refused", row.model, found)
        elif why := next((why for each, why in reasons.items() if row.model.endswith(each)), ""):
            _log.warning("%s, but %s", said, why)
        elif row.model.endswith(tuple(binding)):
            other = row.model.endswith("paddle") and target != "paddle"
            raise RejectedError(said + (_FOR_PADDLE.format(target) if other else ""))
        else:
            _log.warning("%s, but the file is laid out for %s", said, target)
