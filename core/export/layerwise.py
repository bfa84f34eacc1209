"""Compare the layers of an int8 file with those of the eager model, each by itself."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from core.deploy.predictor import Backend, Predictor, load_predictor
from core.errors import ExportError
from core.export import parity
from core.export.graph import Graph
from core.export.isolated import IsolatedLayer
from core.export.isolated_onnx import isolate_onnx
from core.export.isolated_program import isolate_program
from core.export.layer_feeds import EagerLayers

LIMIT = 1e-5
# Paddle Inference loads 300 layers in 9 s, 50 at a time in 2.5; others take as long either way
AT_ONCE = 50


@dataclass(frozen=True)
class LayerDifference:
    """How far a layer of a file is from the eager one, fed with the same.

    Attributes:
        layer: Its path.
        runtime: That ran it.
        relative: Largest difference, relative to the largest eager value.
    """

    layer: str
    runtime: str
    relative: float

    @property
    def passes(self) -> bool:
        """Tell whether it is within the limit; not-a-number is not."""
        return self.relative <= LIMIT

    def __str__(self) -> str:
        return f"{self.layer} differs by {self.relative:.1e} of its largest output"


def compare(
    file: ModelProto | Graph, backends: Sequence[Backend], eager: EagerLayers
) -> list[LayerDifference]:
    """Feed the layers of a file with what the eager model feeds its own.

    Args:
        file: As it was written, of ONNX or of Paddle.
        backends: That read it.
        eager: The layers that it should hold, with their feeds; on the grids of the file.

    Returns:
        Of each runtime and layer the largest difference.

    Raises:
        ExportError: A layer is not in the file in int8, or a runtime cannot run it.
    """
    worst: dict[tuple[str, str], float] = {}
    for layers, place in _isolated(file, eager):
        wanted = [eager.answer(layer) for layer in layers]
        for backend in backends:
            found = _run(load_predictor(place, backend), layers, eager)
            for layer, ours, theirs in zip(layers, wanted, found):
                key = backend, layer.path
                worst[key] = np.fmax(worst.get(key, 0.0), _relative(ours, theirs))
    return [
        LayerDifference(path, backend, worst[backend, path])
        for backend in backends
        for path in eager.layers
    ]


def _isolated(
    file: ModelProto | Graph, eager: EagerLayers
) -> Iterator[tuple[list[IsolatedLayer], Path]]:
    """Write models of isolated layers; yield the layers of each, and the folder it is in."""
    shapes, paths = eager.shapes(), list(eager.layers)
    for start in range(0, len(paths), AT_ONCE):
        some = paths[start : start + AT_ONCE]
        with tempfile.TemporaryDirectory() as place:
            folder, some_shapes = Path(place), {path: shapes[path] for path in some}
            if isinstance(file, Graph):
                program, layers = isolate_program(file, some_shapes)
                program.write(folder / "model.pdmodel", folder / "model.pdiparams")
            else:
                model, layers = isolate_onnx(file, some_shapes)
                (folder / "model.onnx").write_bytes(model.SerializeToString())
            missing = [path for path in some if path not in {layer.path for layer in layers}]
            if missing:
                raise ExportError(f"{missing[0]}: is quantized, but not in int8 in the file")
            yield layers, folder


def _run(
    predictor: Predictor, layers: Sequence[IsolatedLayer], eager: EagerLayers
) -> list[np.ndarray]:
    """Return what a runtime makes of the layers."""
    feeds = {}
    for layer in layers:
        x = eager.fed(layer.path)
        as_map = [1] * (layer.stored.steps.ndim - x.ndim)  # of a vector, for a convolution
        feeds[layer.source] = x.reshape([*x.shape, *as_map])
    made = parity.run(predictor, [feeds[port.name] for port in predictor.description.inputs])
    return [made[layer.output] for layer in layers]


def _relative(wanted: np.ndarray, found: np.ndarray) -> float:
    """Return the largest difference: of the images to their largest value, of the drawn to its."""
    if found.size != wanted.size:
        return float("inf")
    far = np.abs(found.reshape(wanted.shape).astype(np.float64) - wanted)
    return max(
        float(far[part].max()) / (float(np.abs(wanted[part]).max()) or 1.0)
        for part in (slice(None, -1), slice(-1, None))
    )
