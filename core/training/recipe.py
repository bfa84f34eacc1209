"""Recipes: which strategies work on a run, in which windows of epochs, and every ordering rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

from core.errors import ConfigError
from core.settings.config import read, suggest
from core.settings.yaml_loader import shown
from core.strategy import Phase, Strategy, StrategyConfig, recorded_strategy, strategy_class
from core.task import Task

KEYS = ("epochs", "strategies", "exports")
BITS = 8  # in files
INTERVAL = "every_epochs"  # between the steps of a strategy
# where a recipe names epochs of the training
_PLACES = MappingProxyType(
    {"strategies": ("start_epoch", "end_epoch"), "exports": ("after_epoch",)}
)


@dataclass(frozen=True)
class ScheduledStrategy:
    """One strategy of a recipe with its window settled."""

    kind: str
    strategy: type[Strategy]
    config: StrategyConfig
    start: int  # first epoch of the window
    end: int  # first epoch after it

    def build(self) -> Strategy:
        """Build the strategy."""
        return self.strategy(self.config)

    @contextmanager
    def named(self, position: int) -> Iterator[None]:
        """Begin errors in a setting of the strategy with its position in the recipe.

        Raises:
            ConfigError: One was raised.
        """
        try:
            yield
        except ConfigError as error:
            own = {each.name for each in fields(self.config)}
            raise ConfigError(
                *(
                    f"strategies.{position}.{each}" if re.split(r"\W", each)[0] in own else each
                    for each in error.problems
                )
            ) from error


@dataclass(frozen=True)
class ExportPoint:
    """Files that are written while training goes on.

    Attributes:
        after_epoch: When so many epochs are finished.
        save_dir: Folder to make.
        form: `int8` for Paddle Inference, `lite` for Paddle Lite, or `float`: the same values of
            weights, stored in float.
        ending: Ending of the graph, as in `tools/export_model.py`.
    """

    after_epoch: int
    save_dir: str
    form: Literal["int8", "float", "lite"] = "int8"
    ending: str = "raw"


@dataclass(frozen=True)
class Recipe:
    """Strategies of a run; without any, it is plain training."""

    steps: tuple[ScheduledStrategy, ...] = ()
    exports: tuple[ExportPoint, ...] = ()

    def active(self, epoch: int) -> list[int]:
        """Return the positions of the steps at work in an epoch, by phase, then as listed."""
        positions = [i for i, step in enumerate(self.steps) if step.start <= epoch < step.end]
        return sorted(positions, key=lambda i: self.steps[i].strategy.phase)


def recipe_epochs(mapping: Mapping[str, Any]) -> int | None:
    """Return how many epochs the recipe itself asks for, if it does.

    Raises:
        ConfigError: Not a positive whole number.
    """
    epochs = mapping.get("epochs")
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int)):
        raise ConfigError(f"epochs: expected int, got {shown(epochs)}")
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs: expected 1 or more, got {epochs}")
    return epochs


def shortened(recipe: Mapping[str, Any], before: int, epochs: int) -> dict[str, Any]:
    """Return a recipe whose windows and exports lie in a shorter training as they lay in theirs.

    Args:
        recipe: Content of a recipe; errors in it are left for `read_recipe` to report.
        before: Epochs of the training that it is meant for.
        epochs: Epochs of the shorter one.

    Raises:
        ConfigError: The training is too short for all windows.
    """
    named = [
        each[key]
        for name, keys in _PLACES.items()
        for each in _mappings(recipe.get(name))
        for key in keys
        if type(each.get(key)) is int
    ]
    edges = sorted({0, before, *named})
    if edges[0] < 0 or edges[-1] > before:
        return dict(recipe)
    count = len(edges) - 1
    if count > epochs:
        raise ConfigError(
            f"train.epochs: the windows of the recipe need {count} epochs at least, got {epochs}"
        )
    moved = {0: 0}
    for index, edge in enumerate(edges[1:], 1):
        most = epochs - (count - index)  # the later ones need an epoch each
        moved[edge] = max(moved[edges[index - 1]] + 1, min(round(edge * epochs / before), most))
    changed = dict(recipe)
    for name, keys in _PLACES.items():
        if isinstance(recipe.get(name), list):
            changed[name] = [_moved(each, keys, moved, epochs / before) for each in recipe[name]]
    return changed


def _mappings(entries: Any) -> list[Mapping[str, Any]]:
    return [e for e in entries if isinstance(e, Mapping)] if isinstance(entries, list) else []


def _moved(entry: Any, keys: Sequence[str], moved: Mapping[int, int], share: float) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    changed = {**entry, **{key: moved[entry[key]] for key in keys if type(entry.get(key)) is int}}
    if type(entry.get(INTERVAL)) is int:
        changed[INTERVAL] = max(1, round(entry[INTERVAL] * share))
    return changed


def suggested_epochs(mapping: Mapping[str, Any], task: Task, epochs: int) -> int | None:
    """Return how long a recipe that quantizes from the first epoch on should train.

    Args:
        mapping: A recipe without `epochs`.
        task: Suggests a share of normal training.
        epochs: Epochs of normal training.

    Returns:
        None if the recipe does something else.
    """
    entries = mapping.get("strategies")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("kind"), str):
            continue
        strategy = strategy_class(entry["kind"], f"strategies.{index}")
        if strategy.phase == Phase.GRID and not entry.get("start_epoch"):
            share = task.qat_budget.epochs_scale
            return max(1, round(epochs * share))
    return None


def compose_recipes(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Put recipes into one: the strategies of the first, then those of the second, and so on.

    Args:
        recipes: By the names that messages call them.

    Raises:
        ConfigError: One has no list of strategies, or two differ in what both have.
    """
    whole: dict[str, Any] = {}
    said: dict[str, str] = {}  # which recipe said it
    strategies: list[Any] = []
    for name, recipe in recipes.items():
        for key, value in recipe.items():
            if key == "strategies":
                if not isinstance(value, list):
                    raise ConfigError(f"strategies: expected a list, got {type(value).__name__}")
                strategies += value
            elif key == "exports" and isinstance(value, list):
                whole[key] = [*whole.get(key, []), *value]
            elif key in whole and whole[key] != value:
                raise ConfigError(f"{key}: {said[key]} has {whole[key]!r}, {name} has {value!r}")
            else:
                whole[key], said[key] = value, name
    return {**whole, "strategies": strategies} if recipes else {}


