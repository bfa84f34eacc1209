"""Choose the layers to quantize, and say why the others stay in float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from paddle import nn
from paddle.nn import Layer

from core.errors import ConfigError
from core.network.layers import match
from core.quant.layers import why_not
from core.quant.quantizers import Rounding
from core.targets.names import Target
from core.task import Task

CANDIDATES = (nn.Conv2D, nn.Conv2DTranspose, nn.Linear)
SHOWN = 6  # layers that the log names for each reason


class SelectionSettings(Protocol):
    """Settings that choose the layers to quantize, with and without training."""

    @property
    def rounding(self) -> Rounding: ...

    @property
    def quantizable_layer_type(self) -> Sequence[str]: ...

    @property
    def never_quantize(self) -> Sequence[str]: ...

    @property
    def target(self) -> Target: ...


@dataclass(frozen=True)
class LayerSelection:
    """The layers to quantize, and the reasons why the others are not.

    Attributes:
        layers: Paths, in the model's order.
        left: Reason by path of the layers that stay in float.
        spared: Paths that are to stay in float, with all in them.
        outputs: Paths of the layers whose outputs are rounded.
    """

    layers: tuple[str, ...]
    left: dict[str, str]
    spared: frozenset[str] = frozenset()
    outputs: tuple[str, ...] = ()


def select_layers(
    model: Layer,
    rounding: Rounding,
    kinds: Sequence[str],
    never: Sequence[str],
    key: str = "never_quantize",
) -> LayerSelection:
    """Choose among convolutions and linear layers.

    Args:
        model: The float model.
        rounding: How the layers would be rounded.
        kinds: Names of the classes to quantize.
        never: Globs on paths of layers that stay in float; one on a block spares all in it.
        key: The setting the globs come from, for messages.

    Raises:
        ConfigError: A glob matches nothing, or nothing is left to quantize.
    """
    paths = [path for path, _ in model.named_sublayers()]
    spared = set(match(never, paths, key)) if never else set()
    chosen, left = [], {}
    for path, layer in model.named_sublayers():
        if not isinstance(layer, CANDIDATES):
            continue
        parents = {path[:end] for end in range(len(path)) if path[end] == "."} | {path}
        reason = None
        if spared & parents:
            reason = key
        elif type(layer).__name__ not in kinds and type(layer) in CANDIDATES:
            reason = f"quantizable_layer_type has no {type(layer).__name__}"
        else:
            reason = why_not(layer, rounding)
        if reason is None:
            chosen.append(path)
        else:
            left[path] = reason
    if not chosen:
        raise ConfigError(f"{key}: no layer is left to quantize: {_some(left)}")
    return LayerSelection(tuple(chosen), left, frozenset(spared))


def select_with_hints(task: Task, model: Layer, config: SelectionSettings) -> LayerSelection:
    """Choose as `select_layers` does, and leave in float what the task hints at too.

    Raises:
        ConfigError: A glob matches nothing, or nothing is left to quantize.
    """
    rounding, kinds = config.rounding, config.quantizable_layer_type
    own = select_layers(model, rounding, kinds, config.never_quantize)
    hinted = task.slim_hints(model)
    hints = (*hinted.never_quantize, *hinted.never_quantize_for.get(config.target, ()))
    if not hints:
        return own
    spared = select_layers(model, rounding, kinds, hints, "never_quantize (task)")
    both = tuple(path for path in own.layers if path in spared.layers)
    left = spared.left | own.left
    if not both:
        raise ConfigError(f"never_quantize: no layer is left to quantize: {_some(left)}")
    return LayerSelection(both, left, own.spared | spared.spared)


def summary(choice: LayerSelection) -> list[str]:
    """Return lines for the log: how many layers are quantized, and why the others are not."""
    outputs = f" and the outputs of {len(choice.outputs)}" if choice.outputs else ""
    lines = [f"quantized {len(choice.layers)} layers{outputs}, {len(choice.left)} stay in float"]
    by_reason: dict[str, list[str]] = {}
    for path, reason in choice.left.items():
        by_reason.setdefault(reason, []).append(path)
    lines += [f"  in float ({reason}): {_names(paths)}" for reason, paths in by_reason.items()]
    return lines


def _names(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:SHOWN])
    return shown if len(paths) <= SHOWN else f"{shown} and {len(paths) - SHOWN} more"


def _some(left: dict[str, str]) -> str:
    return "; ".join(f"{path}: {reason}" for path, reason in list(left.items())[:3]) or "none found"
