"""Files of a quantized model: int8 in each format from one table, compared with eager training.

The float graph is traced, and batch norms folded, as for any export; then each format puts the
table of scales into it. What a runtime then answers is compared with the eager model on the same
grids: each layer by itself, see `core.export.int8.layerwise`, and the whole, see
`core.export.int8.comparison`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx as onnx_format
from paddle.nn import Layer

from core.errors import ExportError
from core.export import lite, parity
from core.export.int8 import layerwise
from core.export.int8.comparison import compare, compare_as_written, nothing_left
from core.export.int8.layer_feeds import EagerLayers
from core.export.int8.layerwise import LayerDifference
from core.export.int8.onnx_writer import quantize_onnx
from core.export.int8.paddle_writer import quantize_program
from core.graph.batch_norm_folding import COPY
from core.graph.operators import names_of
from core.graph.program import Graph
from core.network.modes import evaluation_mode
from core.quant.layers import quantized_layers
from core.quant.outputs import output_site, rounded_outputs
from core.quant.quantizers import ActivationQuantizer
from core.quant.scales import LayerScales, ScaleTable
from core.quant.sites import float_sites, layer_of, on_grids, output_scales_of, scales_of, sites_of
from core.runtimes.formats import find_files, format_of
from core.runtimes.predictor import Predictor, load_predictor
from core.settings.config import suggest
from core.settings.files import scratch
from core.targets.instructions import multiplies_int8_exactly
from core.targets.names import Backend, Format, Processors
from core.targets.overflow import check_files, summary
from core.targets.paddle_inference import computed_in_int8, rounded_for_all, unsigned_inputs
from core.targets.pair_sums import LARGEST, Verdict
from core.targets.presets import FULL_INT8, PRESETS, Preset
from core.targets.processors import (
    graph_for,
    largest_of_even,
    slow_without_dot_products,
    weight_limits,
)
from core.targets.tensor_copies import clipped_tensors
from core.task import Arrays

Write = Callable[[Graph, Path, Sequence[Format]], None]
ArrayBatches = Sequence[Sequence[np.ndarray]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Int8Exporter:
    """A quantized model on its way into files.

    Attributes:
        model: With quantized layers, in evaluation mode.
        layer: What is exported: the model with its ending.
        graph: Of `layer`, in float, batch norms folded.
        target: Of `PRESETS`.
        write_float: Writes the files of a float graph.
        names: Of the model files in a folder: program, parameters, ONNX, Paddle Lite.
        cut: Whether the graph ends in the midst of the model, so that it may lack sites.
    """

    model: Layer
    layer: Layer
    graph: Graph
    target: str
    write_float: Write
    names: tuple[str, str, str, str]
    cut: bool = False

    def __post_init__(self) -> None:
        if self.target not in PRESETS:
            raise ExportError(
                f"target: no preset {self.target!r}{suggest(self.target, list(PRESETS))}"
            )

    @property
    def preset(self) -> Preset:
        """Return what the ONNX file is laid out by."""
        return PRESETS[self.target]

    @property
    def processors(self) -> Processors:
        """Return on which processors the files must be right."""
        layers = quantized_layers(self.model).values()
        return next(layer.input_quantizer.rounding.processors for layer in layers)

    def _graph(self, kind: Format) -> Graph:
        """Return the float graph that the files of a format are made of."""
        return graph_for(self.graph, kind, self.processors)

    def write(self, folder: Path, formats: Sequence[Format]) -> dict[str, int]:
        """Write the int8 files; return the bytes that each would have in float."""
        if self.target in FULL_INT8 and "onnx" in formats and not rounded_outputs(self.model):
            _log.warning(
                "onnx: no output has a grid, so %s computes few layers in int8; quantize the model "
                "with target: %s",
                *(self.target, self.target),
            )
        with scratch() as place:
            self.write_float(self.graph, Path(place), formats)
            self.write_some(folder, formats, Path(place), None)
            return {path.name: path.stat().st_size for path in sorted(Path(place).iterdir())}

    def prove(self, folder: Path, formats: Sequence[Format]) -> None:
        """Check in the files themselves that no processor overflows on them, or say that some do.

        Args:
            folder: With the files that `write` made.
            formats: Of the files.

        Raises:
            ExportError: They are for any processor, and one would compute other numbers.
        """
        for kind in formats:
            if kind == "lite":  # for ARM processors, which add products in 32 bits
                continue
            files = find_files(folder, "paddle" if kind == "paddle" else "onnxruntime")
            checks = check_files(files)
            if self.processors == "vnni":
                _log.info("%s: %s", files[0].name, summary(checks))
                continue
            for check in checks:
                # OpenVINO halves weights that TensorRT, for which the file is, does not
                bent = check.verdict is Verdict.ROUNDED and kind == "paddle"
                if check.verdict is Verdict.OVERFLOW or (bent and check.reason != LARGEST):
                    raise ExportError(
                        f"{check.layer}: without VNNI its sums {check.verdict.value}, though "
                        f"{files[0].name} is for any processor: {summary(checks)}"
                    )

    def for_lite(self, folder: Path) -> Callable[[], tuple[bytes, int]]:
        """Return what makes Paddle Lite's file, and the bytes that it would have in float.

        It runs the converter twice, and needs nothing but the files that are written here.

        Args:
            folder: Where to write them.

        Raises:
            ExportError: An entry of the table fits no layer; what is returned raises it where
                nothing is made, or nothing in int8.
        """
        whole = folder / "float.pdmodel", folder / "float.pdiparams"
        self.graph.write(*whole)
        convert = _for_lite(self.graph, self._table("lite").layers, folder)
        return lambda: (convert(), len(lite.convert(*whole)))

    def check(
        self,
        folder: Path,
        predictors: Sequence[Predictor],
        batches: ArrayBatches,
        decided: Sequence[str],
    ) -> tuple[list[parity.Difference], list[LayerDifference]]:
        """Compare each runtime with the eager model on the grids of its file.

        Args:
            folder: With the files that `write` made.
            predictors: Of these files.
            batches: Inputs.
            decided: Outputs behind a decision, see `parity.deciding_outputs`.

        Returns:
            How far the outputs are, and the layers each by itself.

        Raises:
            ExportError: A layer differs, which is named; or the outputs do so much that nothing of
                the model is left, or one is missing.
        """
        backends: dict[Format, list[Backend]] = {}
        elsewhere = [
            each
            for each in predictors
            if self.processors == "vnni" and not multiplies_int8_exactly(each.backend)
        ]
        for predictor in predictors:
            if predictor not in elsewhere:
                backends.setdefault(format_of(predictor.backend), []).append(predictor.backend)
        wanted, alone = {}, []
        for kind, some in backends.items():
            wanted[kind], found = self.layer_by_layer(folder, kind, some, batches)
            layerwise.check(found)
            alone += found
        for runtime, line in layerwise.summary(alone).items():
            _log.info("%s: %s", runtime, line)
        exact = self._eager(batches, "paddle", ())
        differences = []
        for predictor in predictors:
            if predictor in elsewhere:
                said = self._eager(batches, format_of(predictor.backend), None, as_written=True)
                differences += compare_as_written(predictor, batches, said, exact, decided)
                continue
            answers = wanted[format_of(predictor.backend)]
            got = [parity.run(predictor, batch) for batch in batches]
            for each in compare(predictor.backend, answers, got, exact, decided):
                self._judge(each, predictor.backend, answers, batches, decided)
                differences.append(each)
        return differences, alone

    def _judge(
        self,
        difference: parity.Difference,
        backend: Backend,
        answers: Sequence[Arrays],
        batches: ArrayBatches,
        decided: Sequence[str],
    ) -> None:
        """Warn about an output that is farther off than roundings are, or refuse it."""
        if difference.passes:
            return
        said = f"{backend}: output {difference.output!r} of the int8 model {difference}"
        if nothing_left(difference, answers, decided):
            raise ExportError(f"{said}; {self._first_drift(backend, batches, decided)}")
        _log.warning("%s; each layer by itself is right, so let the metric decide", said)

    def layer_by_layer(
        self, folder: Path, kind: Format, backends: Sequence[Backend], batches: ArrayBatches
    ) -> tuple[list[Arrays], list[LayerDifference]]:
        """Answer on the grids of a file, and compare its layers one by one.

        Args:
            folder: With the files that `write` made.
            kind: Of the file, `paddle` or `onnx`.
            backends: That read it.
            batches: Inputs.

        Raises:
            ExportError: A layer is not in int8 in the file, or the grid of an output is another.
        """
        acting, requantized_per_channel = self._acting(kind, None), self._twice(kind)
        every = quantized_layers(self.model)
        layers = {path: each for path, each in every.items() if path in acting}
        one_grid = {
            path
            for path in requantized_per_channel & layers.keys()
            if layers[path].input_quantizer.rounding.weight_type == "abs_max"
            and self.processors == "vnni"  # otherwise the model rounds again itself
        }
        eager = EagerLayers(self.model, self.graph, layers, one_grid)
        with self._rounding(kind, None, requantized_per_channel), eager.noting():
            answers = self.answers(batches)
        file = self._read(folder, kind)
        outputs = {
            layer_of(site): (self._tensor(site), quantizer)
            for site, quantizer in sites_of(self.model).items()
            if site in acting and isinstance(quantizer, ActivationQuantizer)
        }
        with self._rounding(kind, None), evaluation_mode(self.model):
            layerwise.check_outputs(file, outputs)
            return answers, layerwise.compare(file, backends, eager)

    def _read(self, folder: Path, kind: Format) -> onnx_format.ModelProto | Graph:
        """Read a file that was written."""
        program, params, onnx_file, _ = self.names
        if kind == "onnx":
            return onnx_format.load(folder / onnx_file)
        return Graph.from_files(folder / program, folder / params)

    def answers(self, batches: ArrayBatches) -> list[Arrays]:
        """Return what the eager model itself answers."""
        return [parity.run_eager(self.layer, batch) for batch in batches]

    def _eager(
        self,
        batches: ArrayBatches,
        kind: Format,
        rounded: Container[str] | None,
        as_written: bool = False,
    ) -> list[Arrays]:
        """Answer with some sites rounded (None: all), as the file of a format is.

        Paddle Inference computes otherwise than the operators of its files are written.
        """
        with self._rounding(kind, rounded, self._twice(kind), as_written):
            return self.answers(batches)

    @contextlib.contextmanager
    def _rounding(
        self,
        kind: Format,
        rounded: Container[str] | None,
        requantized_per_channel: Container[str] = (),
        as_written: bool = False,
    ) -> Iterator[None]:
        """Round some sites (None: all) as the file of a format is, while the context is open."""
        acting = self._acting(kind, rounded)
        plain = as_written and kind == "paddle"
        grids = (
            on_grids(self.model, (), limits={})
            if plain
            else self._grids(kind, requantized_per_channel)
        )
        with grids, float_sites(self.model):
            for path, site in sites_of(self.model).items():
                site.bypassed = path not in acting
            yield

    def _grids(
        self, kind: Format, requantized_per_channel: Container[str] = ()
    ) -> AbstractContextManager[None]:
        """Let the model round as this machine does with the file of a format."""
        graph = self._graph(kind)
        limits = {
            _layer(weight): limit
            for weight, limit in weight_limits(graph, kind, self.processors).items()
        }
        largest = largest_of_even(self.processors)
        return on_grids(self.model, self._unsigned(kind), requantized_per_channel, limits, largest)

    def layers(self) -> set[str]:
        """Return the quantized layers that are in the files."""
        return self._sites() & set(quantized_layers(self.model))

    def _sites(self) -> set[str]:
        """Return the sites that are in the files; what these put out is not rounded."""
        every, graph = set(sites_of(self.model)), self.graph
        if not self.cut:
            return every
        layers = {_layer(COPY.sub("", weight)) for weight in graph.weights}
        inside = graph.variables.keys() - set(graph.outputs)
        return {
            site for site in every if {site, graph.made.get(layer_of(site))} & (layers | inside)
        }

    def _acting(self, kind: Format, sites: Container[str] | None) -> set[str]:
        """Return which of some sites (None: of all) the files of a format round."""
        wanted = {path for path in self._sites() if sites is None or path in sites}
        if kind == "onnx":
            return wanted
        if kind == "paddle" and self.processors == "any":
            wanted -= {_layer(weight) for weight in slow_without_dot_products(self.graph)}
        layers = wanted & self.layers()
        outputs = {self._tensor(site): site for site in wanted - layers}
        if kind == "lite" or not outputs:  # Lite's converter chooses itself what stays in int8
            return layers
        table = self._table_of(wanted, kind)
        reading = {entry.weight: entry.input.absmax for entry in table.layers}
        grids = {name: grid.absmax for name, grid in table.outputs.items()}
        rounded = rounded_for_all(self._graph(kind), reading, grids)
        return layers | {outputs[name] for name in rounded}

    def _tensor(self, site: str) -> str:
        """Return what a quantizer of outputs rounds.

        Raises:
            ExportError: The graph has no such tensor.
        """
        path = layer_of(site)
        if path not in self.graph.made:
            raise ExportError(f"{path}: its output is rounded, but is not in the graph")
        return self.graph.made[path]

    def _twice(self, kind: Format) -> set[str]:
        """Return the layers whose weights a runtime rounds anew: those that Paddle has in int8."""
        if kind != "paddle":
            return set()
        return {_layer(weight) for weight in computed_in_int8(self._graph(kind))}

    def _unsigned(self, kind: Format) -> set[str]:
        """Return the sites whose activations have grids from zero on in the files of a format."""
        if kind == "paddle":
            graph = self._graph(kind)
            clipped = clipped_tensors(graph)
            sites = self._sites() - self.layers()
            outputs = {site for site in sites if self._tensor(site) in clipped}
            return outputs | {_layer(weight) for weight in unsigned_inputs(graph)}
        zero_on = kind == "onnx" and self.preset.unsigned
        return set(sites_of(self.model)) if zero_on else set()

    def _table(self, kind: Format, sites: Container[str] | None = None) -> ScaleTable:
        """Return the table of a format, of some sites."""
        return self._table_of(self._acting(kind, sites), kind)

    def _table_of(self, wanted: Container[str], kind: Format) -> ScaleTable:
        with self._grids(kind):
            layers, outputs = scales_of(self.model), output_scales_of(self.model)
        return ScaleTable(
            [entry for entry in layers if _layer(entry.weight) in wanted],
            {
                self._tensor(entry.path): entry.grid
                for entry in outputs
                if output_site(entry.path) in wanted
            },
        )

    def _in_order(self, kind: Format) -> list[str]:
        """Return the sites that a format rounds, in the order in which they run."""
        acting = self._acting(kind, None)
        layers = {f"{path}.weight": path for path in quantized_layers(self.model)}
        makers = {self._tensor(path): path for path in acting - set(layers.values())}
        order: dict[str, None] = {}
        for op in self.graph.operators:
            read = [layers.get(name.partition("@")[0]) for name in names_of(op.inputs)]
            made = [makers.get(name) for name in names_of(op.outputs)]
            order |= dict.fromkeys(site for site in (*read, *made) if site is not None)
        return [*order, *sorted(acting - order.keys())]

    def write_some(
        self,
        folder: Path,
        formats: Sequence[Format],
        float_files: Path,
        sites: Container[str] | None,
    ) -> None:
        """Write files in which only some sites are in int8.

        Args:
            folder: There already.
            formats: Of the files.
            float_files: Folder in which `write_float` wrote the graph.
            sites: Paths, see `core.quant.sites`; None for all.
        """
        tables = {kind: self._table(kind, sites) for kind in formats}
        names, processors = self.names, self.processors
        write_int8(self.graph, tables, float_files, folder, names, self.preset, processors)

    def _first_drift(self, backend: Backend, batches: ArrayBatches, decided: Sequence[str]) -> str:
        """Say which layer the runtime rounds otherwise, by halving the layers in question."""
        kind = format_of(backend)
        exact = self._eager(batches, kind, ())
        order = self._in_order(kind)
        good, bad = 0, len(order)
        with scratch() as place:
            float_files = Path(place, "float")
            float_files.mkdir()
            self.write_float(self.graph, float_files, [kind])
            while bad - good > 1:
                count = (good + bad) // 2
                folder = Path(place, str(count))
                folder.mkdir()
                self.write_some(folder, [kind], float_files, order[:count])
                predictor = load_predictor(folder, backend, own=True)
                wanted = self._eager(batches, kind, order[:count])
                found = [parity.run(predictor, batch) for batch in batches]
                passes = all(
                    each.passes for each in compare(backend, wanted, found, exact, decided)
                )
                good, bad = (count, bad) if passes else (good, count)
        site, layer = order[bad - 1], layer_of(order[bad - 1])
        what = layer if site == layer else f"the output of {layer}"
        return (
            f"with the layers before {layer} in int8 it agrees, with {what} it does not; "
            f"name {layer} in never_quantize, or export for another target"
        )


def _layer(weight: str) -> str:
    return weight.rpartition(".")[0]


def write_int8(
    graph: Graph,
    tables: Mapping[Format, ScaleTable],
    float_files: Path,
    folder: Path,
    names: tuple[str, str, str, str],
    preset: Preset,
    processors: Processors,
) -> None:
    """Write a float graph in int8.

    Args:
        graph: Batch norms folded.
        tables: Of scales, for each format to write.
        float_files: Folder with the same graph in float, if ONNX is wanted.
        folder: Where to write.
        names: Of the model files in a folder: program, parameters, ONNX, Paddle Lite.
        preset: What the ONNX file is laid out by.
        processors: On which the files must be right; the tables have the limits for it.

    Raises:
        ExportError: An entry of a table fits no layer, or cannot be stored in int8, or a file
            cannot be made.
    """
    program, params, onnx_file, lite_file = names
    if "paddle" in tables:
        for_paddle, source = tables["paddle"], graph_for(graph, "paddle", processors)
        made = quantize_program(source, for_paddle.layers, outputs=for_paddle.outputs)
        made.write(folder / program, folder / params)
    if "onnx" in tables:
        proto = onnx_format.load(float_files / onnx_file)
        proto = quantize_onnx(proto, tables["onnx"].layers, preset, tables["onnx"].outputs)
        (folder / onnx_file).write_bytes(proto.SerializeToString(deterministic=True))
    if "lite" in tables:
        with scratch() as place:
            content = _for_lite(graph, tables["lite"].layers, Path(place))()
        (folder / lite_file).write_bytes(content)


def _for_lite(graph: Graph, table: Sequence[LayerScales], folder: Path) -> Callable[[], bytes]:
    """Write what the converter reads, and return what makes a `.nb` file of it."""
    files = folder / "int8.pdmodel", folder / "int8.pdiparams"
    quantize_program(graph, table, "lite").write(*files)

    def convert() -> bytes:
        content = lite.convert(*files)
        count = sum(lite.int8_operators(content).values())
        if count == 0:
            raise ExportError("lite: the converter left all layers in float")
        _log.info("lite: %d operators in int8, of %d quantized layers", count, len(table))
        return content

    return convert
