"""Int8 files of a model that PaddleSlim has quantized, compared with what PaddleSlim computes.

PaddleSlim finds the weights and the ends of the grids; the files are written from them as for any
quantized model, so that runtimes compute in int8. PaddleSlim's own files keep float weights.

Each file is compared with PaddleSlim's model on the grids of that file, see
`core.act.quantized`, within the limits of `core.export.int8.comparison`.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.act.quantized import QuantizedProgram
from core.act.session import InputArrays
from core.errors import ExportError, RejectedError
from core.export import parity
from core.export.files import drop_sources, size_mb_of_files, with_sources, write_files
from core.export.int8.comparison import (
    ArrayBatches,
    MoreBatches,
    OutputKinds,
    WholeAnswers,
    compare_as_written,
    compare_enough,
)
from core.export.int8.int8_files import write_int8
from core.export.package import Exported, open_predictors
from core.export.traced_model import ports_of
from core.graph.cost import count_macs_of_graph, count_stored, size_bytes
from core.runtimes.description import (
    DeployDescription,
    Quantization,
    Report,
    TaskSettings,
    write_description,
)
from core.runtimes.formats import format_of, readable_backends
from core.runtimes.predictor import Predictor, load_predictor
from core.settings.config import suggest, to_mapping
from core.settings.files import scratch
from core.targets.instructions import why_not_as_written
from core.targets.names import BACKENDS, FORMATS, Format
from core.targets.presets import PRESETS, Preset
from core.task import Arrays, Task
from core.workflows.comparison_table import (
    ComparisonRow,
    MeasuredMetric,
    MeasureMetric,
    check_metrics,
    runtime_rows,
)
from core.workflows.int8_speed import measure_latency, warn_where_slower

_log = logging.getLogger(__name__)
SLOWER = "deploy it in float, or quantize its checkpoint (--weights) with --speed_control"


@dataclass(frozen=True)
class FileLayout:
    """Files to write.

    Attributes:
        formats: Formats to write.
        target: Runtime that the ONNX file is laid out for, of `core.targets.presets.PRESETS`.
        task: Goes into `deploy.yml`; None: what the float model's says.
    """

    formats: Sequence[Format]
    target: str
    task: TaskSettings | None = None

    def __post_init__(self) -> None:
        if self.target not in PRESETS:
            raise ExportError(
                f"target: no preset {self.target!r}{suggest(self.target, list(PRESETS))}"
            )


def describe_task(task: Task) -> TaskSettings:
    """Return the name and the settings that build a task again."""
    return TaskSettings(task.name, to_mapping(task.config))


def write(
    model: QuantizedProgram,
    folder: Path,
    layout: FileLayout,
    samples: Sequence[InputArrays],
    more: MoreBatches = lambda count: [],
) -> Exported:
    """Write int8 files and `deploy.yml`, and compare each with PaddleSlim's model.

    Args:
        model: The quantized model.
        folder: Existing, empty folder.
        layout: Files to write.
        samples: Batches to compare on, arrays [N, ...] for each input.
        more: Returns more images, for where these do not tell.

    Raises:
        ExportError: A file answers otherwise than PaddleSlim's model; names runtime and output.
    """
    wanted = [name for name in FORMATS if name in layout.formats]
    _log.info("export: writing files (%s)", ", ".join(wanted))
    with scratch() as place:
        float_folder = Path(place)
        needed = with_sources(wanted)
        write_files(model.graph, float_folder, needed)
        float_bytes = size_bytes(sorted(float_folder.iterdir()))
        tables = {kind: model.table_for(kind) for kind in needed}
        preset = PRESETS[layout.target]
        write_int8(model.graph, tables, float_folder, folder, preset, model.processors)
        cost = replace(_report(model, samples[0]), size_mb=size_mb_of_files(folder, wanted[0]))
        description = write_description(_describe(model, layout, cost), folder)
        for kind in wanted:
            for weight, reason in model.float_in(kind).items():
                layer = weight.rpartition(".")[0] or weight
                _log.info("%s: %s stays in float: %s", kind, layer, reason)
        _log.info("export: comparing the files with PaddleSlim's model")
        differences = []
        for predictor in open_predictors(folder, wanted):
            comparison = _Comparison(model, predictor, preset, _open_float(float_folder))
            differences += comparison.check(samples, more)
    drop_sources(folder, wanted)
    description = write_description(description, folder)  # again: of the files there now
    sizes = size_bytes(sorted(folder.iterdir()))
    float_bytes = {name: count for name, count in float_bytes.items() if name in sizes}
    return Exported(folder, description, sizes, differences, float_bytes)


def measure_files(
    model: QuantizedProgram,
    made: Exported,
    seconds: float,
    measure: MeasureMetric,
    metric: MeasuredMetric,
    sample: InputArrays,
) -> list[ComparisonRow]:
    """Return a line of the table for each runtime.

    Each file must reach what PaddleSlim's model reaches on the grids of its format, in the runtime
    that it is meant for.

    Args:
        model: Model that the files were made of.
        made: The files.
        seconds: Time that writing took.
        measure: Returns the metric of a model; None where nothing is measured.
        metric: Metric that `measure` returns.
        sample: Inputs [N, ...], the first of which is timed.

    Raises:
        RejectedError: A metric is worse.
    """
    quantization = made.description.quantization
    assert quantization is not None  # `write` says so
    one = [array[:1] for array in sample]
    latencies = measure_latency(model.graph, made.folder, made, one)
    warn_where_slower(latencies, quantization.target, SLOWER)
    preset = PRESETS[quantization.target]
    rows = runtime_rows(made.folder, made, seconds, measure, latencies)
    targets: dict[Format, str] = {"paddle": "paddle", "onnx": quantization.target}
    for kind, target in targets.items():
        backends = [backend for backend in BACKENDS if format_of(backend) == kind]
        files = [row for row in rows if row.model.endswith(tuple(backends))]
        if files:
            same = measure(model.session.on_grids(model.grids_for(kind, preset)))
            check_metrics(same, files, metric, target, model.processors)
    return rows


def _open_float(folder: Path) -> Predictor:
    """Open float files in the first runtime that reads them."""
    return load_predictor(folder, readable_backends(folder)[0], own=True)


class _Comparison:
    """Comparison of a file with PaddleSlim's model on the grids of that file."""

    def __init__(
        self, model: QuantizedProgram, predictor: Predictor, preset: Preset, exact: Predictor
    ) -> None:
        self._predictor, self._exact = predictor, exact
        self._kinds = OutputKinds.of(model.graph)
        backend = predictor.backend
        self._why = why_not_as_written(backend, model.processors)
        grids = model.grids_for(format_of(backend), preset, bool(self._why))
        self._run = model.session.on_grids(grids)

    def check(self, samples: ArrayBatches, more: MoreBatches) -> list[parity.Difference]:
        """Compare on as many images as it takes to tell.

        Raises:
            RejectedError: The file answers otherwise, which is no chance.
        """
        backend = self._predictor.backend
        if self._why:
            return compare_as_written(
                self._predictor, samples, more, self._model_answers, self._kinds, self._why
            )
        differences, _ = compare_enough(backend, self._answers, samples, more, self._kinds)
        for each in differences:
            if each.passes:
                continue
            said = (
                f"{backend}: output {each.output!r} of the int8 file is not that of PaddleSlim's "
                f"model: {each}"
            )
            if each.enough:
                raise RejectedError(said)
            _log.warning("%s; %d images do not tell, so let the metric decide", said, each.images)
        return differences

    def _answers(self, batches: ArrayBatches) -> WholeAnswers:
        wanted, exact = self._model_answers(batches)
        return WholeAnswers(
            wanted, [parity.run(self._predictor, batch) for batch in batches], exact
        )

    def _model_answers(self, batches: ArrayBatches) -> tuple[list[Arrays], list[Arrays]]:
        """Return the outputs of PaddleSlim's model on the grids of the file, and in float."""
        rounded = [self._run(*batch) for batch in batches]
        return rounded, [parity.run(self._exact, batch) for batch in batches]


def _report(model: QuantizedProgram, batch: InputArrays) -> Report:
    known = model.source.description
    if known is not None and known.report is not None:
        return known.report
    one = [array[:1] for array in batch]
    shapes = tuple(tuple(array.shape) for array in one)
    macs = count_macs_of_graph(
        model.graph, one, lambda names: model.session.run_float(*one, names=names)
    )
    return Report(0.0, count_stored(model.graph), macs, shapes)


def _describe(model: QuantizedProgram, layout: FileLayout, cost: Report) -> DeployDescription:
    graph, known = model.graph, model.source.description
    if known is None:
        known = DeployDescription(
            inputs=ports_of(graph, graph.inputs), outputs=ports_of(graph, graph.outputs)
        )
    return replace(
        known,
        trislim=importlib.metadata.version("trislim"),
        report=cost,
        task=layout.task or known.task,
        quantization=Quantization(len(model.table), layout.target, model.processors),
    )
