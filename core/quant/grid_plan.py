"""What files make of a model: folded norms, grids from zero on, tensors that stay in int8."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from paddle.nn import Layer, Sequential

from core.graph.batch_norm_folding import fold_batch_norms, folded_norms
from core.graph.linear_layers import layers_of
from core.graph.operators import names_of, only
from core.graph.program import Graph
from core.graph.trace import trace
from core.network.batch_norms import is_batch_norm
from core.network.layers import get
from core.network.modes import evaluation_mode
from core.quant.outputs import output_site
from core.targets.names import Format, Processors, RoundedOutputs, Target
from core.targets.paddle_inference import rounded_for_all, unsigned_inputs
from core.targets.presets import FASTEST, UNSIGNED_TARGETS
from core.targets.processors import (
    Limit,
    slow_without_dot_products,
    weight_limits,
    with_signed_bytes,
)
from core.targets.tensor_copies import CLIPPING, clipped_tensors
from core.task import Task


@dataclass(frozen=True)
class GridPlan:
    """What only the graph of a model tells.

    Attributes:
        norms: Path of the batch norm that is folded into a layer, by the layer's path.
        unsigned: Sites (see `core.quant.sites`) whose activations the target rounds to grids from
            zero on, where they are never negative.
        outputs: Paths of the layers whose outputs are to be rounded, each with the paths of the
            quantized layers that read it.
        limits: Limits of the steps of weights, by the layer's path; the others have none.
        slow: Reason by path of the layers that are better left in float.
    """

    norms: dict[str, str] = field(default_factory=dict)
    unsigned: frozenset[str] = frozenset()
    outputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=dict)
    slow: dict[str, str] = field(default_factory=dict)


def plan_grids(
    task: Task,
    model: Layer,
    target: Target,
    layers: Collection[str] = (),
    outputs: RoundedOutputs | None = "none",
    never: Collection[str] = (),
    processors: Processors = "any",
) -> GridPlan:
    """Trace a float model and look at it as the files of a target will be.

    Args:
        task: Whose model it is.
        model: In float.
        target: Of the files.
        layers: Paths of the layers that will be quantized.
        outputs: Which tensors beside their inputs get grids: none; what residual additions read,
            but for the layer that is computed with the addition, and what they make for quantized
            layers; or all that they read and make, and all that quantized layers put out. None:
            what the target is fastest with.
        never: Paths; what these layers, and those in them, put out stays in float.
        processors: On which the files must be right.
    """
    with evaluation_mode(model):
        graph = Graph.from_trace(trace(task.deploy_model(model, "raw"), task.input_spec(), model))
    slow: dict[str, str] = {}
    if target == "paddle" and processors == "any":
        graph = with_signed_bytes(graph)
        found = {_layer(weight): why for weight, why in slow_without_dot_products(graph).items()}
        slow = {path: found[path] for path in layers if path in found}
        layers = [path for path in layers if path not in slow]
    norms = {path for path, layer in model.named_sublayers() if is_batch_norm(layer)}
    pairs = {_layer(w): _layer(n) for w, n in folded_norms(graph).items()}
    outputs = FASTEST[target] if outputs is None else outputs
    rounded = _rounded_outputs(graph, model, layers, outputs, never)
    if target == "paddle":
        rounded = _that_paddle_rounds(graph, layers, rounded)
    limits = weight_limits(graph, format_for(target), processors)
    return GridPlan(
        norms={layer: norm for layer, norm in pairs.items() if norm in norms},
        unsigned=frozenset(_unsigned_sites(graph, model, target, rounded)),
        outputs=rounded,
        limits={_layer(weight): limit for weight, limit in limits.items()},
        slow=slow,
    )


def _rounded_outputs(
    graph: Graph,
    model: Layer,
    layers: Collection[str],
    outputs: RoundedOutputs,
    never: Collection[str],
) -> dict[str, tuple[str, ...]]:
    """Return the layers whose outputs are rounded, each with the quantized layers that read it."""
    if outputs == "none":
        return {}
    return {
        path: readers
        for path, readers in _Flow(graph, frozenset(layers)).places(outputs).items()
        if not isinstance(get(model, path), Sequential)  # runs whatever is in it
        and not any(path == each or path.startswith(f"{each}.") for each in never)
    }


def _unsigned_sites(
    graph: Graph, model: Layer, target: Target, rounded: Collection[str]
) -> set[str]:
    """Return the sites that get grids from zero on where their activations are never negative."""
    if target in UNSIGNED_TARGETS:
        return {
            *(path for path, _ in model.named_sublayers()),
            *(output_site(path) for path in rounded),
        }
    if target != "paddle":
        return set()
    clipped = clipped_tensors(graph)
    return {
        *(_layer(weight) for weight in unsigned_inputs(graph)),
        *(output_site(path) for path in rounded if graph.made[path] in clipped),
    }


def format_for(target: Target) -> Format:
    """Return the format of the files that a target reads."""
    if target in ("paddle", "lite"):
        return target
    return "onnx"


def _that_paddle_rounds(
    graph: Graph, layers: Collection[str], rounded: dict[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Leave those of the outputs that Paddle Inference rounds; norms are folded in the graph."""
    fold_batch_norms(graph)
    shared = {reader: path for path, readers in rounded.items() for reader in readers}
    grids = {f"{path}.weight": shared.get(path, path) for path in layers}
    tensors = {graph.made[path]: path for path in rounded if path in graph.made}
    kept = {tensors[name] for name in rounded_for_all(graph, grids, tensors)}
    return {path: readers for path, readers in rounded.items() if path in kept}


