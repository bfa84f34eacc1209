"""Compare int8 files with the eager model on the grids of each file.

Each layer is compared by itself, see `core.export.int8.layerwise`, and the answers of the whole,
see `core.export.int8.comparison`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnx as onnx_format

from core.errors import RejectedError
from core.export import parity
from core.export.files import MODEL, ONNX, PARAMS
from core.export.int8 import layerwise
from core.export.int8.comparison import (
    ArrayBatches,
    MoreBatches,
    OutputKinds,
    WholeAnswers,
    compare,
    compare_as_written,
    compare_enough,
    count_images,
    nothing_left,
)
from core.export.int8.exporter import Int8Exporter
from core.export.int8.file_grids import FileGrids
from core.export.int8.layer_feeds import EagerLayers
from core.export.int8.layerwise import LayerDifference
from core.graph.program import Graph
from core.network.modes import evaluation_mode
from core.quant.layers import quantized_layers, weights_held
from core.quant.quantizers import ActivationQuantizer
from core.quant.sites import layer_of, sites_of
from core.runtimes.formats import format_of
from core.runtimes.predictor import Predictor, load_predictor
from core.settings.files import scratch
from core.targets.instructions import why_not_as_written
from core.targets.names import Backend, Format
from core.task import Arrays

_log = logging.getLogger(__name__)

# answers of the eager model, by the format that it rounds as (None: in float), whether as the
# operators say, and the number of images
_Known = dict[tuple[Format | None, bool, int], Sequence[Arrays]]


@dataclass(frozen=True)
class FileComparison:
    """Comparison of written int8 files with the model that they were made of.

    Attributes:
        exporter: Writer of the files.
        folder: Folder that it wrote them to.
        kinds: Kinds of the outputs.
    """

    exporter: Int8Exporter
    folder: Path
    kinds: OutputKinds = field(default_factory=OutputKinds)

    @property
    def grids(self) -> FileGrids:
        """Return which sites the files of each format round, and on which grids."""
        return self.exporter.grids

    def check(
        self,
        predictors: Sequence[Predictor],
        batches: ArrayBatches,
        more: MoreBatches = lambda count: [],
    ) -> tuple[list[parity.Difference], list[LayerDifference]]:
        """Compare each runtime with the eager model on the grids of its file.

        Args:
            predictors: The files, opened in each runtime.
            batches: Arrays for each input of the model, [N, C, H, W] for images.
            more: Returns more images, for where these do not tell how far the outputs are off.

        Returns:
            The differences of the outputs, and of the layers each by itself.

        Raises:
            ExportError: A layer differs, which is named; or the outputs do so much that nothing of
                the model is left, or one is missing.
        """
        here = [each for each in predictors if not self._why_not_as_written(each)]
        answers, layers = self._check_layers(here, batches)
        count = count_images(batches)
        known: _Known = {(kind, False, count): some for kind, some in answers.items()}
        differences = []
        for predictor in predictors:
            why = self._why_not_as_written(predictor)
            kind = format_of(predictor.backend)
            answer = partial(self._both_answers, known, kind=kind, as_written=bool(why))
            if why:
                differences += compare_as_written(predictor, batches, more, answer, self.kinds, why)
            else:
                differences += self._check_whole(predictor, batches, answer, more)
        return differences, layers

    def _why_not_as_written(self, predictor: Predictor) -> str:
        """Return why a runtime computes the file otherwise here than it says."""
        return why_not_as_written(predictor.backend, self.grids.processors)

    def _check_layers(
        self, predictors: Sequence[Predictor], batches: ArrayBatches
    ) -> tuple[dict[Format, list[Arrays]], list[LayerDifference]]:
        """Return the answers of the eager model on the grids of each format, and the layers."""
        backends: dict[Format, list[Backend]] = {}
        for predictor in predictors:
            backends.setdefault(format_of(predictor.backend), []).append(predictor.backend)
        answers, layers = {}, []
        for kind, some in backends.items():
            answers[kind], found = self.layer_by_layer(kind, some, batches)
            layerwise.check(found)
            layers += found
        for runtime, line in layerwise.summary(layers).items():
            _log.info("%s: %s", runtime, line)
        return answers, layers

    def _check_whole(
        self,
        predictor: Predictor,
        batches: ArrayBatches,
        answer: Callable[[ArrayBatches], tuple[Sequence[Arrays], Sequence[Arrays]]],
        more: MoreBatches,
    ) -> list[parity.Difference]:
        """Warn about outputs that differ more than roundings explain, or refuse them.

        Args:
            predictor: A file, opened.
            batches: The first few images.
            answer: Returns the answers of the eager model to images, rounded and in float.
            more: Returns more images.
        """
        backend = predictor.backend

        def answers_of(some: ArrayBatches) -> WholeAnswers:
            wanted, exact = answer(some)
            return WholeAnswers(wanted, [parity.run(predictor, batch) for batch in some], exact)

        differences, answers = compare_enough(backend, answers_of, batches, more, self.kinds)
        for each in differences:
            if each.passes:
                continue
            said = f"{backend}: output {each.output!r} of the int8 model {each}"
            if nothing_left(each, answers.wanted, self.kinds):
                raise RejectedError(f"{said}; {self._first_drift(backend, batches)}")
            _log.warning("%s; each layer by itself is right, so let the metric decide", said)
        return differences

    def layer_by_layer(
        self, kind: Format, backends: Sequence[Backend], batches: ArrayBatches
    ) -> tuple[list[Arrays], list[LayerDifference]]:
        """Let the eager model answer on the grids of a file, and compare its layers one by one.

        Args:
            kind: Format of the file, `paddle` or `onnx`.
            backends: Runtimes that read it.
            batches: Arrays for each input of the model, [N, C, H, W] for images.

        Raises:
            ExportError: A layer is not in int8 in the file, or the grid of an output is another.
        """
        grids, model = self.grids, self.exporter.model
        rounded, requantized = grids.rounded_sites(kind), grids.requantized_per_channel(kind)
        layers = {path: each for path, each in quantized_layers(model).items() if path in rounded}
        one_grid = {
            path
            for path in requantized & layers.keys()
            if layers[path].input_quantizer.rounding.weight_type == "abs_max"
            and grids.processors == "vnni"  # otherwise the model rounds again itself
        }
        eager = EagerLayers(model, self.exporter.graph, layers, one_grid)
        with grids.rounding_as(kind, None, requantized), eager.noting():
            answers = self._answers(batches)
        file = self._read(kind)
        outputs = {
            layer_of(site): (grids.tensor_of(site), quantizer)
            for site, quantizer in sites_of(model).items()
            if site in rounded and isinstance(quantizer, ActivationQuantizer)
        }
        with grids.rounding_as(kind), evaluation_mode(model):
            layerwise.check_outputs(file, outputs)
            return answers, layerwise.compare(file, backends, eager)

    def _read(self, kind: Format) -> onnx_format.ModelProto | Graph:
        """Read a file that was written."""
        if kind == "onnx":
            return onnx_format.load(self.folder / ONNX)
        return Graph.from_files(self.folder / MODEL, self.folder / PARAMS)

    def _answers(self, batches: ArrayBatches) -> list[Arrays]:
        with weights_held(self.exporter.model):
            return [parity.run_eager(self.exporter.layer, batch) for batch in batches]

    def eager_answers(
        self,
        batches: ArrayBatches,
        kind: Format,
        sites: Container[str] | None = None,
        as_written: bool = False,
    ) -> list[Arrays]:
        """Return the answers of the eager model while it rounds as the file of a format does.

        Args:
            batches: Arrays for each input of the model, [N, C, H, W] for images.
            kind: Format of the file.
            sites: Sites to round at; None: all.
            as_written: Round as the operators of the file say, which Paddle Inference does not.
        """
        requantized = self.grids.requantized_per_channel(kind)
        with self.grids.rounding_as(kind, sites, requantized, as_written):
            return self._answers(batches)

    def _both_answers(
        self, known: _Known, batches: ArrayBatches, kind: Format, as_written: bool
    ) -> tuple[Sequence[Arrays], Sequence[Arrays]]:
        """Return the answers of the eager model while it rounds as a file does, and in float.

        Args:
            known: Answers so far; those that are missing are added.
            batches: Arrays for each input of the model.
            kind: Format of the file.
            as_written: See `eager_answers`.
        """
        count = count_images(batches)
        rounded, exact = (kind, as_written, count), (None, False, count)
        if rounded not in known:
            known[rounded] = self.eager_answers(batches, kind, None, as_written)
        if exact not in known:
            known[exact] = self.eager_answers(batches, "paddle", ())
        return known[rounded], known[exact]

    def _first_drift(self, backend: Backend, batches: ArrayBatches) -> str:
        """Say which layer the runtime rounds otherwise, by halving the layers in question."""
        kind = format_of(backend)
        exact = self.eager_answers(batches, kind, ())
        order = self.grids.in_order(kind)
        good, bad = 0, len(order)
        with scratch() as place:
            float_files = place / "float"
            float_files.mkdir()
            self.exporter.write_float(float_files, [kind])
            while bad - good > 1:
                count = (good + bad) // 2
                folder = place / str(count)
                folder.mkdir()
                self.exporter.write_some(folder, [kind], float_files, order[:count])
                predictor = load_predictor(folder, backend, own=True)
                wanted = self.eager_answers(batches, kind, order[:count])
                found = [parity.run(predictor, batch) for batch in batches]
                compared = compare(backend, WholeAnswers(wanted, found, exact), self.kinds)
                passes = all(each.passes for each in compared)
                good, bad = (count, bad) if passes else (good, count)
        site, layer = order[bad - 1], layer_of(order[bad - 1])
        what = layer if site == layer else f"the output of {layer}"
        return (
            f"with the layers before {layer} in int8 it agrees, with {what} it does not; "
            f"name {layer} in never_quantize, or export for another target"
        )
