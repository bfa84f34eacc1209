"""Sites and grids of each file format: where its int8 files round, and to which values.

The model rounds at all of its sites; a file may round at fewer of them, or on other grids: Paddle
Inference takes unsigned grids behind a ReLU, Paddle Lite decides itself which outputs stay in int8.
Writers ask for the scale table of a format, comparisons let the eager model round as that format.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from paddle.nn import Layer

from core.errors import ExportError
from core.graph.batch_norm_folding import COPY
from core.graph.operators import names_of
from core.graph.program import Graph
from core.quant.layers import quantized_layers
from core.quant.outputs import output_site
from core.quant.scales import ScaleTable
from core.quant.sites import float_sites, layer_of, on_grids, output_scales_of, scales_of, sites_of
from core.targets.names import Format, Processors
from core.targets.paddle_inference import computed_in_int8, rounded_for_all, unsigned_inputs
from core.targets.presets import Preset
from core.targets.processors import (
    graph_for,
    largest_of_even,
    slow_without_dot_products,
    weight_limits,
    wrong_with_amx,
)
from core.targets.tensor_copies import clipped_tensors


@dataclass(frozen=True)
class FileGrids:
    """The quantization sites of a model in the files of each format.

    Attributes:
        model: Model with quantized layers, in evaluation mode.
        graph: Float graph to export, with folded batch norms.
        preset: Layout of the ONNX file.
        cut: Whether the graph ends before the end of the model, so that it may lack sites.
    """

    model: Layer
    graph: Graph
    preset: Preset
    cut: bool = False

    @property
    def processors(self) -> Processors:
        """Return the processors on which the files must be right."""
        layers = quantized_layers(self.model).values()
        return next(layer.input_quantizer.rounding.processors for layer in layers)

    def layers(self) -> set[str]:
        """Return the paths of the quantized layers that the graph contains."""
        return self.sites() & set(quantized_layers(self.model))

    def sites(self) -> set[str]:
        """Return the sites that the graph contains; the outputs of a cut graph are not rounded.

        Layers that only training needs, such as auxiliary heads, may be missing in any graph.
        """
        every, graph = set(sites_of(self.model)), self.graph
        layers = {layer_path(COPY.sub("", weight)) for weight in graph.weights}
        if not self.cut:
            absent = set(quantized_layers(self.model)) - layers
            return {site for site in every if layer_of(site) not in absent}
        inside = graph.variables.keys() - set(graph.outputs)
        return {
            site for site in every if {site, graph.made.get(layer_of(site))} & (layers | inside)
        }

    def rounded_sites(self, kind: Format, sites: Container[str] | None = None) -> set[str]:
        """Return those of some sites (None: of all) that the files of a format round."""
        wanted = {path for path in self.sites() if sites is None or path in sites}
        if kind != "lite":
            wanted -= {layer_path(weight) for weight in wrong_with_amx(self.graph)}
        if kind in ("onnx", "openvino"):
            return wanted
        if kind == "paddle" and self.processors == "any":
            wanted -= {layer_path(weight) for weight in slow_without_dot_products(self.graph)}
        layers = wanted & self.layers()
        outputs = {self.tensor_of(site): site for site in wanted - layers}
        if kind == "lite" or not outputs:  # Lite's converter chooses itself what stays in int8
            return layers
        table = self._table_of(wanted, kind)
        reading = {entry.weight: entry.input.absmax for entry in table.layers}
        grids = {name: grid.absmax for name, grid in table.outputs.items()}
        rounded = rounded_for_all(self._graph_for(kind), reading, grids)
        return layers | {outputs[name] for name in rounded}

    def tensor_of(self, site: str) -> str:
        """Return the name of the tensor that an output quantizer rounds.

        Raises:
            ExportError: The graph has no such tensor.
        """
        path = layer_of(site)
        if path not in self.graph.made:
            raise ExportError(f"{path}: its output is rounded, but is not in the graph")
        return self.graph.made[path]

    def requantized_per_channel(self, kind: Format) -> set[str]:
        """Return the layers whose weights the runtime rounds again: those in int8 in Paddle."""
        if kind != "paddle":
            return set()
        return {layer_path(weight) for weight in computed_in_int8(self._graph_for(kind))}

    def scale_table(self, kind: Format, sites: Container[str] | None = None) -> ScaleTable:
        """Return the scales that a format needs for some sites (None: for all)."""
        return self._table_of(self.rounded_sites(kind, sites), kind)

    def in_order(self, kind: Format) -> list[str]:
        """Return the sites that a format rounds, in the order in which the graph runs them."""
        rounded = self.rounded_sites(kind)
        layers = {f"{path}.weight": path for path in quantized_layers(self.model)}
        makers = {self.tensor_of(path): path for path in rounded - set(layers.values())}
        order: dict[str, None] = {}
        for op in self.graph.operators:
            read = [layers.get(name.partition("@")[0]) for name in names_of(op.inputs)]
            made = [makers.get(name) for name in names_of(op.outputs)]
            order |= dict.fromkeys(site for site in (*read, *made) if site is not None)
        return [*order, *sorted(rounded - order.keys())]

    @contextlib.contextmanager
    def rounding_as(
        self,
        kind: Format,
        sites: Container[str] | None = None,
        requantized_per_channel: Container[str] = (),
        as_written: bool = False,
    ) -> Iterator[None]:
        """Let the model round as the file of a format does while the context is open.

        Args:
            kind: Format of the file.
            sites: Sites to round at; None: all.
            requantized_per_channel: Layers whose weights are rounded twice; see `QuantizedLayer`.
            as_written: Round as the operators of the file say, which Paddle Inference does not.
        """
        rounded = self.rounded_sites(kind, sites)
        plain = as_written and kind == "paddle"
        grids = (
            on_grids(self.model, (), limits={})
            if plain
            else self._on_grids_of(kind, requantized_per_channel)
        )
        with grids, float_sites(self.model):
            for path, site in sites_of(self.model).items():
                site.bypassed = path not in rounded
            yield

    def _on_grids_of(
        self, kind: Format, requantized_per_channel: Container[str] = ()
    ) -> AbstractContextManager[None]:
        """Put the sites on the grids that this machine uses for the file of a format."""
        graph = self._graph_for(kind)
        limits = {
            layer_path(weight): limit
            for weight, limit in weight_limits(graph, kind, self.processors).items()
        }
        largest = largest_of_even(self.processors)
        unsigned = self._unsigned_sites(kind)
        return on_grids(self.model, unsigned, requantized_per_channel, limits, largest)

    def _unsigned_sites(self, kind: Format) -> set[str]:
        """Return the sites that have grids from zero on in the files of a format."""
        if kind == "paddle":
            graph = self._graph_for(kind)
            clipped = clipped_tensors(graph)
            sites = self.sites() - self.layers()
            outputs = {site for site in sites if self.tensor_of(site) in clipped}
            return outputs | {layer_path(weight) for weight in unsigned_inputs(graph)}
        zero_on = kind in ("onnx", "openvino") and self.preset.unsigned
        return set(sites_of(self.model)) if zero_on else set()

    def _table_of(self, wanted: Container[str], kind: Format) -> ScaleTable:
        with self._on_grids_of(kind):
            layers, outputs = scales_of(self.model), output_scales_of(self.model)
        return ScaleTable(
            [entry for entry in layers if layer_path(entry.weight) in wanted],
            {
                self.tensor_of(entry.path): entry.grid
                for entry in outputs
                if output_site(entry.path) in wanted
            },
        )

    def _graph_for(self, kind: Format) -> Graph:
        """Return the float graph that the files of a format are made of."""
        return graph_for(self.graph, kind, self.processors)


def layer_path(weight: str) -> str:
    """Return the path of the layer that a weight belongs to."""
    return weight.rpartition(".")[0]
