"""Int8 files of a model that PaddleSlim has quantized, compared with what PaddleSlim computes.

PaddleSlim finds the weights and the ends of the grids; the files are written from them as for any
quantized model, so that runtimes compute in int8. PaddleSlim's own files keep float weights.

All its grids have a sign, where files may have as many steps again from zero on. Each file is
compared with PaddleSlim's model on the grids of that file, within the limits of
`core.export.int8`.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from core.config import suggest, to_mapping
from core.deploy.description import (
    Description,
    Quantization,
    Report,
    TaskSettings,
    write_description,
)
from core.deploy.formats import FORMATS, Format, format_of, readable_backends
from core.deploy.predictor import Predictor, load_predictor
from core.errors import ExportError
from core.export import parity, report
from core.export.graph import Graph
from core.export.int8 import compare, write_int8
from core.export.int8_program import unsigned_inputs
from core.export.package import (
    LITE,
    MODEL,
    ONNX,
    PARAMS,
    Exported,
    open_predictors,
    ports_of,
    size_mb,
    write_files,
)
from core.export.qdq import PRESETS, Preset
from core.export.side_by_side import Measure, Row, check_metrics, runtime_rows
from core.exported.session import Batch, Session
from core.exported.source import Source
from core.quant.table import LayerScales, Table
from core.task import Arrays, Task


@dataclass(frozen=True)
class Quantized:
    """A quantized model.

    Attributes:
        source: The float model that it was made of.
        graph: In float, with the weights as they are now.
        table: Its grids.
        session: With PaddleSlim's model on these grids.
    """

    source: Source
    graph: Graph
    table: list[LayerScales]
    session: Session

    def unsigned(self, kind: Format, preset: Preset) -> set[str]:
        """Return the tensors that have grids from zero on in the files of a format."""
        signed = {entry.weight: entry.input.signed for entry in self.table}
        if kind == "paddle":
            signed = dict.fromkeys(signed, True) | dict.fromkeys(unsigned_inputs(self.graph), False)
        elif not preset.unsigned:
            return set()
        return {place.tensor for place in self.session.places if not signed[place.weight]}


@dataclass(frozen=True)
class Layout:
    """Which files.

    Attributes:
        formats: Which are written.
        target: Runtime that the ONNX file is laid out for, of `core.export.qdq.PRESETS`.
        task: Goes into `deploy.yml`; None: what the float model's says.
    """

    formats: Sequence[Format]
    target: str
    task: TaskSettings | None

    def __post_init__(self) -> None:
        if self.target not in PRESETS:
            raise ExportError(
                f"target: no preset {self.target!r}{suggest(self.target, list(PRESETS))}"
            )


def describe_task(task: Task) -> TaskSettings:
    """Return what builds a task again."""
    return TaskSettings(task.name, to_mapping(task.config))


def write(model: Quantized, folder: Path, layout: Layout, samples: Sequence[Batch]) -> Exported:
    """Write int8 files and `deploy.yml`, and compare each with PaddleSlim's model.

    Args:
        model: What to write.
        folder: There already, and empty.
        layout: Which files.
        samples: Batches to compare on.

    Raises:
        ExportError: A file answers otherwise than PaddleSlim's model; names runtime and output.
    """
    wanted = [name for name in FORMATS if name in layout.formats]
    with tempfile.TemporaryDirectory() as place:
        float_folder = Path(place)
        write_files(model.graph, float_folder, wanted)
        float_bytes = report.size_bytes(sorted(float_folder.iterdir()))
        exact = _answers(float_folder, samples)
        tables = dict.fromkeys(wanted, Table(model.table))
        preset = PRESETS[layout.target]
        write_int8(model.graph, tables, float_folder, folder, (MODEL, PARAMS, ONNX, LITE), preset)
    cost = replace(_report(model, samples[0]), size_mb=size_mb(folder))
    description = _describe(model, layout, cost)
    write_description(description, folder)
    differences = []
    for predictor in open_predictors(folder, wanted):
        finer = model.unsigned(format_of(predictor.backend), preset)
        rounded = [model.session.run(*batch, finer=finer) for batch in samples]
        differences += _compare(model.graph, predictor, samples, rounded, exact)
    sizes = report.size_bytes(sorted(folder.iterdir()))
    return Exported(folder, description, sizes, differences, float_bytes)


def measure_files(
    model: Quantized,
    made: Exported,
    seconds: float,
    measure: Measure,
    metric: str,
    images: int,
) -> list[Row]:
    """Return a line of the table for each runtime.

    Paddle Inference must reach what PaddleSlim's model reaches on the same grids. Other runtimes
    fall to other sides of a rounding more often; their answers are compared, see `write`.

    Args:
        model: That the files were made of.
        made: The files.
        seconds: That it took.
        measure: Returns the metric of a model; None where nothing is measured.
        metric: Its name.
        images: How many it is measured on.

    Raises:
        ExportError: The metric of Paddle Inference is another one.
    """
    quantization = made.description.quantization
    assert quantization is not None  # `write` says so
    rows = runtime_rows(made.folder, made, seconds, measure)
    of_paddle = [row for row in rows if row.model.endswith("paddle")]
    if of_paddle:
        finer = model.unsigned("paddle", PRESETS[quantization.target])
        same = measure(partial(model.session.run, finer=finer))
        check_metrics(same, of_paddle, metric, images, "paddle")
    return rows


def _answers(folder: Path, samples: Sequence[Batch]) -> list[Arrays]:
    """Return what float files answer, in the first runtime that reads them; nothing without one."""
    there = readable_backends(folder)
    if not there:
        return []
    predictor = load_predictor(folder, there[0])
    return [parity.run(predictor, batch) for batch in samples]


def _compare(
    graph: Graph,
    predictor: Predictor,
    samples: Sequence[Batch],
    rounded: Sequence[Arrays],
    exact: Sequence[Arrays],
) -> list[parity.Difference]:
    decided = parity.deciding_outputs(graph)
    found = [parity.run(predictor, batch) for batch in samples]
    differences = compare(predictor.backend, rounded, found, exact, decided)
    for each in differences:
        if not each.passes:
            raise ExportError(
                f"{predictor.backend}: output {each.output!r} of the int8 file is not that of "
                f"PaddleSlim's model: {each}"
            )
    return differences


def _report(model: Quantized, batch: Batch) -> Report:
    known = model.source.description
    if known is not None and known.report is not None:
        return known.report
    one = [array[:1] for array in batch]
    shapes = tuple(tuple(array.shape) for array in one)
    macs = report.count_macs_of_graph(
        model.graph, one, lambda names: model.session.run_float(*one, names=names)
    )
    return Report(0.0, report.count_stored(model.graph), macs, shapes)


def _describe(model: Quantized, layout: Layout, cost: Report) -> Description:
    graph, known = model.graph, model.source.description
    if known is None:
        known = Description(
            inputs=ports_of(graph, graph.inputs), outputs=ports_of(graph, graph.outputs)
        )
    return replace(
        known,
        trislim=importlib.metadata.version("trislim"),
        report=cost,
        task=layout.task or known.task,
        quantization=Quantization(len(model.table), layout.target),
    )
