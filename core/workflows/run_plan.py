"""From the files and the command line of a training to its run: config, recipe, teachers."""

from __future__ import annotations

import copy
import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from core.dialects.files import tell_unused, translated
from core.dialects.foreign import Settings, Translation
from core.dialects.origins import told_by
from core.errors import ConfigError
from core.settings.config import load_yaml, merge, override, parse_overrides, suggest
from core.settings.home import CONFIGS
from core.settings.yaml_loader import shown
from core.training.own_data import completed
from core.training.recipe import (
    Recipe,
    compose_recipes,
    read_recipe,
    recipe_epochs,
    shortened,
    suggested_epochs,
)
from core.training.run import OF_A_RUN, Run, read_run
from core.workflows.foreign_layers import with_layers
from core.workflows.run_teachers import TEACHER, read_teachers

SLIM = "slim."  # may begin one that is for the recipe
LENGTH = "train.epochs"
OF_RECIPE = ("strategies.", "exports.")  # begin overrides that are for the recipe
DISTILL = "distill"  # recipe of a run with a teacher that names no other
FLAGS = "flags."  # begins what a flag of PaddleSeg's tools says, see `core.dialects.paddleseg`
# where else such a flag has its place in a config
OF_FLAGS = MappingProxyType(
    {
        "learning_rate": "train.learning_rate",
        "model_path": "model.pretrained",
        "batch_size": "train.batch_size",
        "num_workers": "data.num_workers",
        "device": "device",
    }
)
# a task finds the rest of its settings in the data
SHORTEST = "-o task=cls -o data.root=FOLDER"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFiles:
    """Files that a command line names.

    Attributes:
        config: YAML file of the task and its training, or its content.
        slim: Recipes, with commas between: names of files in `recipes`, or paths.
        distill_config: Configs or checkpoints of teachers.
        overrides: `key.sub=value`.
        recipes: Folder of the recipes that have names.
    """

    config: str | Path | Mapping[str, Any] | None
    slim: str | None = None
    distill_config: Sequence[str] = ()
    overrides: Sequence[str] = ()
    recipes: Path = CONFIGS / "slim"

    @property
    def name(self) -> str:
        """Return the name of the run: those of the config and of the recipes, `_` between.

        A run without any, whose settings are all given one by one, is called `run`.
        """
        recipes = self.slim or (DISTILL if self.distill_config else "")
        config = self.config if isinstance(self.config, (str, Path)) else ""
        names = (Path(each).stem for each in (config, *recipes.split(",")) if str(each))
        return "_".join(names) or "run"


@dataclass(frozen=True)
class RunPlan:
    """A whole run in our own words.

    Attributes:
        settings: Config of the task and its training.
        recipe: Strategies; empty for plain training.
        teachers: One entry for each, as `core.distill.teacher.read_teacher` returns them.
        epochs_given: Whether the recipe or the command line gives the number of epochs.
        save_dir: Where the run goes; None if not given.
        resume: `auto` goes on from `save_dir` if there is something to go on from.
        use_vdl: Whether VisualDL scalars are written.
        use_tensorboard: Whether scalars for TensorBoard are written.
        foreign: Files of the recipe in the words of another project whose layers are to be found.
        origins: Path in the file that was translated by path of ours, for messages.
    """

    settings: Settings
    recipe: Settings = field(default_factory=dict)
    teachers: tuple[Settings, ...] = ()
    epochs_given: bool = False
    save_dir: str | None = None
    resume: str | None = None
    use_vdl: bool = False
    use_tensorboard: bool = False
    foreign: tuple[Translation, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)

    def to_mapping(self) -> Settings:
        """Return the content of one YAML file that describes the same run."""
        whole = dict(self.settings)
        if self.recipe:
            epochs = {"epochs": self.settings["train"]["epochs"]}
            whole["slim"] = {**epochs, **self.recipe}
        if self.teachers:
            whole["distill_config"] = [dict(each) for each in self.teachers]
        given = {"save_dir": self.save_dir, "resume": self.resume, "use_vdl": self.use_vdl or None}
        given["use_tensorboard"] = self.use_tensorboard or None
        return whole | {key: value for key, value in given.items() if value is not None}


