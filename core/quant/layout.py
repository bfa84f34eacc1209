"""What files make of each layer: which norm they fold into it, which grid its inputs get."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from paddle.nn import Layer

from core.export.fold import folded_norms
from core.export.graph import Graph
from core.export.int8_program import unsigned_inputs
from core.norms import is_batch_norm
from core.task import Task
from core.trace import evaluation_mode, trace

Target = Literal["paddle", "lite", "tensorrt", "onnxruntime", "openvino"]
# whose int8 kernels want everything that is never negative on grids from zero on
UNSIGNED = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Layout:
    """Two things that only the graph of a model tells.

    Attributes:
        norms: Path of the batch norm that is folded into a layer, by the layer's path.
        unsigned: Paths of the layers whose inputs the target rounds to grids from zero on, where
            they are never negative.
    """

    norms: dict[str, str] = field(default_factory=dict)
    unsigned: frozenset[str] = frozenset()


def layout_of(task: Task, model: Layer, target: Target) -> Layout:
    """Trace a float model and look at it as the files of a target will be."""
    with evaluation_mode(model):
        graph = Graph.from_trace(trace(task.deploy_model(model, "raw"), task.input_spec(), model))
    unsigned = unsigned_inputs(graph) if target == "paddle" else set()
    if target in UNSIGNED:
        unsigned = {path + ".weight" for path, _ in model.named_sublayers()}
    norms = {path for path, layer in model.named_sublayers() if is_batch_norm(layer)}
    pairs = {_layer(w): _layer(n) for w, n in folded_norms(graph).items()}
    return Layout(
        norms={layer: norm for layer, norm in pairs.items() if norm in norms},
        unsigned=frozenset(_layer(weight) for weight in unsigned),
    )


def _layer(weight: str) -> str:
    return weight.rpartition(".")[0]
