"""Export a model of a task into a folder that needs nothing else to be deployed."""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial as partial_of
from pathlib import Path

import numpy as np
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ExportError
from core.export import lite, parity
from core.export.endings import ending_in
from core.export.files import (
    FILES,
    LITE,
    MODEL,
    ONNX,
    PARAMS,
    check_folder,
    check_formats,
    size_mb_of_folder,
    write_files,
)
from core.export.int8.exporter import Int8Exporter
from core.export.int8.layerwise import LayerDifference
from core.export.onnx.convert import OPSET
from core.graph import cost
from core.graph.batch_norm_folding import fold_batch_norms
from core.graph.program import Graph
from core.graph.trace import trace
from core.network.modes import evaluation_mode
from core.quant.layers import quantized_layers
from core.runtimes.description import (
    LAYERS,
    DeployDescription,
    Port,
    Preprocess,
    Quantization,
    Report,
    TaskSettings,
    write_description,
)
from core.runtimes.formats import format_of, is_installed
from core.runtimes.predictor import Predictor, load_predictor
from core.settings.config import to_mapping
from core.settings.files import replacing, scratch
from core.settings.processes import ending_children
from core.targets.names import BACKENDS, DEFAULT_TARGET, FORMATS, Format
from core.task import Arrays, Task

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Attributes:
        folder: Where it is.
        description: Content of its `deploy.yml`.
        file_bytes: Size of each file.
        differences: How far each output is from the eager model, in each runtime.
        float_bytes: Size that each file of a quantized model would have in float.
        layers: How far each quantized layer by itself is from the eager one, in each runtime.
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
) -> Exported:
    """Export a model, compare it with the eager one, and put the folder in place.

    The folder appears whole or not at all; an earlier export of the same name is replaced then.
    Quantized layers are int8 in the files, which are compared with the eager model on their grids.

    Args:
        task: Names inputs and ending, and reads the data to compare on.
        model: The trained network; left as it is.
        save_dir: Folder to make. One that holds other files than an export is refused.
        formats: Which files are written, and compared in the runtimes that read them.
        ending: What the graph ends in: as `task.deploy_model` knows it, or in what layers put out,
            by their paths with commas between.
        input_shape: [N, C, H, W], -1 where free, or [C, H, W] with a free batch; otherwise as the
            task's `input_spec` says.
        opset: Of ONNX.
        target: Runtime that the ONNX file of a quantized model is laid out for, of
            `core.targets.presets.PRESETS`; it runs in the others too.

    Raises:
        ExportError: Not exportable, or a runtime answers differently.
        FileError: Not writable.
        ConfigError: The ending is none of the task's, nor are there such layers.
    """
    folder = Path(save_dir)
    check_formats(formats)
    wanted = [name for name in FORMATS if name in formats]
    check_folder(folder)
    specs = _specs(task, input_shape)
    layer, cut = ending_in(task, model, ending)
    with (
        evaluation_mode(model),
        evaluation_mode(layer),
        replacing(folder) as partial,
        scratch() as place,
        ThreadPoolExecutor(1) as aside,
        ending_children(),
    ):
        source = _trace(task, model, layer, specs, LAYERS if cut else ending, target, opset)
        float_bytes = source.write(partial, [name for name in wanted if name != "lite"])
        if source.rounded is not None:
            source.rounded.prove(partial, wanted)
        # the converter for Lite takes longest, and is another process anyway
        converting = aside.submit(source.for_lite(Path(place))) if "lite" in wanted else None
        batches = parity.real_batches(task, specs)
        # a rounded model is compared on the grids of each file, by itself
        compared = batches[:1] if source.rounded else batches
        expected = [parity.run_eager(layer, batch) for batch in compared]
        alone = wanted == ["lite"]  # then the description gives its size
        if converting is not None and alone:
            float_bytes |= source.add_lite(converting, partial)
        description = source.describe(partial, batches[0], expected[0])
        description = write_description(description, partial)
        predictors = open_predictors(partial, wanted)
        differences, layers = source.compare(partial, predictors, batches, expected)
        if converting is not None and not alone:
            float_bytes |= source.add_lite(converting, partial)
            description = write_description(description, partial)  # again: one file more
        sizes = cost.size_bytes(sorted(partial.iterdir()))
    return Exported(folder, description, sizes, differences, float_bytes, layers)