@dataclass
class _Gathered:
    """Settings of the files, gathered one by one; later ones override earlier ones."""

    overrides: list[str]
    settings: Settings = field(default_factory=dict)
    recipes: dict[str, Settings] = field(default_factory=dict)
    own: Settings = field(default_factory=dict)  # keys of `OF_A_RUN`
    foreign: list[Translation] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)

    def add(self, content: Settings, name: str, is_recipe: bool) -> None:
        """Add a file, ours or of another project.

        Args:
            content: Content of the file.
            name: For messages.
            is_recipe: Whether a file of ours is a recipe, or a config.
        """
        translation, self.overrides = translated(content, self.overrides)
        if translation is None and is_recipe:
            self.recipes[_unused_name(name, self.recipes)] = content
            return
        if translation is None:
            self.own |= {key: content.pop(key) for key in OF_A_RUN if key in content}
            self.settings = merge(self.settings, content)
            return
        _log.info("%s: read as a file of %s", name, translation.dialect)
        tell_unused(name, translation)
        self.settings = merge(self.settings, translation.settings)
        self.origins |= self._moved(translation.origins)
        if translation.recipe:
            self.recipes[_unused_name(name, self.recipes)] = translation.recipe
        for key in ("save_dir", "resume"):
            if getattr(translation, key) is not None:
                self.own[key] = getattr(translation, key)
        if translation.use_vdl:
            self.own["use_vdl"] = True
        if translation.variables:
            self.foreign.append(translation)

    def _moved(self, origins: Mapping[str, str]) -> dict[str, str]:
        """Return origins as they are when their recipe follows those that are gathered."""
        before = {
            key: sum(len(r[key]) for r in self.recipes.values() if isinstance(r.get(key), list))
            for key in ("strategies", "exports")
        }
        moved = {}
        for ours, theirs in origins.items():
            key, _, rest = ours.partition(".")
            if key in before:
                number, dot, below = rest.partition(".")
                ours = f"{key}.{int(number) + before[key]}{dot}{below}"
            moved[ours] = theirs
        return moved

    def take_own_overrides(self) -> None:
        """Apply the overrides of a config's keys on its run, beside task and training."""
        rest = []
        for each in self.overrides:
            key = each.partition("=")[0].strip()
            if key == f"{SLIM}epochs":
                rest.append(each.replace(key, LENGTH, 1))
            elif key.startswith(SLIM):
                rest.append(each.strip()[len(SLIM) :])
            elif key in OF_A_RUN and "=" in each:
                self.own |= parse_overrides([each])
            else:
                rest.append(each)
        self.overrides = rest


def read_plan(files: RunFiles) -> RunPlan:
    """Read the files of a command line; its options override the recipe, the recipe the config.

    Raises:
        ConfigError: A file or an override is wrong.
    """
    gathered = _gather(files)
    own = gathered.own
    recipe = compose_recipes(gathered.recipes)
    teachers = read_teachers(files.distill_config, files.overrides, own.get("distill_config", []))
    if teachers and not recipe:
        recipe = compose_recipes(dict(_recipes(DISTILL, files.recipes)))
    with told_by(gathered.origins):
        epochs = recipe_epochs(recipe)
    settings = gathered.settings
    if epochs:
        settings = merge(settings, {"train": {"epochs": epochs}})
    of_recipe = [e for e in gathered.overrides if e.startswith(OF_RECIPE)]
    rest = [e for e in gathered.overrides if not e.startswith((TEACHER, *OF_RECIPE))]
    overrides = parse_overrides(rest)
    given = _epochs(overrides)
    if given is not None:
        recipe = _fitted(recipe, _epochs(settings), given)
    if of_recipe and not recipe:
        raise ConfigError(f"{of_recipe[0][:80]}: there is no recipe; name one with --slim")
    recipe, settings = override(recipe, of_recipe), merge(settings, overrides)
    if "task" not in settings:
        for near in difflib.get_close_matches("task", list(map(str, settings)), 1):
            raise ConfigError(f"{near[:80]}: unknown key (did you mean 'task'?)")
        config = "config" if isinstance(files.config, Mapping) else files.config
        names = " ".join(str(name) for name in (config, files.slim) if name)
        raise ConfigError(
            f"{names or 'config'}: says no task; name its config with -c, or {SHORTEST}"
        )
    return RunPlan(
        settings,
        recipe,
        tuple(teachers),
        epochs is not None or given is not None,
        _value(own, "save_dir", str),
        _value(own, "resume", str),
        bool(_value(own, "use_vdl", bool)),
        bool(_value(own, "use_tensorboard", bool)),
        tuple(gathered.foreign),
        _not_overridden(gathered.origins, overrides, of_recipe),
    )


def _not_overridden(
    origins: Mapping[str, str], settings: Settings, of_recipe: Sequence[str]
) -> dict[str, str]:
    """Return the origins without those of what the command line says in our own words."""
    given = {each.partition("=")[0].strip() for each in of_recipe}
    return {
        ours: theirs
        for ours, theirs in origins.items()
        if ours not in given and not _has(settings, ours)
    }


def _has(settings: Any, path: str) -> bool:
    key, _, below = path.partition(".")
    if not isinstance(settings, Mapping) or key not in settings:
        return False
    return not below or _has(settings[key], below)


