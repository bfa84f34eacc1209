"""Cut a model to a plan, whatever its code holds that no graph shows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ConfigError, ExportError
from core.network.layers import match
from core.prune.cut import ChannelEdit, Undo, apply_edit, check_cut, plan_edit
from core.prune.structure.analysis import Analysis, Pins, analyze_graphs, upwards
from core.prune.structure.graph import trace_modes
from core.prune.structure.labels import Array
from core.task import Task

# operators whose sizes the network's code gives
SIZED = ("reshape2", "expand_v2", "tile", "slice", "strided_slice", "split", "pad", "pad3d")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """A cut that was made: the model before, what was kept, and the way back."""

    analysis: Analysis
    keep: Array
    edit: ChannelEdit
    undo: Undo = field(repr=False)

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates before and after."""
        cost = self.analysis.cost
        return cost.macs(self.analysis.keep_all()), cost.macs(self.keep)

    @property
    def parameters(self) -> tuple[int, int]:
        """Numbers of parameters before and after."""
        cost = self.analysis.cost
        return cost.parameters(self.analysis.keep_all()), cost.parameters(self.keep)


class Pruner:
    """A model, traced once, that can be cut.

    Args:
        model: Traced in both modes.
        specs: Its inputs, without free dimensions.
        never_prune: Layers that keep their output channels, each with the reason.
    """

    def __init__(
        self, model: Layer, specs: Sequence[InputSpec], never_prune: Mapping[str, str] = {}
    ) -> None:
        self._model, self._specs = model, list(specs)
        self._graphs = trace_modes(model, specs)
        self._pins = Pins(layers=dict(never_prune))
        self.analysis = analyze_graphs(model, self._graphs, self._pins)

    def cut(self, plan: Callable[[Analysis], Array]) -> Cut:
        """Cut the model to what a plan keeps.

        The cut model is traced again. Where its code turns out to hold fixed numbers of channels,
        the cut is undone, those channels are pinned and the plan is asked anew. If it holds them
        still, it computes them from other channels of the same code, or from its input
        (`x.shape[-1] // heads`), which are pinned then.

        Args:
            plan: Turns an analysis into the mask [labels] of channels to keep.

        Raises:
            ExportError: The cut model cannot be run for reasons that pinning does not mend.
        """
        while True:
            keep = plan(self.analysis)
            edit = plan_edit(self._model, self.analysis, keep)
            undo = apply_edit(self._model, edit)
            try:
                found = check_cut(self._model, self._specs, self.analysis, keep)
            except BaseException:
                undo()
                raise
            if not found:
                return Cut(self.analysis, keep, edit, undo)
            undo()
            self._pin(found)

    def probe(self) -> None:
        """Find fixed numbers in the model's code by cutting a channel of every group for a moment.

        Raises:
            ExportError: As `cut`.
        """

        def one_of_each(analysis: Analysis) -> Array:
            keep = analysis.keep_all()
            for group in analysis.groups:
                held = {int(part[0]) for part in group.keep_one if len(part) == 1}
                free = [unit for unit in range(len(group)) if unit not in held]
                if len(group) > 1 and free:
                    keep[group.units[free[len(free) // 2]]] = False
            return keep

        self.cut(one_of_each).undo()

    def _pin(self, found: Mapping[tuple[bool, int], str]) -> None:
        operators = set(found) - self._pins.operators
        inputs: set[str] = set()
        what = next(iter(found.values()))
        for place in found if not operators else ():
            operators |= self._of_same_code(place, SIZED)
            layer = None if operators else self._reader_of_width(place)
            inputs |= set() if layer is None else {layer, *self._twins(layer)}
        if not operators and not inputs:
            operators = {other for place in found for other in self._of_same_code(place)}
        if not operators and not inputs:
            raise ExportError(f"{what}; pinning its channels did not help")
        if inputs:
            told = ", ".join(sorted(inputs)[:3])
            _log.info("%s: the channels of the input stay, code computes with them", told)
        else:
            _log.info("channels stay where code holds their number: %s", what)
        alike = {
            (training, other)
            for training, index in operators
            for other in self._same_code(training, index)
        }
        self._pins = replace(
            self._pins,
            operators=self._pins.operators | operators | alike,
            inputs=self._pins.inputs | inputs,
        )
        self.analysis = analyze_graphs(self._model, self._graphs, self._pins)

    def _of_same_code(
        self, place: tuple[bool, int], kinds: Collection[str] = ()
    ) -> set[tuple[bool, int]]:
        """Return what else the layer of an operator runs itself, of some kinds or of all.

        Its code may give one operator a number that it read off the operand of another.
        """
        training, index = place
        operators = self._graphs[training].operators
        own = operators[index].layer
        found = {
            (training, op.index)
            for op in operators
            if op.layer == own and (not kinds or op.type in kinds)
        }
        return found - self._pins.operators

    def _twins(self, path: str) -> list[str]:
        """Return the other layers of a network's own class that run the same operators."""
        layers = dict(self._model.named_sublayers(include_self=True))
        kind = type(layers.get(path))
        if path not in layers or kind.__module__.startswith("paddle.nn"):
            return []
        own = self._operators_of(path)
        return [
            other
            for other, layer in layers.items()
            if other != path and type(layer) is kind and self._operators_of(other) == own
        ]

    def _operators_of(self, path: str) -> dict[bool, list[str]]:
        return {
            training: [op.type for op in graph.operators if op.layer == path]
            for training, graph in self._graphs.items()
        }

    def _same_code(self, training: bool, index: int) -> list[int]:
        """Return the operators that twins of an operator's layer run in its place."""
        operators = self._graphs[training].operators
        path = operators[index].layer
        place = [op.index for op in operators if op.layer == path].index(index)
        return [
            [op.index for op in operators if op.layer == other][place]
            for other in self._twins(path)
        ]

    def _reader_of_width(self, place: tuple[bool, int]) -> str | None:
        """Return the innermost layer around an operator whose input may still be cut."""
        training, index = place
        path = self._graphs[training].operators[index].layer
        return next((each for each in upwards(path) if each not in self._pins.inputs), None)


def build_pruner(task: Task, model: Layer, never_prune: Sequence[str] = ()) -> Pruner:
    """Trace a task's model at the size of its validation images.

    Args:
        task: Tells the inputs and, in its hints, which layers must not be pruned.
        model: Its model.
        never_prune: Globs of further layers; one that is named protects all layers in it.

    Raises:
        ConfigError: A glob matches nothing, or nothing that makes channels.
        ExportError: The model cannot be traced.
    """
    names = [path for path, _ in model.named_sublayers()]
    reasons = {}
    hinted = task.slim_hints(model).never_prune
    if hinted:
        for path in match(hinted, names, "slim_hints.never_prune"):
            reasons[path] = "the task needs its channels"
    if never_prune:
        for path in match(never_prune, names, "never_prune"):
            reasons[path] = "never_prune"
    pruner = Pruner(model, fixed_specs(task), reasons)
    for glob in never_prune:
        inside = [f"{path}." for path in match([glob], names, "never_prune")]
        if not any(f"{maker}.".startswith(tuple(inside)) for maker in pruner.analysis.makers):
            raise ConfigError(
                f"never_prune: {glob!r} names no layer that makes channels, nor one around such"
            )
    return pruner


def fixed_specs(task: Task) -> list[InputSpec]:
    """Return the task's inputs for one image; a size that is free is that of the first image."""
    specs = task.input_spec()
    if all(size is not None and size > 0 for spec in specs for size in spec.shape[1:]):
        return [InputSpec([1, *spec.shape[1:]], spec.dtype, spec.name) for spec in specs]
    sample = task.build_dataset("val").sample(0, np.random.default_rng(0))
    missing = [spec.name for spec in specs if spec.name not in sample]
    if missing:
        raise ConfigError(f"{missing[0]}: the data set has no such input")
    return [InputSpec([1, *sample[s.name].shape], s.dtype, s.name) for s in specs]
