"""Plan the grids of a model from its graph: folded norms, unsigned grids, rounded outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from paddle.nn import Layer, Sequential

from core.graph.batch_norm_folding import fold_batch_norms, folded_norms
from core.graph.free_batch import trace_graph
from core.graph.linear_layers import layers_of
from core.graph.operators import names_of, only
from core.graph.program import Graph
from core.network.batch_norms import is_batch_norm
from core.network.layers import get
from core.network.modes import evaluation_mode
from core.quant.outputs import output_site
from core.quant.selection import LayerSelection, SelectionSettings, select_with_hints
from core.targets.names import Format, Processors, RoundedOutputs, Target
from core.targets.paddle_inference import rounded_for_all, unsigned_inputs
from core.targets.presets import FASTEST, UNSIGNED_TARGETS
from core.targets.processors import (
    BY_ONEDNN,
    Limit,
    slow_without_dot_products,
    weight_limits,
    with_signed_bytes,
    wrong_with_amx,
)
from core.targets.tensor_copies import CLIPPING, clipped_tensors
from core.task import Task


@dataclass(frozen=True)
class GridPlan:
    """Grids of a model that depend on its graph.

    Attributes:
        norms: Path of the batch norm that is folded into a layer, by the layer's path.
        unsigned: Sites (see `core.quant.sites`) whose activations the target rounds to grids from
            zero on, where they are never negative.
        outputs: Paths of the layers whose outputs are to be rounded, each with the paths of the
            quantized layers that read it.
        limits: Limits on the steps of weights, by path of the layer; other layers have none.
        in_float: Reason, by path, for each layer that int8 does not serve on the target.
    """

    norms: dict[str, str] = field(default_factory=dict)
    unsigned: frozenset[str] = frozenset()
    outputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=dict)
    in_float: dict[str, str] = field(default_factory=dict)


class GridSettings(SelectionSettings, Protocol):
    """Settings that choose the layers to quantize and their grids, with and without training."""

    @property
    def target(self) -> Target: ...

    @property
    def quantize_outputs(self) -> RoundedOutputs | None: ...

    @property
    def processors(self) -> Processors: ...


def choose_layers_and_grids(
    task: Task, model: Layer, config: GridSettings
) -> tuple[LayerSelection, GridPlan, Graph]:
    """Choose the layers of a float model to quantize, and plan the grids that their files need.

    Returns:
        The layers, the grids, and the graph that these were planned from.

    Raises:
        ConfigError: A glob matches nothing, or nothing is left to quantize.
    """
    choice = select_with_hints(task, model, config)
    graph = trace_float(task, model)
    plan = plan_grids(
        graph,
        model,
        config.target,
        choice.layers,
        config.quantize_outputs,
        choice.spared,
        config.processors,
    )
    return choice, plan, graph


def trace_float(task: Task, model: Layer) -> Graph:
    """Trace a float model as its files will have it."""
    with evaluation_mode(model):
        return trace_graph(task.deploy_model(model, "raw"), task.input_spec(), model)


def plan_grids(
    graph: Graph,
    model: Layer,
    target: Target,
    layers: Collection[str] = (),
    outputs: RoundedOutputs | None = "none",
    never: Collection[str] = (),
    processors: Processors = "any",
) -> GridPlan:
    """Plan the grids of a float model for the files of a target.

    Args:
        graph: What `trace_float` returned of the model.
        model: Float model.
        target: Target of the files.
        layers: Paths of the layers that will be quantized.
        outputs: Tensors that get grids beside the inputs of layers. `none`: no others. `residual`:
            operands of residual additions, except the one whose layer is fused with the
            addition, and sums that quantized layers read. `all`: all operands and sums, and all
            outputs of quantized layers. None: what the target is fastest with.
        never: Paths of layers whose outputs stay in float, with all layers inside them.
        processors: Processors on which the files must be right.
    """
    reasons = {} if target == "lite" else wrong_with_amx(graph)
    if target == "paddle" and processors == "any":
        graph = with_signed_bytes(graph)
    if target in BY_ONEDNN and processors == "any":
        reasons |= slow_without_dot_products(graph)
    found = {_layer(weight): why for weight, why in reasons.items()}
    in_float = {path: found[path] for path in layers if path in found}
    layers = [path for path in layers if path not in in_float]
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
        in_float=in_float,
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
    """Return the outputs that Paddle Inference rounds too; folds the norms of the graph."""
    fold_batch_norms(graph)
    shared = {reader: path for path, readers in rounded.items() for reader in readers}
    grids = {f"{path}.weight": shared.get(path, path) for path in layers}
    tensors = {graph.made[path]: path for path in rounded if path in graph.made}
    kept = {tensors[name] for name in rounded_for_all(graph, grids, tensors)}
    return {path: readers for path, readers in rounded.items() if path in kept}


class _Flow:
    """Flow of activations through a graph whose norms are not folded yet."""

    def __init__(self, graph: Graph, layers: frozenset[str]) -> None:
        self._graph = graph
        found = {id(op): (op, source, _layer(weight)) for op, source, weight in layers_of(graph)}
        self._layers = {key: each for key, each in found.items() if each[2] in layers}
        self._readers = graph.consumers()
        self._makers: dict[str, str] = {}  # the innermost layer that makes a tensor
        for path, name in graph.made.items():
            self._makers.setdefault(name, path)

    def places(self, outputs: RoundedOutputs) -> dict[str, tuple[str, ...]]:
        """Return the layers whose outputs are rounded, each with the quantized layers that read it.

        A layer that runs several times reads several tensors and rounds each of them itself.
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
        """Yield operands and sum of each addition of two activations of equal shape."""
        for op in self._graph.operators:
            if op.type == "elementwise_add":
                pair = only(op.inputs, "X"), only(op.inputs, "Y")
                shapes = {self._graph.shape(name) for name in pair}
                if len(shapes) == 1 and not self._is_bias(pair[1]):
                    yield pair, only(op.outputs, "Out")

    def _fused(self, pair: tuple[str, str], ends: Collection[str]) -> str | None:
        """Return the operand whose layer is fused with the addition, before it is rounded.

        Only the addition may read that operand; of two candidates it is the later one.
        """
        alone = [end for end in ends if end in pair and len(self._readers[end]) == 1]
        return alone[-1] if alone else None

    def _ends(self) -> Iterator[str]:
        """Yield the output of each quantized layer, behind all operators fused with it."""
        for op, _, _ in self._layers.values():
            (tensor,) = names_of(op.outputs)
            yield self._behind(tensor)

    def _behind(self, tensor: str) -> str:
        """Return the tensor behind the operators that are fused with the maker of a tensor."""
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
