"""A traced model of a task: written in each format, described, and compared with the eager one."""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ExportError
from core.export import lite, parity
from core.export.files import LITE, MODEL, PARAMS, size_mb_of_files, write_files
from core.export.int8.comparison import OutputKinds
from core.export.int8.exporter import Int8Exporter
from core.export.int8.file_comparison import FileComparison
from core.export.int8.layerwise import LayerDifference
from core.export.onnx.convert import OPSET
from core.graph import cost
from core.graph.batch_norm_folding import fold_finite
from core.graph.free_batch import trace_graph
from core.graph.padding import pad_last_axes
from core.graph.program import Graph
from core.graph.rewrites import rewrite
from core.graph.uneven_resizing import gather_uneven_resizing
from core.quant.layers import quantized_layers
from core.quant.outputs import rounded_outputs
from core.runtimes.description import (
    LAYERS,
    DeployDescription,
    Port,
    Preprocess,
    Quantization,
    Report,
    TaskSettings,
)
from core.runtimes.predictor import Predictor
from core.settings.config import to_mapping
from core.targets.names import DEFAULT_TARGET, Format
from core.task import Arrays, Task
from core.training.images import image_channels

SIZE = 256  # of images, where networks are tried with one
CHANNEL_NAMES = {1: "grey", 3: "RGB", 4: "RGBA"}  # by their number
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportSettings:
    """Settings of an export.

    Attributes:
        formats: Formats to write, and to compare in the runtimes that read them.
        ending: Ending of the graph: one that `task.deploy_model` knows, or paths of layers,
            separated by commas.
        input_shape: [N, C, H, W], -1 where free, or [C, H, W] with a free batch; otherwise as the
            task's `input_spec` says.
        opset: ONNX opset.
        target: Runtime that the ONNX file of a quantized model is laid out for, of
            `core.targets.presets.PRESETS`; it runs in the others too.
        rewritten: Whether to spare operators where the results stay the same, see
            `core.graph.rewrites`.
    """

    formats: Sequence[Format] = ("paddle",)
    ending: str = "raw"
    input_shape: Sequence[int] | None = None
    opset: int = OPSET
    target: str = DEFAULT_TARGET
    rewritten: bool = True


