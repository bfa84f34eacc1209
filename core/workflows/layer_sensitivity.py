"""Sensitivity to quantization: each layer rounded alone, by the outputs and by the metric.

A layer that is quantized alone shows its own share of the loss; the losses of all layers together
are not their sum, but the layers that hurt alone are the ones to leave in float. PaddleSlim
(`AnalysisPTQ`) and NNCF (accuracy control) rank layers likewise.
"""

from __future__ import annotations

import core.settings.plain_matplotlib  # isort: skip  # noqa: F401 - before its parts

import contextlib
import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
from matplotlib.figure import Figure
from paddle import Tensor
from paddle.nn import Layer
from rich.table import Table

from core.errors import DataError
from core.network.layers import match
from core.network.modes import evaluation_mode
from core.quant.apply import record_of
from core.quant.sites import float_sites, sites_of
from core.settings.files import write_bytes
from core.settings.plain_matplotlib import plain_settings
from core.settings.progress import counting, progress
from core.task import Task
from core.training.loader import Loader
from core.training.measurements import MeasurementStore, Meter, fingerprint, load, save

IMAGES = 8  # images to compare outputs on; layers differ by orders of magnitude, images do not
ModelInputs = Sequence[Sequence[Tensor]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantizationCost:
    """Cost of quantized layers, of one alone or of all together.

    Attributes:
        error: Distance of the outputs from those in float: root mean square over that of the
            outputs in float, of the output that moves most.
        lost: By how much the metric is worse; below 0 it became better.
    """

    error: float
    lost: float


@dataclass(frozen=True)
class QuantSensitivity:
    """Measurement of one state of a quantized model.

    Attributes:
        fingerprint: Digest of weights, grids and data.
        metric: Name of the metric.
        in_float: The metric with all layers in float.
        quantized: The metric with all of them quantized.
        together: Cost of all of them at once.
        layers: Cost of each alone, by path.
    """

    fingerprint: str
    metric: str
    in_float: float
    quantized: float
    together: QuantizationCost
    layers: dict[str, QuantizationCost] = field(default_factory=dict)

    def by_worst(self) -> list[tuple[str, QuantizationCost]]:
        """Return the layers, first those that cost most of the metric, then by their error."""
        return sorted(self.layers.items(), key=lambda item: (-item[1].lost, -item[1].error))

    def table(self) -> Table:
        """List the cost of each layer alone, the worst first."""
        title = f"{self.metric}: {self.in_float:.4f} in float, {self.quantized:.4f} quantized"
        table = Table(title=f"{title}\neach layer quantized alone")
        table.add_column("layer", overflow="fold")
        table.add_column(f"{self.metric} lost", justify="right")
        table.add_column("error of outputs", justify="right")
        for path, alone in self.by_worst():
            table.add_row(path, f"{alone.lost:+.4f}", f"{alone.error:.2e}")
        table.add_section()
        table.add_row("all together", f"{self.together.lost:+.4f}", f"{self.together.error:.2e}")
        return table


def few_inputs(task: Task, loader: Loader) -> list[list[Tensor]]:
    """Return the inputs of about `IMAGES` samples, [N, C, H, W] for images, kept in memory."""
    names = [spec.name for spec in task.input_spec()]
    return [[batch[name] for name in names] for batch in loader.some(IMAGES)]


def output_errors(
    task: Task, model: Layer, batches: ModelInputs, paths: Sequence[str]
) -> dict[str, float]:
    """Return how far each layer alone moves the outputs, and under "" what all do together.

    Args:
        task: Task of the model.
        model: The quantized model.
        batches: Its inputs, [N, C, H, W] for images.
        paths: Paths of quantized layers.

    Raises:
        DataError: No inputs.
    """
    if not batches:
        raise DataError("sensitivity: no images to compare outputs on")
    shares: dict[str, list[float]] = {path: [] for path in ("", *paths)}
    steps = counting("outputs of each layer", len(batches) * (1 + len(paths)))
    with steps as count, evaluation_mode(model), paddle.no_grad():
        for inputs in batches:
            with float_sites(model):
                exact = _outputs(task, model, inputs)
            for path, found in shares.items():
                with only(model, path) if path else contextlib.nullcontext():
                    found.append(_apart(_outputs(task, model, inputs), exact))
                count(1)
    return {path: float(np.sqrt(np.mean(np.square(found)))) for path, found in shares.items()}


def _outputs(task: Task, model: Layer, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    return [t.numpy() for t in task.name_outputs(model(*inputs)).values() if t.is_floating_point()]


def _apart(found: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> float:
    apart = [
        float(np.sqrt(np.square(f - e, dtype=np.float64).mean()))
        / max(float(np.sqrt(np.square(e, dtype=np.float64).mean())), 1e-30)
        for f, e in zip(found, exact, strict=True)
    ]
    return max(apart)


@contextlib.contextmanager
def only(model: Layer, path: str) -> Iterator[None]:
    """Let all quantized layers but one compute in float while the context is open."""
    with float_sites(model):
        sites_of(model)[path].bypassed = False
        yield


def measure(
    task: Task,
    model: Layer,
    batches: ModelInputs,
    meter: Meter,
    file: Path | None = None,
    globs: Sequence[str] = ("*",),
) -> QuantSensitivity:
    """Measure what each quantized layer costs alone.

    Args:
        task: Names the outputs.
        model: Quantized; as before afterwards.
        batches: Inputs to compare outputs on, [N, C, H, W] for images.
        meter: Measures the metric.
        file: JSON in which to find and to keep measurements, layer by layer, so that an
            interrupted measurement goes on where it was.
        globs: On paths of the layers to measure.

    Raises:
        ConfigError: A glob matches nothing.
        DataError: The file is broken, or there are no images.
        FileError: The file cannot be written.
    """
    paths = match(globs, list(sites_of(model)), "params")
    if file is not None:
        save(file, load(QuantSensitivity, file))  # an unusable file is reported now
    record = json.dumps(record_of(model), sort_keys=True).encode()
    pixels = [tensor.numpy().tobytes() for inputs in batches for tensor in inputs]
    key = fingerprint(model, meter, record, *pixels)
    store = MeasurementStore(QuantSensitivity, file, key)
    found = store.found
    missing = [path for path in paths if found is None or path not in found.layers]
    errors = output_errors(task, model, batches, missing) if missing else {}
    if found is None:
        with float_sites(model):
            in_float = meter.value(model)
        quantized = meter.value(model)
        together = QuantizationCost(errors[""], meter.lost(in_float, quantized))
        found = QuantSensitivity(key, meter.metric, in_float, quantized, together)
    for path in progress(missing, "sensitivity", unit="layer"):
        with only(model, path):
            lost = meter.lost(found.in_float, meter.value(model))
        found.layers[path] = QuantizationCost(errors[path], lost)
        store.save(found)
    reused = len(paths) - len(missing)
    _log.info("sensitivity of %d layers, %d of them measured before", len(paths), reused)
    return found


@plain_settings()
def plot(sensitivity: QuantSensitivity, file: Path) -> None:
    """Draw a bar for each layer, the worst on top: metric lost on the left, error on the right.

    Raises:
        FileError: The picture cannot be written.
    """
    worst = sensitivity.by_worst()
    figure = Figure(figsize=(10, 1.5 + 0.2 * len(worst)), layout="tight")
    left, right = figure.subplots(1, 2, sharey=True)
    places = range(len(worst))
    lost = [alone.lost for _, alone in worst]
    left.barh(places, lost, color=["tab:red" if each > 0 else "tab:green" for each in lost])
    together = sensitivity.together
    title = f"{sensitivity.metric} lost, each layer alone (all together: {together.lost:+.4f})"
    left.set_title(title, fontsize=9)
    left.set_yticks(places, [path for path, _ in worst], fontsize=7)
    left.invert_yaxis()
    left.axvline(0, color="black", linewidth=0.5)
    right.barh(places, [alone.error for _, alone in worst], color="tab:blue")
    right.axvline(together.error, color="black", linestyle="--", label="all layers")
    right.set_title("error of the outputs, relative", fontsize=9)
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.margins(y=0.01)
        axes.grid(axis="x", alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_bytes(file, picture.getvalue())
