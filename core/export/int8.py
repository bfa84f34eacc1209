"""Files of a quantized model: int8 in each format from one table, compared with eager training.

The float graph is traced, and batch norms folded, as for any export; then each format puts the
table of scales into it. What a runtime then answers is compared with the eager model on the same
grids. They agree to 1e-6 until a sum of other order, or a bias that a runtime rounds to
int32, falls to the other side of a rounding; from there on they are two roundings of one network,
and drift apart layer by layer. Two that have nothing in common differ by 1.4 times what rounding
changes at all, which is the distance of the eager model from itself in float. More than that is no
rounding: a scale, weight or layout is wrong, which costs many times as much.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx as onnx_format
from paddle.nn import Layer

from core.config import suggest
from core.deploy.environment import multiplies_int8_exactly
from core.deploy.formats import Backend, Format, find_files, format_of
from core.deploy.predictor import Predictor, load_as_written, load_predictor
from core.errors import ExportError
from core.export import lite, parity
from core.export.graph import Graph, names_of
from core.export.int8_copies import clipped_tensors
from core.export.int8_program import (
    computed_in_int8,
    quantize_program,
    rounded_for_all,
    unsigned_inputs,
)
from core.export.int8_weights import COPY
from core.export.qdq import PRESETS, Preset, quantize_onnx
from core.quant.choices import Processors
from core.quant.layers import quantized_layers
from core.quant.layout import FASTEST
from core.quant.outputs import output_part, rounded_outputs
from core.quant.parts import float_parts, layer_of, on_grids, output_scales_of, parts_of, scales_of
from core.quant.table import LayerScales, Table
from core.targets.overflow import check_files, summary
from core.targets.pair_sums import LARGEST, Verdict
from core.targets.processors import (
    graph_for,
    largest_of_even,
    slow_without_dot_products,
    weight_limits,
)
from core.task import Arrays

# targets that compute in int8 only what writes int8, too
FULL = tuple(target for target, outputs in FASTEST.items() if outputs == "all")
LIMIT = 1.5  # of the effect of rounding: 1.4, and a little for chance
Write = Callable[[Graph, Path, Sequence[Format]], None]
Batches = Sequence[Sequence[np.ndarray]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rounded:
    """A quantized model on its way into files.

    Attributes:
        model: With quantized layers, in evaluation mode.
        layer: What is exported: the model with its ending.
        graph: Of `layer`, in float, batch norms folded.
        target: Of `PRESETS`.
        write_float: Writes the files of a float graph.
        names: Of the model files in a folder: program, parameters, ONNX, Paddle Lite.
        cut: Whether the graph ends in the midst of the model, so that it may lack parts.
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
        if self.target in FULL and "onnx" in formats and not rounded_outputs(self.model):
            _log.warning(
                "onnx: no output has a grid, so %s computes few layers in int8; quantize the model "
                "with target: %s",
                *(self.target, self.target),
            )
        with tempfile.TemporaryDirectory() as place:
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
        predictors: Sequence[Predictor],
        batches: Batches,
        decided: Sequence[str],
    ) -> list[parity.Difference]:
        """Compare each runtime with the eager model on the grids of its file.

        Args:
            predictors: Of the files that `write` made.
            batches: Inputs.
            decided: Outputs behind a decision, see `parity.deciding_outputs`.

        Raises:
            ExportError: A runtime differs by more than `LIMIT` of what rounding changed, or
                misses an output; the message names the first layer whose rounding it is.
        """
        exact = self._eager(batches, "paddle", ())
        wanted: dict[Format, list[Arrays]] = {}
        differences = []
        for predictor in predictors:
            if self.processors == "vnni" and not multiplies_int8_exactly(predictor.backend):
                differences += self._check_as_written(predictor, batches, exact, decided)
                continue
            kind = format_of(predictor.backend)
            if kind not in wanted:
                wanted[kind] = self._eager(batches, kind, None)
            found = [parity.run(predictor, batch) for batch in batches]
            for each in compare(predictor.backend, wanted[kind], found, exact, decided):
                if not each.passes:
                    where = self._first_drift(predictor.backend, batches, decided)
                    raise ExportError(
                        f"{predictor.backend}: output {each.output!r} of the int8 model {each}; "
                        f"{where}"
                    )
                differences.append(each)
        return differences

    def _check_as_written(
        self,
        predictor: Predictor,
        batches: Batches,
        exact: Sequence[Arrays],
        decided: Sequence[str],
    ) -> list[parity.Difference]:
        """Compare what a file for other processors than this one says; report how this one answers.

        Raises:
            ExportError: The file does not say what the eager model computes.
        """
        wanted = self._eager(batches, format_of(predictor.backend), None, as_written=True)
        return compare_as_written(predictor, batches, wanted, exact, decided)

    def answers(self, batches: Batches) -> list[Arrays]:
        """Return what the eager model itself answers."""
        return [parity.run_eager(self.layer, batch) for batch in batches]

    def _eager(
        self,
        batches: Batches,
        kind: Format,
        rounded: Container[str] | None,
        as_written: bool = False,
    ) -> list[Arrays]:
        """Answer with some parts rounded (None: all), as the file of a format is.

        Paddle Inference computes otherwise than the operators of its files are written.
        """
        acting = self._acting(kind, rounded)
        plain = as_written and kind == "paddle"
        grids = on_grids(self.model, (), limits={}) if plain else self._grids(kind)
        with grids, float_parts(self.model):
            for path, part in parts_of(self.model).items():
                part.passing = path not in acting
            return self.answers(batches)

    def _grids(self, kind: Format) -> AbstractContextManager[None]:
        """Let the model round as this machine does with the file of a format."""
        graph = self._graph(kind)
        limits = {
            _layer(weight): limit
            for weight, limit in weight_limits(graph, kind, self.processors).items()
        }
        twice = {_layer(w) for w in computed_in_int8(graph)} if kind == "paddle" else set()
        largest = largest_of_even(self.processors)
        return on_grids(self.model, self._unsigned(kind), twice, limits, largest)

    def layers(self) -> set[str]:
        """Return the quantized layers that are in the files."""
        return self._parts() & set(quantized_layers(self.model))

    def _parts(self) -> set[str]:
        """Return the parts that are in the files; what these put out is not rounded."""
        every, graph = set(parts_of(self.model)), self.graph
        if not self.cut:
            return every
        layers = {_layer(COPY.sub("", weight)) for weight in graph.weights}
        inside = graph.variables.keys() - set(graph.outputs)
        return {
            part for part in every if {part, graph.made.get(layer_of(part))} & (layers | inside)
        }

    def _acting(self, kind: Format, parts: Container[str] | None) -> set[str]:
        """Return which of some parts (None: of all) the files of a format round."""
        wanted = {path for path in self._parts() if parts is None or path in parts}
        if kind == "onnx":
            return wanted
        if kind == "paddle" and self.processors == "any":
            wanted -= {_layer(weight) for weight in slow_without_dot_products(self.graph)}
        layers = wanted & self.layers()
        outputs = {self._tensor(part): part for part in wanted - layers}
        if kind == "lite" or not outputs:  # Lite's converter chooses itself what stays in int8
            return layers
        table = self._table_of(wanted, kind)
        reading = {entry.weight: entry.input.absmax for entry in table.layers}
        grids = {name: grid.absmax for name, grid in table.outputs.items()}
        rounded = rounded_for_all(self._graph(kind), reading, grids)
        return layers | {outputs[name] for name in rounded}

    def _tensor(self, part: str) -> str:
        """Return what a quantizer of outputs rounds.

        Raises:
            ExportError: The graph has no such tensor.
        """
        path = layer_of(part)
        if path not in self.graph.made:
            raise ExportError(f"{path}: its output is rounded, but is not in the graph")
        return self.graph.made[path]

    def _unsigned(self, kind: Format) -> set[str]:
        """Return the parts whose activations have grids from zero on in the files of a format."""
        if kind == "paddle":
            graph = self._graph(kind)
            clipped = clipped_tensors(graph)
            parts = self._parts() - self.layers()
            outputs = {part for part in parts if self._tensor(part) in clipped}
            return outputs | {_layer(weight) for weight in unsigned_inputs(graph)}
        zero_on = kind == "onnx" and self.preset.unsigned
        return set(parts_of(self.model)) if zero_on else set()

    def _table(self, kind: Format, parts: Container[str] | None = None) -> Table:
        """Return the table of a format, of some parts."""
        return self._table_of(self._acting(kind, parts), kind)

    def _table_of(self, wanted: Container[str], kind: Format) -> Table:
        with self._grids(kind):
            layers, outputs = scales_of(self.model), output_scales_of(self.model)
        return Table(
            [entry for entry in layers if _layer(entry.weight) in wanted],
            {
                self._tensor(entry.path): entry.grid
                for entry in outputs
                if output_part(entry.path) in wanted
            },
        )

    def _in_order(self, kind: Format) -> list[str]:
        """Return the parts that a format rounds, in the order in which they run."""
        acting = self._acting(kind, None)
        layers = {f"{path}.weight": path for path in quantized_layers(self.model)}
        makers = {self._tensor(path): path for path in acting - set(layers.values())}
        order: dict[str, None] = {}
        for op in self.graph.operators:
            read = [layers.get(name.partition("@")[0]) for name in names_of(op.inputs)]
            made = [makers.get(name) for name in names_of(op.outputs)]
            order |= dict.fromkeys(part for part in (*read, *made) if part is not None)
        return [*order, *sorted(acting - order.keys())]

    def write_some(
        self,
        folder: Path,
        formats: Sequence[Format],
        float_files: Path,
        parts: Container[str] | None,
    ) -> None:
        """Write files in which only some parts are in int8.

        Args:
            folder: There already.
            formats: Of the files.
            float_files: Folder in which `write_float` wrote the graph.
            parts: Paths, see `core.quant.parts`; None for all.
        """
        tables = {kind: self._table(kind, parts) for kind in formats}
        names, processors = self.names, self.processors
        write_int8(self.graph, tables, float_files, folder, names, self.preset, processors)

    def _first_drift(self, backend: Backend, batches: Batches, decided: Sequence[str]) -> str:
        """Say which layer the runtime rounds otherwise, by halving the layers in question."""
        kind = format_of(backend)
        exact = self._eager(batches, kind, ())
        order = self._in_order(kind)
        good, bad = 0, len(order)
        with tempfile.TemporaryDirectory() as place:
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
        part, layer = order[bad - 1], layer_of(order[bad - 1])
        what = layer if part == layer else f"the output of {layer}"
        return (
            f"with the layers before {layer} in int8 it agrees, with {what} it does not; "
            f"name {layer} in never_quantize, or export for another target"
        )


