"""Paddle's optimizers from typed settings; their state is kept by parameter path."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from core.errors import CheckpointError, ConfigError
from core.settings.optimizer_config import AdamW, Momentum, OptimizerConfig, Sgd


class Optimizer:
    """One of Paddle's optimizers over parameters known by path.

    Args:
        parameters: Trainable tensors by path; paths name the state and the no-decay groups.
        config: Settings of the optimizer.
        clip_norm: Largest global norm of the gradients, or None.
        clip_each: Whether it is that of each gradient alone.

    Raises:
        ConfigError: Nothing to train, or a `no_weight_decay` glob that matches nothing.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        config: OptimizerConfig,
        clip_norm: float | None,
        clip_each: bool = False,
    ) -> None:
        self.parameters = {n: p for n, p in parameters.items() if not p.stop_gradient}
        if not self.parameters:
            raise ConfigError("model: no parameter is left to train")
        self._config = config
        groups = _groups(self.parameters, parameters, config)
        kind = paddle.nn.ClipGradByNorm if clip_each else paddle.nn.ClipGradByGlobalNorm
        self._paddle = _build(groups, config, kind(clip_norm) if clip_norm else None)

    def step(self, rate: float, scaler: paddle.amp.GradScaler | None = None) -> None:
        """Update with this learning rate (through the scaler of AMP), forget the gradients."""
        self._paddle.set_lr(rate)
        if scaler is None:
            self._paddle.step()
        else:
            scaler.step(self._paddle)
            scaler.update()
        self._paddle.clear_grad(set_to_zero=False)

    def state_dict(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the accumulators, of any shape, by name and parameter path."""
        paths = {parameter.name: path for path, parameter in self.parameters.items()}
        return {
            name: {paths[key]: tensor.numpy() for key, tensor in by_parameter.items()}
            for name, by_parameter in self._paddle._accumulators.items()
        }

    def load_state_dict(
        self, state: Mapping[str, Mapping[str, np.ndarray]], stepped: bool = False
    ) -> None:
        """Restore what `state_dict` returned.

        Args:
            state: Accumulators of any shape, by name and parameter path.
            stepped: Whether steps were made before it was saved.

        Raises:
            CheckpointError: The state is of other parameters or of another optimizer, or empty
                though steps were made.
        """
        keeps = not isinstance(self._config, Sgd)
        if stepped and keeps and not any(state.values()):
            raise CheckpointError(
                f"train.optimizer: the checkpoint has no state of {self._config.kind} after its "
                "steps, so training cannot go on from it"
            )
        if not state:
            return  # saved before the first step
        # a parameter that never got a gradient has no state yet
        moved = {path for by_path in state.values() for path in by_path}
        if moved <= self.parameters.keys():
            self._paddle._create_accumulators(
                paddle.base.framework.default_main_program().global_block(),
                [self.parameters[path] for path in sorted(moved)],
            )
        own = self._paddle._accumulators
        for name in {*own, *state}:
            known = {path for path in moved if self._state_name(path) in own.get(name, {})}
            if set(state.get(name, {})) != known:
                raise CheckpointError(
                    f"train.optimizer: the checkpoint's state {name!r} is of another optimizer"
                )
        for name, by_path in state.items():
            for path, array in by_path.items():
                if not (array.dtype.kind == "f" and np.isfinite(array).all()):
                    raise CheckpointError(
                        f"train.optimizer: the checkpoint's state {name!r} of {path} is not finite"
                    )
                own[name][self.parameters[path].name].set_value(array)

    def _state_name(self, path: str) -> str | None:
        return self.parameters[path].name if path in self.parameters else None


def _groups(
    trainable: Mapping[str, Tensor], everything: Mapping[str, Tensor], config: OptimizerConfig
) -> list[dict[str, Any]]:
    spared: set[str] = set()
    for pattern in config.no_weight_decay:
        hits = fnmatch.filter(everything, pattern)
        if not hits:
            raise ConfigError(f"train.optimizer.no_weight_decay: {pattern!r} matches nothing")
        spared.update(hits)
    decayed = [p for name, p in trainable.items() if name not in spared]
    plain = [p for name, p in trainable.items() if name in spared]
    groups = []
    if decayed:
        groups.append({"params": decayed, "weight_decay": config.weight_decay})
    if plain:
        groups.append({"params": plain, "weight_decay": 0.0})
    return groups


def _build(groups: Sequence[dict[str, Any]], config: OptimizerConfig, clip: Any) -> Any:
    shared = {"learning_rate": 1.0, "parameters": list(groups), "grad_clip": clip}
    if isinstance(config, Momentum):
        return paddle.optimizer.Momentum(
            momentum=config.momentum, use_nesterov=config.nesterov, **shared
        )
    if isinstance(config, AdamW):
        return paddle.optimizer.AdamW(
            beta1=config.beta1, beta2=config.beta2, epsilon=config.epsilon, **shared
        )
    return paddle.optimizer.SGD(**shared)