def read_recipe(mapping: Mapping[str, Any], epochs: int, has_teacher: bool) -> Recipe:
    """Check a recipe against the length of training and the rules of order.

    Args:
        mapping: `{epochs: N, strategies: [{kind, start_epoch, end_epoch, ...}, ...], exports:
            [...]}`.
        epochs: How long the run trains.
        has_teacher: Whether a teacher was given.

    Raises:
        ConfigError: A rule is broken; the message begins with the strategy.
    """
    for key in mapping:
        if key not in KEYS:
            raise ConfigError(f"{str(key)[:80]}: unknown key{suggest(str(key)[:80], KEYS)}")
    entries = mapping.get("strategies", [])
    if not isinstance(entries, list):
        raise ConfigError(f"strategies: expected a list, got {type(entries).__name__}")
    steps = tuple(_read_step(entry, i, epochs) for i, entry in enumerate(entries))
    _check_order(steps)
    _check_alone(steps)
    wants_teacher = [i for i, step in enumerate(steps) if step.strategy.needs_teacher]
    if wants_teacher and not has_teacher:
        i = wants_teacher[0]
        raise ConfigError(f"{_name(i, steps[i])}: needs a teacher; give --distill_config")
    if has_teacher and not wants_teacher:
        raise ConfigError("distill_config: no strategy of the recipe takes a teacher")
    exports = read(tuple[ExportPoint, ...], mapping.get("exports", ()), "exports")
    for i, export in enumerate(exports):
        _check_export(f"exports.{i}", export, steps, epochs)
    return Recipe(steps, exports)