@dataclass(frozen=True)
class TracedModel:
    """A traced model that can be written, described and compared.

    Attributes:
        task: Task of the model.
        model: The network.
        layer: Layer to export: the model with its ending.
        specs: Inputs of `layer`.
        ending: Name of the ending, or `LAYERS`.
        graph: Float graph of `layer` with folded batch norms, rewritten.
        quantized: Writer of the int8 files; None if no layer is quantized.
        opset: ONNX opset.
        parameters: Number of parameters in the exported part of the network.
    """

    task: Task
    model: Layer
    layer: Layer
    specs: list[InputSpec]
    ending: str
    graph: Graph
    quantized: Int8Exporter | None
    opset: int
    parameters: int

    def write(self, folder: Path, formats: Sequence[Format]) -> dict[str, int]:
        """Write files of some formats; a quantized model is written in int8.

        Returns:
            For each file of a quantized model the bytes that it would have in float.
        """
        if self.quantized is not None:
            return self.quantized.write(folder, formats)
        write_files(self.graph, folder, formats, self.opset)
        return {}

    def for_lite(self, place: Path) -> Callable[[], tuple[bytes, int]]:
        """Return a function that makes Paddle Lite's file and tells the bytes it has in float.

        Args:
            place: Existing folder for the files that the converter reads.
        """
        if self.quantized is not None:
            return self.quantized.for_lite(place)
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
        return {LITE: count} if self.quantized else {}

    def describe(
        self, folder: Path, kind: Format, batch: Sequence[np.ndarray], answer: Arrays
    ) -> DeployDescription:
        """Return the content of `deploy.yml` for the files in the folder.

        Args:
            folder: Folder with the files.
            kind: Format of the files whose size it gives.
            batch: Arrays for each input, [N, C, H, W] for images.
            answer: Answer of `layer` to the batch, [N, ...] by name.
        """
        int8, quantization = self.quantized, None
        if int8 is not None:
            layers = len(int8.grids.layers())
            quantization = Quantization(layers, int8.target, int8.processors)
        return DeployDescription(
            trislim=importlib.metadata.version("trislim"),
            inputs=ports_of(self.graph, self.graph.inputs),
            outputs=_outputs(self.graph, answer),
            ending=self.ending,
            preprocess=_preprocess(self.task, self.graph),
            report=self._report(size_mb_of_files(folder, kind), batch),
            task=TaskSettings(self.task.name, to_mapping(self.task.config)),
            quantization=quantization,
        )

    def _report(self, size_mb: float, batch: Sequence[np.ndarray]) -> Report:
        shapes = tuple((1, *array.shape[1:]) for array in batch)
        return Report(
            size_mb=size_mb,
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

        Args:
            folder: Folder with the files.
            predictors: The files, opened in each runtime.
            batches: Arrays for each input, [N, C, H, W] for images.
            expected: Answers of `layer` to each batch, [N, ...] by name.

        Raises:
            ExportError: One answers differently.
        """
        if self.quantized is not None:
            comparison = FileComparison(self.quantized, folder, OutputKinds.of(self.graph))
            more = partial(parity.many_batches, self.task, self.specs)
            return comparison.check(predictors, batches, more)
        decided = parity.deciding_outputs(self.graph)
        return parity.check(self.layer, expected, predictors, batches, decided), []


def trace_for_export(
    task: Task,
    model: Layer,
    layer: Layer,
    specs: list[InputSpec],
    cut: bool,
    settings: ExportSettings,
) -> TracedModel:
    """Trace a model, fold its batch norms and rewrite the graph.

    Args:
        task: Task of the model.
        model: The network, in evaluation mode.
        layer: Layer to export: the model with its ending, in evaluation mode.
        specs: Inputs of `layer`.
        cut: Whether the ending is layers, so that the model is cut behind them.
        settings: Settings of the export.

    Raises:
        ExportError: The layer cannot be traced, or holds weights that are not finite.
    """
    graph = _traced(model, layer, specs)
    counted = cost.counted_parameters(model)
    if cut:
        counted = {path: each for path, each in counted.items() if path in graph.weights}
    folded = fold_finite(graph)
    _log.info("traced %d operators, folded %d batch norms", len(graph.operators), folded)
    if settings.rewritten:
        rounded = {graph.made.get(path) for path in rounded_outputs(model)}
        kept = {name for name in rounded if name is not None}
        graph = rewrite(graph, kept, for_int8=bool(quantized_layers(model)))
    graph = pad_last_axes(gather_uneven_resizing(graph))
    int8 = None
    if quantized_layers(model):
        int8 = Int8Exporter(model, layer, graph, settings.target, cut, settings.opset)
    parameters = sum(math.prod(each.shape) for each in counted.values())
    ending = LAYERS if cut else settings.ending
    return TracedModel(task, model, layer, specs, ending, graph, int8, settings.opset, parameters)


def _traced(model: Layer, layer: Layer, specs: list[InputSpec]) -> Graph:
    """Trace a layer; if it cannot be, find out whether it could with sizes that are given.

    Raises:
        ExportError: It cannot be traced.
    """
    try:
        return trace_graph(layer, specs, model)
    except ExportError as error:
        if all(spec.shape == each.shape for spec, each in zip(specs, _sized(specs))):
            raise
        failure = error
    try:
        trace_graph(layer, _sized(specs), model)
    except ExportError:
        raise failure from None
    raise ExportError(
        f"input_shape: {type(model).__name__} computes with the height and the width of its input, "
        f"so that they cannot be free; give numbers, such as those it was trained with ({failure})"
    ) from failure


def _sized(specs: Sequence[InputSpec]) -> list[InputSpec]:
    """Return inputs whose sizes are all given, but for that of the batch."""
    return [
        InputSpec(
            [spec.shape[0], *(SIZE if each in (None, -1) else each for each in spec.shape[1:])],
            *(spec.dtype, spec.name),
        )
        for spec in specs
    ]


def ports_of(graph: Graph, names: Sequence[str]) -> tuple[Port, ...]:
    """Describe inputs or outputs of a graph."""
    return tuple(Port(name, graph.shape(name), graph.dtype(name).name) for name in names)


def _outputs(graph: Graph, example: Arrays) -> tuple[Port, ...]:
    """Describe the outputs; sizes that follow from fixed input sizes are taken from the example."""
    ports = ports_of(graph, graph.outputs)
    if any(-1 in port.shape[1:] for port in ports_of(graph, graph.inputs)):
        return ports
    return tuple(replace(p, shape=(*p.shape[:1], *example[p.name].shape[1:])) for p in ports)


def _preprocess(task: Task, graph: Graph) -> Preprocess:
    data = getattr(task.config, "data", None)
    mean, std = getattr(data, "mean", None), getattr(data, "std", None)
    height, width = graph.shape(graph.inputs[0])[-2:]
    size = (width, height) if min(height, width) > 0 else None
    names = CHANNEL_NAMES[image_channels(task)]
    return Preprocess(channels=names, mean=mean, std=std, size=size)
