"""Settings of optimizers, as a config or a recipe names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Momentum:
    """Stochastic gradient descent with (Nesterov) momentum."""

    kind: ClassVar[str] = "momentum"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    no_weight_decay: tuple[str, ...] = ()  # globs on parameter paths


@dataclass(frozen=True)
class Sgd:
    """Plain stochastic gradient descent."""

    kind: ClassVar[str] = "sgd"
    weight_decay: float = 0.0
    no_weight_decay: tuple[str, ...] = ()


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    kind: ClassVar[str] = "adamw"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    no_weight_decay: tuple[str, ...] = ()


OptimizerConfig = Momentum | Sgd | AdamW