def _read_step(entry: Any, index: int, epochs: int) -> ScheduledStrategy:
    path = f"strategies.{index}"
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{path}: expected a mapping with a kind, got {shown(entry)}")
    if "kind" not in entry:
        raise ConfigError(f"{path}.kind: required, but not given")
    kind = entry["kind"]
    if not isinstance(kind, str):
        raise ConfigError(f"{path}.kind: expected the name of a strategy, got {shown(kind)}")
    strategy = strategy_class(kind, path)
    settings = {key: value for key, value in entry.items() if key != "kind"}
    config = read(strategy.Config, settings, path)
    end = config.end_epoch
    if end is None:
        end = strategy.default_end(config, epochs)
    step = ScheduledStrategy(kind, strategy, config, config.start_epoch, end)
    window = f"[{step.start}, {step.end})"
    if step.start >= epochs or step.end > epochs:
        raise ConfigError(f"{_name(index, step)}: window {window} is past the end, {epochs} epochs")
    if step.start >= step.end:
        raise ConfigError(f"{_name(index, step)}: window {window} is empty")
    return step


def _check_order(steps: tuple[ScheduledStrategy, ...]) -> None:
    for i, step in enumerate(steps):
        for j, other in enumerate(steps):
            if i == j or step.strategy.phase != Phase.GRID:
                continue
            if other.strategy.phase == Phase.GRID and step.start <= other.start:
                raise ConfigError(
                    f"{_name(j, other)}: the model is already quantized by {_name(i, step)}"
                )
            if other.strategy.phase == Phase.SHAPE and other.end > step.start:
                raise ConfigError(
                    f"{_name(j, other)}: channels cannot be removed beside or after "
                    f"quantization, and {_name(i, step)} begins at epoch {step.start}"
                )


def check_beginning(recipe: Recipe, edits: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuse to cut or to quantize a network that is quantized when a run begins with it.

    Args:
        recipe: Recipe of the run.
        edits: Edits of the network, as `core.training.checkpoint.load_pretrained` returns them.

    Raises:
        ConfigError: Names the first strategy that cannot be at work.
    """
    kinds = {kind for kind, _ in edits}
    if all(recorded_strategy(kind, kind).phase != Phase.GRID for kind in kinds):
        return
    for position, step in enumerate(recipe.steps):
        if step.strategy.phase in (Phase.SHAPE, Phase.GRID):
            raise ConfigError(
                f"{_name(position, step)}: the weights of model.pretrained are quantized already; "
                "start from those in float"
            )


def _check_export(
    path: str, export: ExportPoint, steps: tuple[ScheduledStrategy, ...], epochs: int
) -> None:
    if not 1 <= export.after_epoch <= epochs:
        raise ConfigError(f"{path}.after_epoch: expected 1 to {epochs}, got {export.after_epoch}")
    grids = [step for step in steps if step.strategy.phase == Phase.GRID]
    if not any(step.start < export.after_epoch for step in grids):
        raise ConfigError(
            f"{path}.after_epoch: nothing is quantized after epoch {export.after_epoch}"
        )
    for i, step in enumerate(steps):
        for key in ("weight_bits", "activation_bits"):
            bits = getattr(step.config, key, BITS)
            if bits != BITS and export.form != "float":
                raise ConfigError(
                    f"strategies.{i}.{key}: expected {BITS}, as the files in {export.save_dir} "
                    f"have, got {bits}"
                )


def _check_alone(steps: tuple[ScheduledStrategy, ...]) -> None:
    """Refuse two windows that are open at once and both say how to train."""
    for j, step in enumerate(steps):
        for i, other in enumerate(steps[:j]):
            if step.start >= other.end or other.start >= step.end:
                continue
            for key in ("optimizer", "learning_rate"):
                if getattr(step.config, key) is not None and getattr(other.config, key) is not None:
                    raise ConfigError(
                        f"strategies.{j}.{key}: {_name(i, other)} asks for one at the same time"
                    )


def _name(index: int, step: ScheduledStrategy) -> str:
    return f"strategies.{index} ({step.kind})"