class _Flow:
    """Where activations go in a graph whose norms are not folded yet."""

    def __init__(self, graph: Graph, layers: frozenset[str]) -> None:
        self._graph = graph
        found = {id(op): (op, source, _layer(weight)) for op, source, weight in layers_of(graph)}
        self._layers = {key: each for key, each in found.items() if each[2] in layers}
        self._readers = graph.consumers()
        self._makers: dict[str, str] = {}  # the innermost layer that makes a tensor
        for path, name in graph.made.items():
            self._makers.setdefault(name, path)

    def places(self, outputs: RoundedOutputs) -> dict[str, tuple[str, ...]]:
        """Return the layers whose outputs are to be rounded, and who reads them.

        A layer that runs several times reads other tensors, too, and rounds all of them itself.
        """
        additions = {out: pair for pair, out in self._additions()}
        ends = dict.fromkeys(self._ends())  # in the order in which they are made
        tensors = dict(ends) if outputs == "all" else {}
        for out, pair in additions.items():
            fused = None if outputs == "all" else self._fused(pair, ends)
            tensors |= {name: None for name in pair if name != fused}
            sums = self._behind(out)
            if any(id(op) in self._layers for op in self._readers.get(sums, [])):
                tensors |= {sums: None}
        outside = {*self._graph.inputs, *self._graph.outputs}
        runs = Counter(path for _, _, path in self._layers.values())
        places = {}
        for tensor in tensors:
            readers = self._readers.get(tensor, [])
            reading = [self._layers[id(op)] for op in readers if id(op) in self._layers]
            alone = len(reading) == len(readers) and all(s == tensor for _, s, _ in reading)
            if tensor in self._makers and tensor not in outside and not alone:
                once = dict.fromkeys(path for _, _, path in reading if runs[path] == 1)
                places[self._makers[tensor]] = tuple(once)
        return places

    def _additions(self) -> Iterator[tuple[tuple[str, str], str]]:
        """Return what additions of two activations of one shape read and make."""
        for op in self._graph.operators:
            if op.type == "elementwise_add":
                pair = only(op.inputs, "X"), only(op.inputs, "Y")
                shapes = {self._graph.shape(name) for name in pair}
                if len(shapes) == 1 and not self._is_bias(pair[1]):
                    yield pair, only(op.outputs, "Out")

    def _fused(self, pair: tuple[str, str], ends: Collection[str]) -> str | None:
        """Return the operand whose layer the addition is computed with, before that rounds.

        That is what no one else reads; of two, what is made last.
        """
        alone = [end for end in ends if end in pair and len(self._readers[end]) == 1]
        return alone[-1] if alone else None

    def _ends(self) -> Iterator[str]:
        """Return what the quantized layers put out, behind all that is computed with them."""
        for op, _, _ in self._layers.values():
            (tensor,) = names_of(op.outputs)
            yield self._behind(tensor)

    def _behind(self, tensor: str) -> str:
        """Return what a tensor becomes in what is computed together with its maker."""
        while True:
            readers = self._readers.get(tensor, [])
            kind = readers[0].type if len(readers) == 1 else ""
            added = kind == "elementwise_add" and self._is_bias(only(readers[0].inputs, "Y"))
            if added or kind in CLIPPING:
                tensor = only(readers[0].outputs, "Out")
            elif kind == "batch_norm":
                tensor = only(readers[0].outputs, "Y")
            else:
                return tensor
            if kind in CLIPPING:
                return tensor

    def _is_bias(self, name: str) -> bool:
        made = next((op for op in self._graph.operators if name in names_of(op.outputs)), None)
        if made is not None and made.type == "reshape2":
            name = only(made.inputs, "X")
        return name in self._graph.weights


def _layer(weight: str) -> str:
    return weight.rpartition(".")[0]
