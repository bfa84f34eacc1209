"""Settings of quantization that follow the hints of a task where the user gives none."""

from __future__ import annotations

from typing import Any, Protocol

from core.quant.choices import WeightType
from core.settings.hints import ObserverKind, QuantHints
from core.targets.names import RoundedOutputs, Target
from core.targets.presets import UNSIGNED_TARGETS


class HintedSettings(Protocol):
    """Settings; those that are None follow hints."""

    @property
    def observer(self) -> ObserverKind | None: ...

    @property
    def zero_points(self) -> bool | None: ...

    @property
    def balance(self) -> bool | None: ...

    @property
    def reconstruct(self) -> bool | None: ...

    @property
    def quantize_outputs(self) -> RoundedOutputs | None: ...

    @property
    def target(self) -> Target: ...

    @property
    def weight_quantize_type(self) -> WeightType: ...


def settings_of(config: HintedSettings, hints: QuantHints) -> dict[str, Any]:
    """Return what follows hints, as given or else as hinted where it can be followed."""
    known = config.target in UNSIGNED_TARGETS
    by_channel = config.weight_quantize_type == "channel_wise_abs_max"
    return {
        "observer": config.observer or hints.observer,
        "zero_points": _or_hint(config.zero_points, hints.zero_points and known),
        "balance": _or_hint(config.balance, hints.balance),
        "reconstruct": _or_hint(config.reconstruct, hints.reconstruct and by_channel),
        "quantize_outputs": config.quantize_outputs or hints.quantize_outputs.get(config.target),
    }


def _or_hint(given: bool | None, hint: bool) -> bool:
    return hint if given is None else given


def check_reconstruct(wanted: bool | None, weights: WeightType) -> None:
    """Refuse to fit weights that have one grid.

    Raises:
        ValueError: Names the setting.
    """
    if wanted and weights != "channel_wise_abs_max":
        raise ValueError(
            f"reconstruct: expected weight_quantize_type channel_wise_abs_max, got {weights}"
        )