def _gather(files: RunFiles) -> _Gathered:
    """Read the config and the recipes, with the overrides of the command line."""
    gathered = _Gathered(list(files.overrides))
    if isinstance(files.config, Mapping):
        gathered.add(copy.deepcopy(dict(files.config)), "config", is_recipe=False)
    elif files.config:
        gathered.add(load_yaml(files.config), str(files.config), is_recipe=False)
    config_slim = gathered.own.get("slim", [])
    gathered.take_own_overrides()
    if files.slim and gathered.own.get("slim", []) != config_slim:
        raise ConfigError(f"slim: given twice, as {files.slim} and with -o slim=")
    if files.slim and config_slim:
        text = "slim: %s takes the place of what the config says, %s"
        _log.warning(text, files.slim, shown(config_slim))
    for name, content in _recipes(files.slim or gathered.own.get("slim", []), files.recipes):
        gathered.add(content, name, is_recipe=True)
    rest = [each for each in gathered.overrides if not each.startswith(f"{FLAGS}do_eval")]
    gathered.overrides = [_of_a_flag(each) for each in rest]  # evaluated it is anyway
    return gathered


def _epochs(settings: Settings) -> Any:
    train = settings.get("train")
    return train.get("epochs") if isinstance(train, Mapping) else None


def _fitted(recipe: Settings, before: Any, epochs: Any) -> Settings:
    """Return a recipe for the number of epochs that the command line says."""
    if not recipe or type(epochs) is not int or epochs < 1:
        return recipe
    if type(before) is int and epochs < before:
        fitted = shortened(recipe, before, epochs)
        if fitted != recipe:
            _log.info(
                "train.epochs: %d in the place of %d, so the windows of the recipe are shortened "
                "in proportion; --dry_run shows them",
                *(epochs, before),
            )
        recipe = fitted
    return {**recipe, "epochs": epochs} if "epochs" in recipe else recipe


def settle(plan: RunPlan) -> tuple[RunPlan, Run, Recipe]:
    """Check a plan, find its layers, and settle for how long to train where the task can tell.

    Raises:
        ConfigError: Anything unknown or wrong.
    """
    with told_by(plan.origins):
        return _settled(plan)


def _settled(plan: RunPlan) -> tuple[RunPlan, Run, Recipe]:
    plan = replace(plan, settings=completed(plan.settings))
    run = read_run(plan.settings)
    epochs = None
    if not plan.epochs_given:
        epochs = suggested_epochs(plan.recipe, run.task, run.train.epochs)
    settings = merge(plan.settings, {"train": {"epochs": epochs}}) if epochs else plan.settings
    if epochs:
        run = replace(run, train=replace(run.train, epochs=epochs))
    read_recipe(plan.recipe, run.train.epochs, bool(plan.teachers))  # the rules, before all else
    mapping = plan.recipe
    for translation in plan.foreign:
        mapping = with_layers(mapping, translation, run.task, plan.teachers)
    recipe = read_recipe(mapping, run.train.epochs, bool(plan.teachers))
    settled = replace(plan, settings=settings, recipe=mapping, epochs_given=True, foreign=())
    return settled, run, recipe


def _recipes(named: Any, folder: Path) -> list[tuple[str, Settings]]:
    """Read recipes by name or path; a mapping is one that a config holds."""
    if isinstance(named, str):
        named = named.split(",")
    entries = [named] if isinstance(named, Mapping) else named
    if not isinstance(entries, list) or not all(isinstance(e, (str, Mapping)) for e in entries):
        raise ConfigError(f"slim: expected names of recipes or a recipe, got {named!r}")
    found: list[tuple[str, Settings]] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, Mapping):
            found.append((f"slim.{index}", dict(entry)))
            continue
        file = folder / f"{entry}.yml"
        found.append((entry, load_yaml(file if file.is_file() else _existing(entry, folder))))
    return found


def _existing(recipe: str, folder: Path) -> str:
    """Return the path of a recipe; refuse a name that is none."""
    if os.path.lexists(recipe) or Path(recipe).name != recipe or Path(recipe).suffix:
        return recipe
    names = sorted(file.stem for file in folder.glob("*.yml"))
    raise ConfigError(f"slim: no recipe {recipe[:80]!r}{suggest(recipe[:80], names)}")


def _of_a_flag(assignment: str) -> str:
    """Return the override of a config that a flag means, where the file is not of PaddleSeg."""
    if not assignment.startswith(FLAGS):
        return assignment
    name, _, value = assignment[len(FLAGS) :].partition("=")
    if name not in OF_FLAGS:
        raise ConfigError(
            f"--{name}: belongs to files of PaddleSeg; here train.epochs, train.steps_per_epoch "
            "and train.eval_every say how long to train and when to evaluate"
        )
    return f"{OF_FLAGS[name]}={value}"


def _unused_name(name: str, taken: Mapping[str, Any]) -> str:
    return name if name not in taken else _unused_name(f"{name} (again)", taken)


def _value(own: Mapping[str, Any], key: str, kind: type) -> Any:
    value = own.get(key)
    if value is not None and not isinstance(value, kind):
        raise ConfigError(f"{key}: expected {kind.__name__}, got {value!r}")
    return value
