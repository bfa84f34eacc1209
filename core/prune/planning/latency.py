"""Milliseconds of a model as a function of the channels that are kept, and of the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from paddle.nn import Layer
from paddle.static import InputSpec

from core.export.files import write_files
from core.graph.batch_norm_folding import trace_folded
from core.graph.cost import CONVOLUTIONS, TRANSPOSED
from core.network.modes import evaluation_mode
from core.prune.structure.analysis import Analysis, TracedLabels
from core.prune.structure.graph import Operator
from core.prune.structure.labels import Array
from core.runtimes.formats import format_of
from core.runtimes.latency_table import LatencyTable, model_run
from core.runtimes.layer_model import HeightWidth, LayerShape
from core.settings.files import scratch
from core.targets.names import Backend
from core.task import Task


class Latency:
    """Predicts milliseconds from a lookup per layer shape.

    Only convolutions and products with weights are looked up; what lies between them is taken to
    shrink alike, and `scale` makes the prediction for the whole model what was measured.

    Args:
        analysis: Analysis of the model.
        lookup: Latency table of the target runtime.
        measured_ms: Measured time of the whole model.
    """

    def __init__(self, analysis: Analysis, lookup: LatencyTable, measured_ms: float) -> None:
        self.analysis, self._lookup = analysis, lookup
        self._traced = analysis.graphs[-1]
        self.scale = 1.0
        self.correct(analysis.keep_all(), measured_ms)

    def correct(self, keep: Array, measured_ms: float) -> None:
        """Scale predictions to agree with a measurement of the model cut to a mask [labels]."""
        self.scale *= measured_ms / max(self.predict(keep), 1e-9)

    def predict(self, keep: Array) -> float:
        """Return the milliseconds of the model when the channels of a mask [labels] are kept."""
        shapes = []
        for operator in self._traced.graph.operators:
            shape = layer_shape(operator, self._traced, self.analysis, keep)
            if shape is not None:
                shapes.append(shape)
        return self.scale * self._lookup.predict(shapes)


def layer_shape(
    op: Operator, traced: TracedLabels, analysis: Analysis, keep: Array
) -> LayerShape | None:
    """Return the shape of a layer when a mask [labels] is kept; None if it is no layer."""

    def size(name: str) -> list[int]:
        shape = list(traced.graph.shapes[name])
        labelled = analysis.weights.get(name) or traced.activations.get(name, {})
        for axis, labels in labelled.items():
            shape[axis] = int(keep[labels].sum())
        return shape

    if op.type in (*CONVOLUTIONS, *TRANSPOSED):
        x, out, kernel = (size(op.input("Input")), size(op.output("Output")), op.input("Filter"))
        if len(x) != 4 or kernel not in traced.graph.weights:
            return None
        filters = size(kernel)
        transposed = op.type in TRANSPOSED
        return LayerShape(
            kind="conv2d_transpose" if transposed else "conv2d",
            in_channels=x[1],
            out_channels=out[1],
            size=(x[2], x[3]),
            kernel=(filters[2], filters[3]),
            stride=_pair(op, "strides"),
            padding=_padding(op, (x[2], x[3]), (filters[2], filters[3])),
            dilation=_pair(op, "dilations"),
            groups=out[1] // filters[1] if transposed else x[1] // filters[1],
        )
    if op.type == "matmul_v2" and op.input("Y") in traced.graph.weights:
        x, out = size(op.input("X")), size(op.output("Out"))
        return LayerShape("matmul", x[-1], out[-1], (int(np.prod(x[:-1])), 1))
    return None


def _padding(op: Operator, size: HeightWidth, kernel: HeightWidth) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right; `SAME` and `VALID` are worked out from the sizes."""
    algorithm = op.attribute("padding_algorithm")
    if algorithm == "VALID":
        return 0, 0, 0, 0
    given = [int(pad) for pad in op.attribute("paddings")]
    if algorithm != "SAME":
        top, bottom, left, right = given if len(given) == 4 else np.repeat(given, 2).tolist()
        return top, bottom, left, right
    pads = []
    for length, width, stride in zip(size, kernel, _pair(op, "strides")):
        missing = max((-(-length // stride) - 1) * stride + width - length, 0)
        pads += [missing // 2, missing - missing // 2]
    return pads[0], pads[1], pads[2], pads[3]


def _pair(op: Operator, name: str) -> HeightWidth:
    first, second = (int(value) for value in op.attribute(name))
    return first, second


def load_run(
    task: Task, model: Layer, specs: Sequence[InputSpec], backend: Backend, threads: int
) -> Callable[[], object]:
    """Export a model for a moment, and return a function that runs it in a runtime, for one input.

    Raises:
        ExportError: It cannot be exported, or the runtime cannot run it.
    """
    layer = task.deploy_model(model, "raw")
    generator = np.random.default_rng(0)
    with scratch() as place, evaluation_mode(model), evaluation_mode(layer):
        folder = Path(place)
        graph = trace_folded(layer, specs, model)
        inputs = [
            generator.normal(size=spec.shape).astype(graph.dtype(name))
            for spec, name in zip(specs, graph.inputs)
        ]
        write_files(graph, folder, [format_of(backend)])
        return model_run(folder, inputs, backend, threads)
