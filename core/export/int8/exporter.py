"""Write a quantized model as int8 files: one float graph, and for each format a table of scales.

The float graph is traced, and batch norms folded, as for any export; then each format puts its
table of scales into the graph. `core.export.int8.file_comparison` compares the written files with
the eager model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle.nn import Layer

from core.errors import ExportError
from core.export import lite
from core.export.files import write_files
from core.export.int8.file_grids import FileGrids
from core.export.int8.int8_files import check_overflow, lite_converter, write_int8
from core.export.onnx.convert import OPSET
from core.graph.program import Graph
from core.quant.outputs import rounded_outputs
from core.settings.config import suggest
from core.settings.files import scratch
from core.targets.names import Format, Processors
from core.targets.presets import FULL_INT8, PRESETS

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Int8Exporter:
    """Writer of the int8 files of a quantized model.

    Attributes:
        model: Model with quantized layers, in evaluation mode.
        layer: Layer to export: the model with its ending.
        graph: Float graph of `layer` with folded batch norms.
        target: Runtime that the ONNX file is laid out for, of `PRESETS`.
        cut: Whether the graph ends before the end of the model, so that it may lack sites.
        opset: ONNX opset.
    """

    model: Layer
    layer: Layer
    graph: Graph
    target: str
    cut: bool = False
    opset: int = OPSET

    def __post_init__(self) -> None:
        if self.target not in PRESETS:
            raise ExportError(
                f"target: no preset {self.target!r}{suggest(self.target, list(PRESETS))}"
            )

    @property
    def grids(self) -> FileGrids:
        """Return which sites the files of each format round, and on which grids."""
        return FileGrids(self.model, self.graph, PRESETS[self.target], self.cut)

    @property
    def processors(self) -> Processors:
        """Return the processors on which the files must be right."""
        return self.grids.processors

    def write(self, folder: Path, formats: Sequence[Format]) -> dict[str, int]:
        """Write the int8 files, and check that no processor overflows on them.

        Args:
            folder: Existing folder to write to.
            formats: Formats to write.

        Returns:
            For each file the bytes that it would have in float.

        Raises:
            ExportError: A file cannot be made, or a processor would compute other numbers.
        """
        if self.target in FULL_INT8 and "onnx" in formats and not rounded_outputs(self.model):
            _log.warning(
                "onnx: no output has a grid, so %s computes few layers in int8; quantize the model "
                "with target: %s",
                *(self.target, self.target),
            )
        with scratch() as place:
            self.write_float(place, formats)
            self.write_some(folder, formats, place)
            float_bytes = {each.name: each.stat().st_size for each in sorted(place.iterdir())}
        check_overflow(folder, formats, self.processors)
        return float_bytes

    def write_float(self, folder: Path, formats: Sequence[Format]) -> None:
        """Write the graph in float, as `write_some` needs it."""
        write_files(self.graph, folder, formats, self.opset)

    def write_some(
        self,
        folder: Path,
        formats: Sequence[Format],
        float_files: Path,
        sites: Container[str] | None = None,
    ) -> None:
        """Write files in which only some sites are in int8.

        Args:
            folder: Existing folder to write to.
            formats: Formats to write.
            float_files: Folder in which `write_float` wrote the same formats.
            sites: Paths, see `core.quant.sites`; None for all.
        """
        grids = self.grids
        tables = {kind: grids.scale_table(kind, sites) for kind in formats}
        write_int8(self.graph, tables, float_files, folder, grids.preset, grids.processors)

    def for_lite(self, folder: Path) -> Callable[[], tuple[bytes, int]]:
        """Return a function that makes Paddle Lite's file and tells the bytes it has in float.

        The function runs the converter twice, and needs nothing but the files written here.

        Args:
            folder: Existing folder for the files that the converter reads.

        Raises:
            ExportError: An entry of the table fits no layer. The returned function raises it where
                the converter fails or leaves all layers in float.
        """
        whole = folder / "float.pdmodel", folder / "float.pdiparams"
        self.graph.write(*whole)
        convert = lite_converter(self.graph, self.grids.scale_table("lite").layers, folder)
        return lambda: (convert(), len(lite.convert(*whole)))
