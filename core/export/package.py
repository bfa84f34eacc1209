"""Export a model of a task into a folder that needs nothing else to be deployed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ExportError
from core.export import parity
from core.export.endings import ending_in
from core.export.files import (
    FILES,
    check_folder,
    check_formats,
    drop_sources,
    with_sources,
)
from core.export.int8.layerwise import LayerDifference
from core.export.onnx.convert import OPSET
from core.export.rejected import replacing_unless_rejected
from core.export.traced_model import ExportSettings, TracedModel, trace_for_export
from core.graph import cost
from core.network.modes import evaluation_mode
from core.runtimes.description import DeployDescription, write_description
from core.runtimes.formats import find_files, is_installed, read_format
from core.runtimes.predictor import Predictor, load_predictor
from core.runtimes.survived import remember
from core.settings.files import scratch
from core.settings.processes import ending_children
from core.settings.progress import progress
from core.targets.names import BACKENDS, DEFAULT_TARGET, FORMATS, Format
from core.task import Task
from core.training.image_settings import MOST_SIDE

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        folder: Folder of the export.
        description: Content of its `deploy.yml`.
        file_bytes: Size of each file.
        differences: Difference of each output from the eager model, in each runtime.
        float_bytes: Size that each file of a quantized model would have in float.
        layers: Difference of each quantized layer by itself, in each runtime.
    """

    folder: Path
    description: DeployDescription
    file_bytes: dict[str, int]
    differences: list[parity.Difference]
    float_bytes: dict[str, int]
    layers: list[LayerDifference] = field(default_factory=list)

    @property
    def sized_files(self) -> tuple[str, ...]:
        """Return the files whose size the description gives: those of the first format."""
        return FILES[next(name for name in FORMATS if FILES[name][0] in self.file_bytes)]


def export(
    task: Task,
    model: Layer,
    save_dir: str | Path,
    formats: Sequence[Format] = ("paddle",),
    ending: str = "raw",
    input_shape: Sequence[int] | None = None,
    opset: int = OPSET,
    target: str = DEFAULT_TARGET,
    overwrite: bool = False,
    rewritten: bool = True,
) -> Exported:
    """Export a model, compare it with the eager one, and put the folder in place.

    The folder appears whole or not at all. Files that answer differently go to the folder of
    rejected ones, see `core.export.rejected`.

    Args:
        task: See `write_export`.
        model: See `write_export`.
        save_dir: Folder to make.
        formats: See `ExportSettings`.
        ending: See `ExportSettings`.
        input_shape: See `ExportSettings`.
        opset: See `ExportSettings`.
        target: See `ExportSettings`.
        overwrite: Replace an earlier export in the folder, once the new one is right.
        rewritten: See `ExportSettings`.

    Raises:
        ExportError: Not exportable, a runtime answers differently, or the folder holds an export
            or other things.
        FileError: Not writable.
        ConfigError: The ending is none of the task's, nor are there such layers.
    """
    folder = Path(save_dir)
    check_formats(formats)
    check = partial(check_folder, folder, overwrite)
    check()
    settings = ExportSettings(formats, ending, input_shape, opset, target, rewritten)
    with replacing_unless_rejected(folder, check) as draft:
        made = write_export(task, model, draft, settings)
    return replace(made, folder=folder)


def write_export(task: Task, model: Layer, folder: Path, settings: ExportSettings) -> Exported:
    """Write an export into an existing folder, and compare it with the eager model.

    Quantized layers are int8 in the files, which are compared with the eager model on their grids.

    Args:
        task: Task that defines inputs and endings, and reads the data to compare on.
        model: The trained network; not changed.
        folder: Existing, empty folder.
        settings: Files to write.

    Raises:
        ExportError: Not exportable, or a runtime answers differently.
        ConfigError: The ending is none of the task's, nor are there such layers.
    """
    check_formats(settings.formats)
    wanted = [name for name in FORMATS if name in settings.formats]
    specs = _specs(task, settings.input_shape)
    layer, cut = ending_in(task, model, settings.ending)
    with evaluation_mode(model), evaluation_mode(layer):
        traced = trace_for_export(task, model, layer, specs, cut, settings)
        return _write_and_compare(traced, folder, wanted)


