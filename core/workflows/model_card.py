"""The model card of an export: `README.md` with a header in YAML, as Hugging Face's Hub reads it.

It reports measurements and nothing else: unknown figures are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import yaml

from core.errors import ExportError
from core.export.files import CARD, CARD_MARK, FILES, is_card
from core.runtimes.description import DeployDescription, Port, read_description
from core.settings.files import write_text
from core.targets.instructions import processor
from core.targets.names import BACKENDS, FORMATS, Backend
from core.task import Task
from core.workflows.comparison_table import ComparisonRow, Validation
from core.workflows.licences import licence_fields

_TAGS = {"paddle": "paddlepaddle", "onnx": "onnx", "lite": "paddle-lite"}
_MOST_CLASSES = 20  # classes named in a card
_INT8 = "int8, "  # in front of a runtime in the rows of a comparison


@runtime_checkable
class PublishedTask(Protocol):
    """A `Task` whose exports can be published.

    Attributes:
        hub_task: Name of the task on Hugging Face's Hub, such as `image-classification`.
    """

    hub_task: str


@dataclass(frozen=True)
class RuntimeFigures:
    """Figures of an export in a runtime; None or empty where nothing was measured.

    Attributes:
        backend: Runtime.
        metrics: Metrics of the files by name.
        float_metrics: Metrics of the float model that the files were made of.
        size_mb: Size of the files that the runtime reads; 1 MB is 10**6 bytes.
        latency_ms: Time of one image on one thread.
        float_latency_ms: Latency of the float files.
    """

    backend: Backend
    metrics: Mapping[str, float] = field(default_factory=dict)
    float_metrics: Mapping[str, float] = field(default_factory=dict)
    size_mb: float | None = None
    latency_ms: float | None = None
    float_latency_ms: float | None = None


def figures_of(rows: Sequence[ComparisonRow], metric: str) -> list[RuntimeFigures]:
    """Return the figures of int8 files in a comparison, whose first row is the float model.

    Args:
        rows: Rows of the models and files.
        metric: Name of the metric.
    """
    known = {f"{_INT8}{backend}": backend for backend in BACKENDS}
    return [
        RuntimeFigures(
            known[row.model],
            _named(metric, row.metric),
            _named(metric, rows[0].metric),
            sum(after for _, _, after in row.sizes) / 1e6,
            row.latency.int8_ms if row.latency else None,
            row.latency.float_ms if row.latency else None,
        )
        for row in rows
        if row.model in known
    ]


def write_measured_card(
    folder: Path, validation: Validation, rows: Sequence[ComparisonRow], licence: str
) -> Path:
    """Write the card of int8 files that were compared with their float model; return the file.

    Args:
        folder: Folder of the export.
        validation: Data that the metrics were measured on.
        rows: See `figures_of`.
        licence: Licence of the weights.

    Raises:
        ExportError: See `write_card`.
        FileError: It cannot be written.
    """
    images = len(validation.loader.dataset) if validation.loader else None
    figures = figures_of(rows, validation.metric)
    return write_card(folder, validation.task, figures, licence, images)


def write_card(
    folder: Path,
    task: Task,
    figures: Sequence[RuntimeFigures] = (),
    licence: str | None = None,
    images: int | None = None,
    checks: Mapping[str, str] | None = None,
    machine: tuple[str, Sequence[str]] | None = None,
) -> Path:
    """Write the model card of an export; return the file.

    Args:
        folder: Folder of the export, with its `deploy.yml`.
        task: Task of the model.
        figures: Figures in each runtime.
        licence: Licence of the weights, as Hugging Face names it.
        images: Number of images that the metrics were measured on.
        checks: How far the answers of each runtime are from those of the original.
        machine: Processor of the times, and its instructions; None: those of this machine.

    Raises:
        ExportError: The folder is no export, or `README.md` in it is no card.
        FileError: It cannot be written.
    """
    description = read_description(folder)
    if description is None:
        raise ExportError(f"{folder}: has no deploy.yml, so there is nothing to write a card of")
    file = folder / CARD
    if file.exists() and not is_card(file):
        raise ExportError(f"{file}: is no model card of TriSlim; it is left as it is")
    header = yaml.safe_dump(
        _header(folder, description, task, figures, licence), sort_keys=False, allow_unicode=True
    )
    parts = (
        f"---\n{header}---",
        _about(description, task),
        _measured(figures, images, machine or processor()),
        _checked(checks or {}),
        _running(description, folder),
        f"## Licence\n\n{licence}" if licence else "",
    )
    write_text(file, "\n\n".join(part for part in parts if part) + "\n")
    return file


def _named(metric: str, value: float | None) -> dict[str, float]:
    return {} if value is None else {metric: value}


def _header(
    folder: Path,
    description: DeployDescription,
    task: Task,
    figures: Sequence[RuntimeFigures],
    licence: str | None,
) -> dict[str, Any]:
    formats = [_TAGS[kind] for kind in FORMATS if (folder / FILES[kind][0]).is_file()]
    tags = [*formats, *(["int8"] if description.quantization else [])]
    header: dict[str, Any] = {**licence_fields(licence)} if licence else {}
    mark, _, value = CARD_MARK.partition(": ")
    header |= {mark: value, "tags": tags}
    if not isinstance(task, PublishedTask):
        return header
    header["pipeline_tag"] = task.hub_task
    measured = [
        {"type": name, "name": f"{name}, {each.backend}", "value": round(value, 4)}
        for each in figures
        for name, value in each.metrics.items()
        if math.isfinite(value)  # the header is read as JSON
    ]
    data = _data_of(task)
    if measured and data:
        result = {
            "task": {"type": task.hub_task},
            "dataset": {"type": data, "name": data},
            "metrics": measured,
        }
        header["model-index"] = [{"name": _network_of(task), "results": [result]}]
    return header


def _data_of(task: Task) -> str:
    """Return the name of the data set: that of its folder, for the rest of the path is private."""
    return Path(getattr(getattr(task.config, "data", None), "root", "")).name


def _network_of(task: Task) -> str:
    return str(getattr(getattr(task.config, "model", None), "name", task.name))


def _classes_of(task: Task) -> Sequence[str]:
    data = getattr(task.config, "data", None)
    named: Sequence[str] = getattr(data, "class_names", ()) or getattr(data, "classes", ())
    return named


def _about(description: DeployDescription, task: Task) -> str:
    kind = task.hub_task.replace("-", " ") if isinstance(task, PublishedTask) else task.name
    lines = [f"# {_plain(_network_of(task))}", "", f"- Task: {_plain(kind)}"]
    if _data_of(task):
        lines.append(f"- Data: {_plain(_data_of(task))}")
    classes = _classes_of(task)
    if classes:
        named = ", ".join(map(_plain, classes[:_MOST_CLASSES]))
        more = ", ..." if len(classes) > _MOST_CLASSES else ""
        lines.append(f"- Classes ({len(classes)}): {named}{more}")
    report, rounded = description.report, description.quantization
    if report is not None:
        shape = "x".join(map(str, report.input_shapes[0]))
        lines.append(f"- Parameters: {report.parameters / 1e6:.3f} M")
        lines.append(f"- MACs: {report.macs / 1e6:.1f} M at {shape}")
    if rounded is not None:
        where = "any processor" if rounded.processors == "any" else "processors with VNNI"
        lines.append(f"- int8: {rounded.layers} layers, for {rounded.target}, right on {where}")
    if description.trislim:
        lines.append(f"- Made with TriSlim {description.trislim}")
    return "\n".join(lines)


def _measured(
    figures: Sequence[RuntimeFigures], images: int | None, machine: tuple[str, Sequence[str]]
) -> str:
    """Return a table that has the rows and columns of which something is known."""
    figures = [each for each in figures if each.metrics or each.size_mb or each.latency_ms]
    if not figures:
        return ""
    names = list(dict.fromkeys(name for each in figures for name in each.metrics))
    columns: list[tuple[str, list[str]]] = [("runtime", [each.backend for each in figures])]
    for name in names:
        before = [each.float_metrics.get(name) for each in figures]
        columns.append((f"{name} in float", _cells(before, 4)))
        columns.append((name, _cells([each.metrics.get(name) for each in figures], 4)))
    columns.append(("MB", _cells([each.size_mb for each in figures], 2)))
    columns.append(("ms in float", _cells([each.float_latency_ms for each in figures], 2)))
    columns.append(("ms", _cells([each.latency_ms for each in figures], 2)))
    known = [(title, cells) for title, cells in columns if any(cells)]
    table = [
        _row(title for title, _ in known),
        _row("---" for _ in known),
        *(_row(cells[number] for _, cells in known) for number in range(len(figures))),
    ]
    said = []
    if names and images is not None:
        said.append(f"Metrics of the exported files on {images} images.")
    if any(each.latency_ms is not None for each in figures):
        name, instructions = machine
        where = f"{name} ({', '.join(instructions)})" if instructions else name
        said.append(f"Times of one image on one thread of {_plain(where)}.")
    return "\n".join(["## Figures", "", *table, *(["", " ".join(said)] if said else [])])


def _cells(values: Iterable[float | None], digits: int) -> list[str]:
    return ["" if value is None else f"{value:.{digits}f}" for value in values]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _checked(checks: Mapping[str, str]) -> str:
    """Say how far the files are from the original, which the export has compared."""
    lines = [f"- {backend}: {_plain(said)}" for backend, said in checks.items()]
    return "\n".join(["## Compared with the original", "", *lines]) if lines else ""


def _running(description: DeployDescription, folder: Path) -> str:
    said = [
        "## How to run",
        "",
        "```bash",
        "trislim predict --model_dir . --image_path PICTURES --save_dir predicted",
        "```",
        "",
        "In other programs:",
        "",
    ]
    files = [name for kind in FORMATS for name in FILES[kind] if (folder / name).is_file()]
    said.append(f"- files: {', '.join(files)}")
    said += [f"- input {_port(port)}" for port in description.inputs]
    how = description.preprocess
    if how is not None:
        words = [f"{how.channels}, {how.layout}, values from 0 to 1"]
        if how.mean is not None and how.std is not None:
            words.append(f"less the mean {list(how.mean)}, by the deviation {list(how.std)}")
        said.append(f"- pictures: {'; '.join(words)}")
    said += [f"- output {_port(port)}" for port in description.outputs]
    said.append("- all of this for programs: deploy.yml")
    return "\n".join(said)


def _port(port: Port) -> str:
    shape = ", ".join("any" if size == -1 else str(size) for size in port.shape)
    return f"`{_plain(port.name)}`: {port.dtype} [{shape}]"


def _plain(text: object) -> str:
    """Return text in one line that means nothing in Markdown: names may come from files."""
    line = "".join(each if each.isprintable() else " " for each in str(text))
    for sign in "\\`*_[]<>|#":
        line = line.replace(sign, f"\\{sign}")
    return line
