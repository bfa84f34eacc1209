"""Settings of optimizers, as a config or a recipe names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.settings.ranges import check_range

MOST_MOMENTUM = 0.999999  # with 1, nothing is ever forgotten
MOST_DECAY = 100.0


@dataclass(frozen=True)
class Momentum:
    """Stochastic gradient descent with (Nesterov) momentum."""

    kind: ClassVar[str] = "momentum"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    no_weight_decay: tuple[str, ...] = ()  # globs on parameter paths

    def __post_init__(self) -> None:
        check_range(self, 0, MOST_MOMENTUM, "momentum")
        check_range(self, 0, MOST_DECAY, "weight_decay")


@dataclass(frozen=True)
class Sgd:
    """Plain stochastic gradient descent."""

    kind: ClassVar[str] = "sgd"
    weight_decay: float = 0.0
    no_weight_decay: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_range(self, 0, MOST_DECAY, "weight_decay")


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    kind: ClassVar[str] = "adamw"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    no_weight_decay: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_range(self, 0, MOST_MOMENTUM, "beta1", "beta2")
        check_range(self, 1e-16, 1, "epsilon")
        check_range(self, 0, MOST_DECAY, "weight_decay")


OptimizerConfig = Momentum | Sgd | AdamW