def _write_and_compare(traced: TracedModel, folder: Path, formats: Sequence[Format]) -> Exported:
    """Write all files of an export into a folder, and compare them with the eager model."""
    with scratch() as place, ThreadPoolExecutor(1) as aside, ending_children():
        _log.info("export: writing files (%s)", ", ".join(formats))
        written = [name for name in with_sources(formats) if name != "lite"]
        float_bytes = traced.write(folder, written)
        # the converter for Lite takes longest, and is another process anyway
        converting = aside.submit(traced.for_lite(place)) if "lite" in formats else None
        batches = parity.real_batches(traced.task, traced.specs)
        # a quantized model is compared on the grids of each file, by itself
        compared = batches[:1] if traced.quantized else batches
        expected = [parity.run_eager(traced.layer, batch) for batch in compared]
        alone = formats == ["lite"]  # then the description gives its size
        if converting is not None and alone:
            _log.info("export: waiting for Paddle Lite's converter")
            float_bytes |= traced.add_lite(converting, folder)
        description = traced.describe(folder, formats[0], batches[0], expected[0])
        description = write_description(description, folder)
        predictors = open_predictors(folder, formats)
        runtimes = ", ".join(each.backend for each in predictors)
        _log.info("export: comparing the files with the network in %s", runtimes or "no runtime")
        differences, layers = traced.compare(folder, predictors, batches, expected)
        if converting is not None and not alone:
            _log.info("export: waiting for Paddle Lite's converter")
            float_bytes |= traced.add_lite(converting, folder)
        drop_sources(folder, formats)
        for each in predictors:
            if read_format(each.backend, formats) is not None:
                remember(each.backend, find_files(folder, each.backend))
        description = write_description(description, folder)  # again: of the files there now
        sizes = cost.size_bytes(sorted(folder.iterdir()))
        float_bytes = {name: count for name, count in float_bytes.items() if name in sizes}
    return Exported(folder, description, sizes, differences, float_bytes, layers)


def _specs(task: Task, input_shape: Sequence[int] | None) -> list[InputSpec]:
    specs = task.input_spec()
    if input_shape is None:
        return specs
    first = specs[0]
    shape = [-1, *input_shape] if len(input_shape) == len(first.shape) - 1 else list(input_shape)
    known = [-1 if size is None else int(size) for size in first.shape]
    if not all(isinstance(size, int) for size in shape):
        raise ExportError(f"input_shape: expected whole numbers, got {list(input_shape)}")
    if len(shape) != len(known) or shape[1] != known[1] or any(s < 1 and s != -1 for s in shape):
        raise ExportError(
            f"input_shape: expected a shape like {known} (-1: free), got {list(input_shape)}"
        )
    if max(shape) > MOST_SIDE:
        raise ExportError(f"input_shape: expected {MOST_SIDE} at most, got {list(input_shape)}")
    if any(k not in (-1, s) for k, s in zip(known, shape)):
        _log.warning("input_shape: the task's settings prepare images of %s, not %s", known, shape)
    return [InputSpec(shape, first.dtype, first.name), *specs[1:]]


def open_predictors(folder: Path, formats: Sequence[Format]) -> list[Predictor]:
    """Open the files of an export in each installed runtime that reads them."""
    predictors = []
    for backend in progress(BACKENDS, "open the files", unit="runtime"):
        if read_format(backend, formats) is None:
            continue
        if is_installed(backend):
            predictors.append(load_predictor(folder, backend, own=True))
        else:
            _log.warning("%s is not installed: the export is not compared in it", backend)
    return predictors
