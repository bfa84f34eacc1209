"""Long measurements of a model: the metric, and a file that keeps the results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from paddle.nn import Layer
from rich.table import Table

from core.errors import ConfigError, DataError
from core.settings.config import read, suggest, to_mapping
from core.settings.console import PlainConsole
from core.settings.files import write_text
from core.settings.metric_order import lost
from core.task import Task

FORMAT = 1
WIDTH = 120  # characters of tables in logs
_OF_NO_MATTER = ("num_workers", "on_error", "download")  # settings of data that change no metric
T = TypeVar("T")


@dataclass(frozen=True)
class Meter:
    """Metric by which models are measured.

    Attributes:
        metric: Name of the metric.
        higher_is_better: Whether larger values are better.
        value: Returns the metric of a model.
        conditions: All that it depends on beside the weights, for the fingerprint.
    """

    metric: str
    higher_is_better: bool
    value: Callable[[Layer], float]
    conditions: str

    def lost(self, before: float, after: float) -> float:
        """Return by how much the metric became worse; below 0 it became better."""
        return lost(before, after, self.higher_is_better)


def task_meter(
    task: Task,
    evaluate: Callable[[Layer, float], dict[str, float]],
    share: float,
    name: str | None = None,
) -> Meter:
    """Measure the task's metric on a share of its validation data.

    Args:
        task: Tells metric and data.
        evaluate: Returns all metrics of a model on a share of the data.
        share: Share of the data.
        name: Name of the metric; None: the one that decides what is best.
    """
    metric, settings = task.build_metric(), to_mapping(task.config)
    data = {key: value for key, value in settings["data"].items() if key not in _OF_NO_MATTER}
    told = {"data": data, "evaluation": settings.get("evaluation"), "share": share}
    chosen = name or metric.primary
    return Meter(
        chosen,
        metric.higher_is_better,
        lambda model: metric_of(evaluate(model, share), chosen, "metric_name"),
        json.dumps(told, sort_keys=True),
    )


def metric_of(found: Mapping[str, float], name: str, key: str) -> float:
    """Return one of a model's metrics.

    Raises:
        ConfigError: The task has no such metric; the message begins with `key`.
    """
    if name not in found:
        raise ConfigError(f"{key}: the task has no metric {name!r}{suggest(name, list(found))}")
    return found[name]


def fingerprint(model: Layer, meter: Meter, *parts: bytes) -> str:
    """Digest everything that measurements depend on: weights, metric, data, and other parts."""
    digest = hashlib.sha256(f"{meter.metric} {meter.conditions}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + np.ascontiguousarray(tensor.numpy()).tobytes())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _MeasurementsFile:
    format: int
    measurements: tuple[dict[str, Any], ...]


def load(kind: type[T], file: Path) -> list[T]:
    """Read measurements of a kind, a dataclass; none if there is no such file.

    Raises:
        DataError: It is not what `save` wrote.
    """
    if not file.exists():
        return []
    try:
        content = read(_MeasurementsFile, json.loads(file.read_text("utf-8")), measured=True)
        found = [read(kind, entry, "measurements", True) for entry in content.measurements]
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, ConfigError) as error:
        raise DataError(
            f"{file}: not a file of sensitivities ({error}); name another file, or remove it to "
            "measure anew"
        ) from error
    if content.format != FORMAT:
        raise DataError(f"{file}: format {content.format}, expected {FORMAT}")
    return found


def save(file: Path, measurements: Sequence[Any]) -> None:
    """Write measurements as JSON; the file is there whole or not at all.

    Raises:
        FileError: It cannot be written.
    """
    content = _MeasurementsFile(FORMAT, tuple(asdict(each) for each in measurements))
    write_text(file, json.dumps(asdict(content), indent=1))


class Fingerprinted(Protocol):
    """A measurement with the conditions it was made under."""

    @property
    def fingerprint(self) -> str:
        """Return the digest of the weights, the metric and the data."""
        ...


F = TypeVar("F", bound=Fingerprinted)


class MeasurementStore(Generic[F]):
    """One measurement among those of a file, which an interrupted run takes up again.

    Args:
        kind: Dataclass of the measurements.
        file: JSON that holds them; None: nothing is kept.
        fingerprint: Says which measurement is meant.

    Attributes:
        found: The measurement as the file has it; None if it has none.

    Raises:
        DataError: The file is broken.
    """

    def __init__(self, kind: type[F], file: Path | None, fingerprint: str) -> None:
        stored = [] if file is None else load(kind, file)
        self._file = file
        self._others = [each for each in stored if each.fingerprint != fingerprint]
        self.found = next((each for each in stored if each.fingerprint == fingerprint), None)

    def save(self, measurement: F) -> None:
        """Write the measurement to the file, beside the others that are there.

        Raises:
            FileError: It cannot be written.
        """
        if self._file is not None:
            save(self._file, [*self._others, measurement])


def render(table: Table) -> str:
    """Return a table as plain text, for logs."""
    console = PlainConsole(width=WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