@dataclass(frozen=True)
class _Source:
    """A traced model on its way into files; `rounded` if layers are quantized."""

    task: Task
    model: Layer
    layer: Layer
    specs: list[InputSpec]
    ending: str
    graph: Graph
    rounded: Int8Exporter | None
    opset: int
    parameters: int

    def write(self, folder: Path, formats: Sequence[Format]) -> dict[str, int]:
        """Write files; return the bytes that those of a quantized model would have in float."""
        if self.rounded is not None:
            return self.rounded.write(folder, formats)
        write_files(self.graph, folder, formats, self.opset)
        return {}

    def for_lite(self, place: Path) -> Callable[[], tuple[bytes, int]]:
        """Return what makes Paddle Lite's file, and the bytes that it would have in float.

        Args:
            place: For files that are read by what is returned.
        """
        if self.rounded is not None:
            return self.rounded.for_lite(place)
        files = place / MODEL, place / PARAMS
        self.graph.write(*files)

        def convert() -> tuple[bytes, int]:
            content = lite.convert(*files)
            return content, len(content)

        return convert

    def add_lite(self, converting: Future[tuple[bytes, int]], folder: Path) -> dict[str, int]:
        """Wait for Paddle Lite's file and put it into a folder; return as `write` does."""
        content, count = converting.result()
        (folder / LITE).write_bytes(content)
        _log.info("lite: %s runs on other devices, so it is not compared here", LITE)
        return {LITE: count} if self.rounded else {}

    def describe(
        self, folder: Path, batch: Sequence[np.ndarray], answer: Arrays
    ) -> DeployDescription:
        """Return what `deploy.yml` says of the files in the folder."""
        rounded = self.rounded
        quantization = None
        if rounded is not None:
            quantization = Quantization(len(rounded.layers()), rounded.target, rounded.processors)
        return DeployDescription(
            trislim=importlib.metadata.version("trislim"),
            inputs=ports_of(self.graph, self.graph.inputs),
            outputs=_outputs(self.graph, answer),
            ending=self.ending,
            preprocess=_preprocess(self.task, self.graph),
            report=self._report(folder, batch),
            task=TaskSettings(self.task.name, to_mapping(self.task.config)),
            quantization=quantization,
        )

    def _report(self, folder: Path, batch: Sequence[np.ndarray]) -> Report:
        shapes = tuple((1, *array.shape[1:]) for array in batch)
        return Report(
            size_mb=size_mb_of_folder(folder),
            parameters=self.parameters,
            macs=cost.count_macs(self.layer, shapes, self.specs),
            input_shapes=shapes,
        )

    def compare(
        self,
        folder: Path,
        predictors: Sequence[Predictor],
        batches: Sequence[Sequence[np.ndarray]],
        expected: Sequence[Arrays],
    ) -> tuple[list[parity.Difference], list[LayerDifference]]:
        """Compare the files in a folder with the eager model, in each runtime.

        Raises:
            ExportError: One answers differently.
        """
        decided = parity.deciding_outputs(self.graph)
        if self.rounded is not None:
            return self.rounded.check(folder, predictors, batches, decided)
        return parity.check(self.layer, expected, predictors, batches, decided), []


def _trace(
    task: Task,
    model: Layer,
    layer: Layer,
    specs: list[InputSpec],
    ending: str,
    target: str,
    opset: int,
) -> _Source:
    graph, cut = Graph.from_trace(trace(layer, specs, model)), ending == LAYERS
    counted = cost.counted_parameters(model)
    if cut:
        counted = {path: each for path, each in counted.items() if path in graph.weights}
    graph.check_finite()
    folded = fold_batch_norms(graph)
    graph.check_finite()
    _log.info("traced %d operators, folded %d batch norms", len(graph.operators), folded)
    rounded = None
    if quantized_layers(model):
        write = partial_of(write_files, opset=opset)
        rounded = Int8Exporter(model, layer, graph, target, write, (MODEL, PARAMS, ONNX, LITE), cut)
    parameters = sum(math.prod(each.shape) for each in counted.values())
    return _Source(task, model, layer, specs, ending, graph, rounded, opset, parameters)


def _specs(task: Task, input_shape: Sequence[int] | None) -> list[InputSpec]:
    specs = task.input_spec()
    if input_shape is None:
        return specs
    first = specs[0]
    shape = [-1, *input_shape] if len(input_shape) == len(first.shape) - 1 else list(input_shape)
    known = [-1 if size is None else int(size) for size in first.shape]
    if len(shape) != len(known) or shape[1] != known[1] or any(s < 1 and s != -1 for s in shape):
        raise ExportError(
            f"input_shape: expected a shape like {known} (-1: free), got {list(input_shape)}"
        )
    if any(k not in (-1, s) for k, s in zip(known, shape)):
        _log.warning("input_shape: the task's settings prepare images of %s, not %s", known, shape)
    return [InputSpec(shape, first.dtype, first.name), *specs[1:]]


def open_predictors(folder: Path, formats: Sequence[Format]) -> list[Predictor]:
    """Open the files of an export in each installed runtime that reads them."""
    predictors = []
    for backend in BACKENDS:
        if format_of(backend) not in formats:
            continue
        if is_installed(backend):
            predictors.append(load_predictor(folder, backend))
        else:
            _log.warning("%s is not installed: the export is not compared in it", backend)
    return predictors


def ports_of(graph: Graph, names: Sequence[str]) -> tuple[Port, ...]:
    """Describe inputs or outputs of a graph."""
    return tuple(Port(name, graph.shape(name), graph.dtype(name).name) for name in names)


def _outputs(graph: Graph, example: Arrays) -> tuple[Port, ...]:
    """Describe the outputs; what the graph computes from fixed sizes is read off the example."""
    ports = ports_of(graph, graph.outputs)
    if any(-1 in port.shape[1:] for port in ports_of(graph, graph.inputs)):
        return ports
    return tuple(replace(p, shape=(*p.shape[:1], *example[p.name].shape[1:])) for p in ports)


def _preprocess(task: Task, graph: Graph) -> Preprocess:
    data = getattr(task.config, "data", None)
    mean, std = getattr(data, "mean", None), getattr(data, "std", None)
    height, width = graph.shape(graph.inputs[0])[-2:]
    size = (width, height) if min(height, width) > 0 else None
    return Preprocess(mean=mean, std=std, size=size)