def _layer(weight: str) -> str:
    return weight.rpartition(".")[0]


def write_int8(
    graph: Graph,
    tables: Mapping[Format, Table],
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
        with tempfile.TemporaryDirectory() as place:
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


def compare(
    backend: Backend,
    wanted: Sequence[Arrays],
    found: Sequence[Arrays],
    exact: Sequence[Arrays],
    decided: Sequence[str],
) -> list[parity.Difference]:
    """Set the distance of a runtime from the rounded model beside that of rounding from float.

    Args:
        backend: Named in what is returned.
        wanted: Outputs of the rounded eager model for each batch.
        found: Those of the runtime.
        exact: Those of the eager model in float.
        decided: Outputs behind a decision, of which equal elements are counted.

    Raises:
        ExportError: An output is missing or of another shape or type.
    """
    differences = []
    for name in wanted[0]:
        parity.check_alike(backend, name, [(w[name], f[name]) for w, f in zip(wanted, found)])
        counted = name in decided or wanted[0][name].dtype.kind != "f"
        measure = _unequal if counted else _distance
        apart = measure([(f[name], w[name]) for f, w in zip(found, wanted)])
        effect = measure([(w[name], e[name]) for w, e in zip(wanted, exact)])
        limit = LIMIT * effect + (1 - parity.AGREEMENT if counted else parity.TOLERANCE)
        differences.append(parity.Difference(backend, name, apart, None, effect, limit))
    return differences


def compare_as_written(
    predictor: Predictor,
    batches: Batches,
    wanted: Sequence[Arrays],
    exact: Sequence[Arrays],
    decided: Sequence[str],
) -> list[parity.Difference]:
    """Compare what a file for other processors than this one says; report how this one answers.

    Args:
        predictor: Of the file.
        batches: Inputs.
        wanted: Outputs of the rounded model for each batch, computed as the file is written.
        exact: Those of the model in float.
        decided: Outputs behind a decision, of which equal elements are counted.

    Raises:
        ExportError: The file does not say what the model computes.
    """
    backend = predictor.backend
    written = load_as_written(predictor.folder, format_of(backend))
    said = [parity.run(written, batch) for batch in batches]
    for each in compare(backend, wanted, said, exact, decided):
        if not each.passes:
            raise ExportError(
                f"{backend}: output {each.output!r} of the int8 model, computed as it is written, "
                f"{each}"
            )
    found = [parity.run(predictor, batch) for batch in batches]
    reported = [
        replace(each, limit=math.inf) for each in compare(backend, said, found, exact, decided)
    ]
    _log.warning(
        "%s: this processor has no VNNI, which processors: vnni asks for: its answers are %s from "
        "what the file says; quantize with processors: any for files that are right here",
        *(backend, ", ".join(f"{each.relative:.1e} ({each.output})" for each in reported)),
    )
    return reported


def _distance(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the root of the mean square of differences, relative to that of the values."""
    apart = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in pairs)
    whole = sum(float((b.astype(np.float64) ** 2).sum()) for _, b in pairs)
    distance = float((apart / max(whole, 1e-300)) ** 0.5)
    return distance if np.isfinite(distance) else float("inf")


def _unequal(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the share of elements that are not equal (floats: within the tolerance)."""
    count = sum(a.size for a, _ in pairs)
    unequal = 0
    for a, b in pairs:
        limit = parity.TOLERANCE * float(np.abs(b).max(initial=0)) if b.dtype.kind == "f" else 0
        unequal += int((~(np.abs(a.astype(np.float64) - b) <= limit)).sum())
    return unequal / max(count, 1)
