"""Hints of a task on compressing its model; tasks import these from `core.task`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ObserverKind = Literal["abs_max", "avg", "percentile", "kl", "mse", "emd", "output_mse"]
# which pixels of a picture in two sizes are the same point: the first and the last ones (corners),
# or pixel i of the one and i * ratio of the other (origin)
Alignment = Literal["corners", "origin"]


@dataclass(frozen=True)
class DistillPoint:
    """A layer whose output a student may imitate."""

    layer: str  # dotted path in the model
    output: Literal["class_logits", "heatmap", "feature"]


@dataclass(frozen=True)
class QatBudget:
    """Default share of normal training that quantization-aware training takes."""

    learning_rate_scale: float = 0.1
    epochs_scale: float = 0.2
    warmup: bool = True


@dataclass(frozen=True)
class QuantHints:
    """Settings of quantization where the user gives none; see `PtqConfig` and `QatConfig`.

    Attributes:
        observer: Observer that sets the grids of activations.
        zero_points: Whether to use zero points where the target knows them.
        balance: Whether to equalize the ranges of the channels of activations.
        reconstruct: Whether to fit weights and biases layer by layer.
        quantize_outputs: What is rounded beside the inputs of layers, by target; where nothing is
            said, what the target is fastest with.
    """

    observer: ObserverKind = "mse"
    zero_points: bool = False
    balance: bool = False
    reconstruct: bool = False
    quantize_outputs: Mapping[str, Literal["none", "residual", "all"]] = field(default_factory=dict)


@dataclass(frozen=True)
class SlimHints:
    """Hints of a task for compressing its model; layers are globs on dotted paths.

    Attributes:
        distill_points: Layers whose outputs a student may imitate.
        aligned_at: How pictures and maps are resized between a student and a teacher whose inputs
            have another size.
        never_prune: Layers whose channels stay.
        never_quantize: Layers that stay in float.
        never_quantize_for: Layers that stay in float as well, by target (`core.targets.names`).
        ptq: Settings of quantization after training.
        qat: Settings of the start of quantization-aware training.
    """

    distill_points: tuple[DistillPoint, ...] = ()
    aligned_at: Alignment = "corners"
    never_prune: tuple[str, ...] = ()
    never_quantize: tuple[str, ...] = ()
    never_quantize_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ptq: QuantHints = QuantHints()
    qat: QuantHints = QuantHints("avg")
