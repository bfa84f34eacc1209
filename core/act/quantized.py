"""A model that PaddleSlim has quantized, and what the files of each format make of it.

All of PaddleSlim's grids have a sign and as many steps as there are. Files may have activations on
grids from zero on, and weights on grids that no processor overflows on; runtimes round some weights
once more, and layers may stay in float.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from core.act.programs import Grids
from core.act.session import Session
from core.act.source import Source
from core.export.int8.paddle_writer import channel_axis
from core.graph.batch_norm_folding import COPY
from core.graph.program import Graph
from core.quant.scales import LayerScales, ScaleTable
from core.quant.weight_grid import broadcast, quantize_weight
from core.targets.names import Format, Processors
from core.targets.paddle_inference import computed_in_int8, unsigned_inputs
from core.targets.presets import Preset
from core.targets.processors import (
    HIGHEST,
    graph_for,
    largest_of_even,
    slow_without_dot_products,
    weight_limits,
    wrong_with_amx,
)


@dataclass(frozen=True)
class QuantizedProgram:
    """A quantized model.

    Attributes:
        source: The float model that it was made of.
        graph: Float graph with the current weights.
        table: Its grids.
        session: Session of PaddleSlim's model on these grids.
        processors: Processors on which the files must be right.
    """

    source: Source
    graph: Graph
    table: list[LayerScales]
    session: Session
    processors: Processors

    def table_for(self, kind: Format) -> ScaleTable:
        """Return the layers that are in int8 in the files of a format, with their limits."""
        limits = weight_limits(self.graph, kind, self.processors)
        return ScaleTable(
            [
                replace(entry, limit=limits.get(COPY.sub("", entry.weight), "none"))
                for entry in self.table
                if COPY.sub("", entry.weight) not in self.float_in(kind)
            ]
        )

    def float_in(self, kind: Format) -> dict[str, str]:
        """Return the weights of the layers that stay in float in a format, each with the reason."""
        reasons = {} if kind == "lite" else wrong_with_amx(self.graph)
        if kind == "paddle" and self.processors == "any":
            reasons |= slow_without_dot_products(self.graph)
        quantized = {COPY.sub("", entry.weight) for entry in self.table}
        return {weight: reason for weight, reason in reasons.items() if weight in quantized}

    def grids_for(self, kind: Format, preset: Preset, as_written: bool = False) -> Grids:
        """Return the grids on which PaddleSlim's model computes as a file of a format.

        Args:
            kind: Format.
            preset: Preset that ONNX files are laid out by.
            as_written: As the operators of the file say, where Paddle Inference does otherwise.
        """
        if as_written and kind == "paddle":
            assert self.processors == "vnni"  # others say how they are computed
            return Grids()
        kept = self.float_in(kind)
        floats = [entry.weight for entry in self.table if COPY.sub("", entry.weight) in kept]
        return Grids(
            frozenset(self._unsigned(kind, preset)),
            self._weights(kind),
            {weight: self.graph.weights[weight] for weight in floats},
        )

    def _unsigned(self, kind: Format, preset: Preset) -> set[str]:
        """Return the tensors that have grids from zero on in the files of a format."""
        signed = {entry.weight: entry.input.signed for entry in self.table}
        if kind == "paddle":
            unsigned = unsigned_inputs(graph_for(self.graph, kind, self.processors))
            signed = dict.fromkeys(signed, True) | dict.fromkeys(unsigned, False)
        elif not preset.unsigned:
            return set()
        return {place.tensor for place in self.session.places if not signed[place.weight]}

    def _weights(self, kind: Format) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return the weights that are on other grids than PaddleSlim's in the files of a format."""
        rounded_again = computed_in_int8(self.graph) if kind == "paddle" else {}
        axes = {place.weight: channel_axis(place.op) for place in self.session.places}
        found = {}
        for entry in self.table_for(kind).layers:
            again = not entry.per_channel and COPY.sub("", entry.weight) in rounded_again
            if entry.limit != "none" or again:
                found[entry.weight] = self._on_grid(entry, axes[entry.weight], again)
        return found

    def _on_grid(
        self, entry: LayerScales, axis: int | None, again: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps of a weight, and the value of step 127.

        Args:
            entry: Table entry of the weight.
            axis: Axis of its output channels.
            again: Whether Paddle Inference rounds it channel by channel once more.
        """
        weight, limit = self.graph.weights[entry.weight], entry.limit
        steps, absmax = quantize_weight(weight, axis, limit, entry.per_channel)
        if limit == "even":
            steps = steps.astype(np.int16)  # 128 is no int8
            ends = np.abs(steps) == HIGHEST
            steps = np.where(ends, np.sign(steps) * largest_of_even(self.processors), steps)
        elif again:
            steps, absmax = quantize_weight(steps * (absmax / np.float32(HIGHEST)), axis)
        return steps.astype(np.int16), broadcast(absmax, weight.ndim, axis)
