"""Settings of pruning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from core.prune.choices import Aggregate, Criterion
from core.settings.ranges import check_range
from core.strategy import StrategyConfig
from core.targets.names import Backend

Allocation = Literal["uniform", "sensitive", "global", "search"]
LEAST_DELTA = 0.01  # smaller steps would take a measurement of each hundredth of each layer
LEAST_LATENCY_MS = 0.001  # no clock tells less
TARGETS = (
    "target_ratio",
    "target_parameters_ratio",
    "target_latency_ratio",
    "target_latency_ms",
    "pruned_ratio",
)


@dataclass(frozen=True)
class PruneConfig(StrategyConfig):
    """Settings of pruning. Give exactly one target.

    Attributes:
        target_ratio: Share of the multiply-accumulates (FLOPs) to remove.
        target_parameters_ratio: Share of the parameters to remove.
        target_latency_ratio: Share of the latency, measured on this machine, to remove.
        target_latency_ms: Latency to come down to.
        pruned_ratio: Share of the channels of every layer to remove; or shares by glob or regular
            expression on weights, the first that matches deciding.
        allocation: Distribution of the target: the same share in every layer, shares by measured
            sensitivity, one ranking of all channels, or shares found by simulated annealing.
        criterion: Measure of the importance of a channel.
        aggregate: How the scores of several producers of the same channels are combined.
        round_to: Channels per group are a multiple of it afterwards, or as many as before; around
            channel shuffles, those of every layer, if the widths allow that. With a target, both
            inputs of a shuffle keep equal numbers instead where they can.
        max_ratio: No layer loses a larger share of its channels in one cut.
        pruned_params: Globs or regular expressions: only channels that such weights make.
        never_prune: Globs of layers that keep their output channels, beside those of the task.
        num_steps: Cuts that together reach the target.
        every_epochs: Epochs of training between them.
        delta_rate: Sensitivity is measured at this ratio, twice, three times it and so on.
        eval_rate: Share of the validation data to measure it on, and to search with.
        search_steps: Plans that the search tries.
        search_temperature: How readily the search goes on with a worse plan at first: a share of
            the metric.
        search_cooling: Factor on it from plan to plan.
        metric_name: Which of the task's metrics sensitivity and search go by; null: the one that
            decides what is best.
        sensitivities_file: JSON to store sensitivities in; measurements that it holds are reused.
        backend: Runtime to measure latency in.
        threads: Threads of that runtime.
        calibration_samples: Training images for batch norm statistics, `taylor` and `reconstruct`;
            0 leaves the statistics as they are.
        reconstruct: After a cut, fit weights and biases layer by layer to what the layers made
            before it, see `core.prune.reconstruction`, on up to 128 of these images; else batch
            norms get new statistics. null: if there are images.
    """

    BEFORE: ClassVar[Mapping[str, Any]] = MappingProxyType({"reconstruct": False})
    OPEN: ClassVar[Mapping[str, Any]] = MappingProxyType({"reconstruct": False})

    target_ratio: float | None = None
    target_parameters_ratio: float | None = None
    target_latency_ratio: float | None = None
    target_latency_ms: float | None = None
    pruned_ratio: float | dict[str, float] | None = None
    allocation: Allocation = "uniform"
    criterion: Criterion = "l1_norm"
    aggregate: Aggregate = "mean"
    round_to: int = 1
    max_ratio: float = 0.9
    pruned_params: tuple[str, ...] = ("*",)
    never_prune: tuple[str, ...] = ()
    num_steps: int = 1
    every_epochs: int = 1
    delta_rate: float = 0.2
    eval_rate: float = 1.0
    search_steps: int = 24
    search_temperature: float = 0.05
    search_cooling: float = 0.85
    metric_name: str | None = None
    sensitivities_file: str | None = None
    backend: Backend = "onnxruntime"
    threads: int = 1
    calibration_samples: int = 256
    reconstruct: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_target()
        self._check_ranges()
        self._check_shares_and_window()

    @property
    def fits_layers(self) -> bool:
        """Tell whether layers are fitted after a cut."""
        return self.calibration_samples > 0 if self.reconstruct is None else self.reconstruct

    def _check_target(self) -> None:
        """Refuse anything but one target, or a target out of its range."""
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{given[1] if given else 'target_ratio'}: give exactly one of "
                f"{', '.join(TARGETS)}, got {' and '.join(given) or 'none'}"
            )
        for name in TARGETS[:3]:
            _check_ratio(name, getattr(self, name))
        if isinstance(self.pruned_ratio, dict):
            for pattern, ratio in self.pruned_ratio.items():
                _check_ratio(f"pruned_ratio.{pattern}", ratio)
        else:
            _check_ratio("pruned_ratio", self.pruned_ratio)
        if self.target_latency_ms is not None and self.target_latency_ms <= 0:
            raise ValueError(f"target_latency_ms: expected > 0, got {self.target_latency_ms}")
        check_range(self, LEAST_LATENCY_MS, 1e6, "target_latency_ms")

    def _check_ranges(self) -> None:
        """Refuse numbers out of their ranges, each by itself."""
        for name in ("round_to", "num_steps", "every_epochs", "threads", "search_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        _check_ratio("max_ratio", self.max_ratio)
        _check_ratio("delta_rate", self.delta_rate)
        check_range(self, LEAST_DELTA, 1, "delta_rate")
        check_range(self, 1, 4096, "round_to", "threads")
        check_range(self, 1, 100_000, "num_steps", "every_epochs", "search_steps")
        if not 0 < self.search_cooling <= 1:
            raise ValueError(
                f"search_cooling: expected above 0, up to 1, got {self.search_cooling}"
            )
        if not 0 < self.search_temperature < math.inf:
            raise ValueError(f"search_temperature: expected > 0, got {self.search_temperature}")
        if not 0 < self.eval_rate <= 1:
            raise ValueError(f"eval_rate: expected 0 < eval_rate <= 1, got {self.eval_rate}")
        needed = self.criterion == "taylor" or bool(self.reconstruct)
        if self.calibration_samples < (1 if needed else 0):
            raise ValueError(f"calibration_samples: too few, got {self.calibration_samples}")

    def _check_shares_and_window(self) -> None:
        """Refuse shares above the limit of a layer, and cuts that do not fit into the window."""
        most = self.pruned_ratio
        if isinstance(most, dict):
            most = max(most.values(), default=0.0)
        if most is not None and not 0 < most <= self.max_ratio:
            raise ValueError(
                f"pruned_ratio: expected ratios up to max_ratio, {self.max_ratio}, got {most}"
            )
        last = self.start_epoch + (self.num_steps - 1) * self.every_epochs + 1
        if self.end_epoch is not None and self.end_epoch < last:
            raise ValueError(
                f"end_epoch: {self.num_steps} cuts last until epoch {last}, got {self.end_epoch}"
            )
        if self.pruned_ratio is not None and (self.allocation, self.num_steps) != ("uniform", 1):
            raise ValueError("pruned_ratio: says by itself what each layer loses, in one step")


def _check_ratio(name: str, ratio: float | None) -> None:
    if ratio is not None and not 0 < ratio < 1:
        raise ValueError(f"{name}: expected 0 < ratio < 1, got {ratio}")
