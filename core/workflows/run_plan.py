"""From the files and the command line of a training to its run: config, recipe, teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.distill.teacher import SOURCE, read_teachers
from core.errors import ConfigError
from core.settings.config import load_yaml, merge, override, parse_overrides
from core.training.recipe import (
    Recipe,
    compose_recipes,
    read_recipe,
    recipe_epochs,
    suggested_epochs,
)
from core.training.run import OF_A_RUN, Run, read_run

TEACHER = "teacher."  # begins an override that is for the teacher
OF_RECIPE = ("strategies.", "exports.")  # begin overrides that are for the recipe
Settings = dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """What a command line names.

    Attributes:
        config: YAML file of the task and its training.
        slim: Recipes, with commas between: names of files in `recipes`, or paths.
        distill_config: Configs or checkpoints of teachers.
        overrides: `key.sub=value`.
        recipes: Folder of the recipes that have names.
    """

    config: str | None
    slim: str | None = None
    distill_config: Sequence[str] = ()
    overrides: Sequence[str] = ()
    recipes: Path = Path("configs", "slim")


@dataclass(frozen=True)
class RunPlan:
    """A whole run in our own words.

    Attributes:
        settings: Config of the task and its training.
        recipe: Strategies; empty for plain training.
        teachers: One entry for each, as `core.distill.teacher.read_teachers` returns them.
        epochs_given: Whether the recipe or the command line says how long to train.
        save_dir: Where the run goes; None if nobody says it.
        resume: `auto` goes on from `save_dir` if there is something to go on from.
    """

    settings: Settings
    recipe: Settings = field(default_factory=dict)
    teachers: tuple[Settings, ...] = ()
    epochs_given: bool = False
    save_dir: str | None = None
    resume: str | None = None

    def to_mapping(self) -> Settings:
        """Return the content of one YAML file that describes the same run."""
        whole = dict(self.settings)
        if self.recipe:
            epochs = {"epochs": self.settings["train"]["epochs"]}
            whole["slim"] = {**epochs, **self.recipe}
        if self.teachers:
            whole["distill_config"] = [dict(each) for each in self.teachers]
        for key in ("save_dir", "resume"):
            if getattr(self, key) is not None:
                whole[key] = getattr(self, key)
        return whole


def read_plan(files: RunFiles) -> RunPlan:
    """Read what a command line names; it goes before the recipe, the recipe before the config.

    Raises:
        ConfigError: A file or an override is wrong.
    """
    settings = load_yaml(files.config) if files.config else {}
    own = {key: settings.pop(key) for key in OF_A_RUN if key in settings}
    named = files.slim.split(",") if files.slim else own.get("slim", [])
    recipe = compose_recipes(dict(_recipes(named, files.recipes)))
    teachers = _teachers(files, own.get("distill_config", []))
    if teachers and not recipe:
        recipe = compose_recipes(dict(_recipes("distill", files.recipes)))
    recipe = override(recipe, [each for each in files.overrides if each.startswith(OF_RECIPE)])
    epochs = recipe_epochs(recipe)
    if epochs:
        settings = merge(settings, {"train": {"epochs": epochs}})
    elsewhere = (TEACHER, *OF_RECIPE)
    overrides = parse_overrides([e for e in files.overrides if not e.startswith(elsewhere)])
    train = overrides.get("train")
    given = isinstance(train, Mapping) and "epochs" in train
    return RunPlan(
        merge(settings, overrides),
        recipe,
        tuple(teachers),
        epochs is not None or given,
        _text(own, "save_dir"),
        _text(own, "resume"),
    )


def settle(plan: RunPlan) -> tuple[RunPlan, Run, Recipe]:
    """Check a plan, and settle for how long to train where only the task can tell.

    Raises:
        ConfigError: Anything unknown or wrong.
    """
    run = read_run(plan.settings)
    epochs = None
    if not plan.epochs_given:
        epochs = suggested_epochs(plan.recipe, run.task, run.train.epochs)
    settings = merge(plan.settings, {"train": {"epochs": epochs}}) if epochs else plan.settings
    if epochs:
        run = read_run(settings)
    recipe = read_recipe(plan.recipe, run.train.epochs, bool(plan.teachers))
    settled = RunPlan(settings, plan.recipe, plan.teachers, True, plan.save_dir, plan.resume)
    return settled, run, recipe


def _recipes(named: Any, folder: Path) -> list[tuple[str, Settings]]:
    """Read recipes by name or path; a mapping is one that a config holds."""
    entries = [named] if isinstance(named, (str, Mapping)) else named
    if not isinstance(entries, list) or not all(isinstance(e, (str, Mapping)) for e in entries):
        raise ConfigError(f"slim: expected names of recipes or a recipe, got {named!r}")
    found: list[tuple[str, Settings]] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, Mapping):
            found.append((f"slim.{index}", dict(entry)))
            continue
        file = folder / f"{entry}.yml"
        name = entry if entry not in dict(found) else f"{entry} (again)"
        found.append((name, load_yaml(file if file.is_file() else entry)))
    return found


def _teachers(files: RunFiles, own: Any) -> list[Settings]:
    overrides = [e[len(TEACHER) :] for e in files.overrides if e.startswith(TEACHER)]
    if files.distill_config or not own:
        return read_teachers(files.distill_config, overrides)
    if not isinstance(own, list) or not all(isinstance(each, (str, Mapping)) for each in own):
        raise ConfigError(f"distill_config: expected a list of files or settings, got {own!r}")
    if all(isinstance(each, str) for each in own):
        return read_teachers(own, overrides)
    if overrides and len(own) != 1:
        raise ConfigError(f"teacher: -o teacher.{overrides[0]} needs one teacher, {len(own)} given")
    teachers: list[Settings] = []
    for index, each in enumerate(own):
        if isinstance(each, str):
            teachers += read_teachers([each])
        else:
            teachers.append(merge({SOURCE: f"distill_config.{index}", **each}, {}))
    return [merge(each, parse_overrides(overrides)) for each in teachers]


def _text(own: Mapping[str, Any], key: str) -> str | None:
    value = own.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{key}: expected str, got {value!r}")
    return value
