"""The strategies at work: opened and closed at the edges of their windows, asked in every step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

from paddle import Tensor
from paddle.nn import Layer

from core.errors import ConfigError
from core.settings.config import to_mapping
from core.settings.optimizer_config import OptimizerConfig
from core.strategy import Context, Phase, Strategy, StrategyConfig
from core.task import Batch, Losses, Outputs
from core.training.checkpoint import RecordedEdit
from core.training.recipe import Recipe, ScheduledStrategy

MakeContext = Callable[[ScheduledStrategy, bool], Context]
T = TypeVar("T")


class ActiveStrategies:
    """Live strategies of a recipe, in the order of their phases, and the edits they made.

    Args:
        recipe: Strategies with their windows.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._finished: list[RecordedEdit] = []
        self._live: dict[int, Strategy] = {}  # position in the recipe -> strategy, by phase

    def begin(self, edits: list[RecordedEdit], make_context: MakeContext) -> None:
        """Note edits that the model brought along, and check the windows that open later."""
        self._finished = list(edits)
        for position, step in enumerate(self._recipe.steps):
            if step.start > 0:
                with step.named(position):
                    step.build().check(make_context(step, False))

    def enter_epoch(self, epoch: int, model: Layer, make_context: MakeContext) -> tuple[bool, bool]:
        """Open and close windows at the beginning of an epoch.

        Strategies that only listen are detached and attached again around every change, so that
        none listens to a layer that another has replaced.

        Returns:
            Whether the set of live strategies changed, and whether one began to edit the model.
        """
        wanted = self._recipe.active(epoch)
        if wanted == list(self._live):
            return False, False
        for position, strategy in reversed(self._live.items()):
            if position not in wanted or strategy.phase == Phase.LOSS:
                strategy.detach(model)
            if position not in wanted:
                self._finished.extend(self._edit_of(position, strategy))
        live, self._live, edited = self._live, {}, False
        for position in wanted:
            step = self._recipe.steps[position]
            strategy = live[position] if position in live else step.build()
            if position not in live or strategy.phase == Phase.LOSS:
                with step.named(position):
                    strategy.attach(model, make_context(step, position in live))
            edited |= position not in live and strategy.phase != Phase.LOSS
            self._live[position] = strategy
        return True, edited

    def close(self, model: Layer) -> None:
        """Close every window at the end of training."""
        for position, strategy in reversed(self._live.items()):
            strategy.detach(model)
            self._finished.extend(self._edit_of(position, strategy))
        self._live = {}

    def before_epoch(self, epoch: int, model: Layer, make_context: MakeContext) -> bool:
        """Announce an epoch; True says that parameters were replaced.

        Strategies that listen come last and are attached again to what the others changed.
        """
        replaced = False
        for position, strategy in self._live.items():
            if replaced and strategy.phase == Phase.LOSS:
                strategy.detach(model)
                strategy.attach(model, make_context(self._recipe.steps[position], True))
            replaced |= strategy.before_epoch(epoch)
        return replaced

    def losses(self, own: Losses, batch: Batch, outputs: Outputs) -> Losses:
        """Return the task's own terms, weighted, and the extra terms of all strategies."""
        weight = math.prod(strategy.task_weight() for strategy in self._live.values())
        terms = own if weight == 1.0 else {name: term * weight for name, term in own.items()}
        for position, strategy in self._live.items():
            for name, term in strategy.losses(batch, outputs).items():
                terms[f"{name}@{position}" if name in terms else name] = term
        return terms

    def after_step(self) -> None:
        """Pass on that an optimizer step was made."""
        for strategy in self._live.values():
            strategy.after_step()

    def parameters(self) -> dict[str, Tensor]:
        """Return the strategies' own parameters, of any shape, under names that no path has."""
        return {
            f"strategies.{position}:{name}": tensor
            for position, strategy in self._live.items()
            for name, tensor in strategy.parameters().items()
        }

    def optimizer(self, default: OptimizerConfig) -> OptimizerConfig:
        """Return the optimizer that an open window asks for, else the one of the run.

        Raises:
            ConfigError: Two open windows ask for one.
        """
        return self._only("optimizer", lambda strategy: strategy.optimizer(), default)

    def learning_rate(self, default: float) -> float:
        """Return the learning rate that an open window asks for, else the one of the run.

        Raises:
            ConfigError: Two open windows ask for one.
        """
        return self._only("learning_rate", lambda strategy: strategy.learning_rate(), default)

    def evaluate(self) -> dict[str, float]:
        """Return the metrics of the networks that strategies train beside the model."""
        metrics: dict[str, float] = {}
        for strategy in self._live.values():
            metrics |= strategy.evaluate()
        return metrics

    def learning_rate_scale(self) -> float:
        """Return the product of the factors of the open windows."""
        return math.prod(strategy.learning_rate_scale() for strategy in self._live.values())

    def edits(self) -> list[RecordedEdit]:
        """Return all edits the model carries, those of live strategies included."""
        live = [edit for p, strategy in self._live.items() for edit in self._edit_of(p, strategy)]
        return self._finished + live

    def state_dict(self) -> dict[str, Any]:
        """Return the state that an exact continuation needs."""
        return {
            "finished": len(self._finished),
            "recipe": self._described(),
            "live": [
                [p, self._recipe.steps[p].kind, s.state_dict()] for p, s in self._live.items()
            ],
        }

    def resume(
        self,
        state: dict[str, Any],
        edits: list[RecordedEdit],
        epoch: int,
        model: Layer,
        make_context: MakeContext,
    ) -> None:
        """Go back to where `state_dict` was taken, on a model with all `edits` replayed.

        Args:
            state: State that `state_dict` returned.
            edits: Edits that `edits` returned then.
            epoch: The epoch that had been finished.
            model: Rebuilt from the edits; its weights are loaded afterwards.
            make_context: Builds the context of a strategy.

        Raises:
            ConfigError: The recipe differs from the one of the interrupted run.
        """
        wanted = self._recipe.active(epoch)
        saved = [(position, kind) for position, kind, _ in state["live"]]
        if saved != [(position, self._recipe.steps[position].kind) for position in wanted]:
            had, has = (
                ", ".join(kinds) or "no strategy"
                for kinds in ([k for _, k in saved], [self._recipe.steps[p].kind for p in wanted])
            )
            raise ConfigError(
                f"slim: in epoch {epoch + 1} the run to resume had {had} at work, this recipe {has}"
            )
        self._check_same_recipe(state["recipe"])
        self._finished, self._live = edits[: state["finished"]], {}
        for position, _, own in state["live"]:
            step = self._recipe.steps[position]
            strategy = step.build()
            strategy.attach(model, make_context(step, True))
            strategy.load_state_dict(own)
            self._live[position] = strategy

    def _only(self, key: str, ask: Callable[[Strategy], T | None], default: T) -> T:
        found = {p: value for p, each in self._live.items() if (value := ask(each)) is not None}
        if len(found) > 1:
            first, second = list(found)[:2]
            raise ConfigError(
                f"strategies.{second}.{key}: strategies.{first} asks for one at the same time"
            )
        return next(iter(found.values()), default)

    def _described(self) -> list[dict[str, Any]]:
        return [{"kind": step.kind, **to_mapping(step.config)} for step in self._recipe.steps]

    def _check_same_recipe(self, saved: list[dict[str, Any]]) -> None:
        for position, (said, new) in enumerate(zip(saved, self._described())):
            config = self._recipe.steps[position].config
            old = _before_they_existed(config) | said
            for key in sorted(old.keys() | new.keys()):
                default_then = new.get(key) is None and old.get(key) == config.OPEN.get(key)
                if old.get(key) != new.get(key) and not default_then:
                    raise ConfigError(
                        f"strategies.{position}.{key}: the run to resume has {old.get(key)!r}, "
                        f"got {new.get(key)!r}"
                    )
        if len(saved) != len(self._recipe.steps):
            raise ConfigError(
                f"slim: the run to resume has {len(saved)} strategies, this recipe "
                f"{len(self._recipe.steps)}"
            )

    def _edit_of(self, position: int, strategy: Strategy) -> list[RecordedEdit]:
        record = strategy.record()
        return [] if record is None else [(self._recipe.steps[position].kind, record)]


def _before_they_existed(config: StrategyConfig) -> dict[str, Any]:
    """Return defaults for keys of a strategy in a run that was saved before they existed."""
    meant = dict(config.BEFORE)
    for field in dataclasses.fields(config):
        if field.default is not dataclasses.MISSING:
            meant.setdefault(field.name, to_mapping(field.default))
        elif field.default_factory is not dataclasses.MISSING:
            meant.setdefault(field.name, to_mapping(field.default_factory()))
    return meant
