"""Read a file in another project's words: each key acts, is listed as unused, or is refused."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import ConfigError
from core.settings.config import read, suggest

REQUIRED: Any = object()  # the default of a key that must be given
Settings = dict[str, Any]
IntPair = tuple[int, int]


@dataclass(frozen=True)
class Translation:
    """A file of another project in our own words.

    Attributes:
        dialect: Whose words they were.
        settings: Settings of a run; they go on top of a config that is named beside.
        recipe: As `core.training.recipe.read_recipe` reads it.
        distill: Settings of a teacher, as `core.distill.teacher.TeachingConfig` reads them.
        weights: Weights of a teacher, which is trained already.
        save_dir: Where the run goes.
        resume: `auto` goes on from `save_dir` if there is something to go on from.
        use_vdl: Whether VisualDL scalars are written.
        export_dir: Where an export of the trained model goes, or is.
        layers: Layer path, or pattern on weights, by the name that the file has for it.
        teacher_layers: Likewise of the teacher.
        variables: Whether names of layers in the recipe may be variables of a program.
        unused: Keys that only other software reads.
        origins: Path in the file by path of ours, see `core.dialects.origins`.
    """

    dialect: str
    settings: Settings = field(default_factory=dict)
    recipe: Settings = field(default_factory=dict)
    distill: Settings | None = None
    weights: str | bool | None = None
    save_dir: str | None = None
    resume: str | None = None
    use_vdl: bool = False
    export_dir: str | None = None
    layers: Mapping[str, str] = field(default_factory=dict)
    teacher_layers: Mapping[str, str] = field(default_factory=dict)
    variables: bool = False
    unused: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)


class Section:
    """A mapping of a foreign file of which every key must be accounted for.

    A key that is null counts as left out, as it does in the projects that the files come from.

    Args:
        content: Content of the file at that path.
        path: Dotted path in the file, for messages.
        unused: Keys that only other software reads are added to it.

    Raises:
        ConfigError: It is no mapping.
    """

    def __init__(self, content: Any, path: str, unused: list[str]) -> None:
        content = {} if content is None else content
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path}: expected a mapping, got {type(content).__name__}")
        self.content: Mapping[Any, Any] = content
        self.path = path
        self.notes = unused
        self._known: list[str] = []

    def where(self, key: object) -> str:
        """Return the dotted path of a key."""
        return f"{self.path}.{key}" if self.path else str(key)

    def has(self, key: str) -> bool:
        """Tell whether a key is given."""
        return self.content.get(key) is not None

    def knows(self, key: object) -> bool:
        """Tell whether a key was taken, refused or put aside already."""
        return key in self._known

    def take(self, key: str, wanted: Any, default: Any = REQUIRED) -> Any:
        """Return the value of a key, checked as `core.settings.config.read` checks a field.

        Raises:
            ConfigError: It is of another type, or required and not given.
        """
        self._known.append(key)
        if not self.has(key):
            if default is REQUIRED:
                raise ConfigError(f"{self.where(key)}: required, but not given")
            return default
        return read(wanted, self.content[key], self.where(key))

    def positive(self, key: str, default: Any = REQUIRED) -> Any:
        """Return a finite number above 0.

        Raises:
            ConfigError: It is something else.
        """
        value = self.take(key, float, default)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{self.where(key)}: expected > 0, got {value}")
        return value

    def path_of(self, key: str, below: str | None = None, default: Any = REQUIRED) -> Any:
        """Return a path, as seen from a folder if one is given.

        Raises:
            ConfigError: It is no text, or an empty one.
        """
        value = self.take(key, str, default)
        if value == "":
            raise ConfigError(f"{self.where(key)}: expected a path, got ''")
        return value if below is None or value is None else os.path.relpath(value, below)

    def section(self, key: str) -> Section:
        """Return the mapping under a key; an empty one if there is none."""
        self._known.append(key)
        return Section(self.content.get(key), self.where(key), self.notes)

    def sections(self, key: str) -> list[Section]:
        """Return the mappings in the list under a key; none if there is none."""
        entries = self.take(key, list[Any], [])
        return [Section(e, f"{self.where(key)}.{i}", self.notes) for i, e in enumerate(entries)]

    def named(self, key: str) -> list[tuple[str, Section]]:
        """Return the entries `- Name: {...}` of the list under a key."""
        found = []
        for entry in self.sections(key):
            if len(entry.content) != 1:
                raise ConfigError(f"{entry.path}: expected one name with its settings")
            [name] = entry.content
            found.append((str(name), entry.section(name)))
        return found

    def put_aside(self, *keys: str) -> None:
        """Note keys that only other software reads."""
        self._known += keys
        self.notes += [self.where(key) for key in keys if key in self.content]

    def refuse(self, key: str, reason: str, unless: Sequence[Any] = ()) -> None:
        """Refuse a key that cannot act here, other than with a value that changes nothing.

        Raises:
            ConfigError: It is given.
        """
        self._known.append(key)
        value = self.content.get(key)
        if value is not None and not any(value is u or value == u for u in unless):
            raise ConfigError(f"{self.where(key)}: {reason}")

    def finish(self) -> None:
        """Refuse what is left.

        Raises:
            ConfigError: A key that this dialect does not have.
        """
        for key in self.content:
            if key not in self._known:
                hint = suggest(str(key), sorted(set(self._known)))
                raise ConfigError(f"{self.where(key)}: unknown key{hint}")


def ratio_of(text: Any, where: str) -> float:
    """Read a number, or a fraction like `1.0/255.0`, which some files leave to `eval`.

    Raises:
        ConfigError: It is neither.
    """
    parts = str(text).split("/")
    try:
        value = float(parts[0]) / float(parts[1]) if len(parts) == 2 else float(text)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{where}: expected a number, got {text!r}") from error
    return value


def schedule_with_warmup(
    schedule: Settings, rate: float, warmup_epochs: float, warmup_start: float
) -> Settings:
    """Add a warm-up to a schedule of ours.

    Its milestones are counted from where the warm-up ends, as Paddle's `LinearWarmup` does.

    Args:
        schedule: With its `kind`.
        rate: The learning rate it ends at.
        warmup_epochs: How long it lasts.
        warmup_start: The learning rate it begins with.
    """
    if not warmup_epochs:
        return schedule
    if "milestones" in schedule:
        later = [warmup_epochs + each for each in schedule["milestones"]]
        schedule = {**schedule, "milestones": later}
    return {
        **schedule,
        "warmup_epochs": warmup_epochs,
        "warmup_start": min(warmup_start / rate, 1.0),
    }


def piecewise(values: Sequence[float], milestones: Sequence[float], where: str) -> Settings:
    """Return our schedule of steps.

    Raises:
        ConfigError: The values are not one more than the milestones, or rise.
    """
    if len(values) != len(milestones) + 1 or min(values) <= 0:
        raise ConfigError(
            f"{where}: expected {len(milestones) + 1} rates above 0, one more than milestones, "
            f"got {list(values)}"
        )
    factors = [after / before for before, after in itertools.pairwise(values)]
    if any(factor > 1 for factor in factors):
        raise ConfigError(f"{where}: expected rates that fall, got {list(values)}")
    return {"kind": "piecewise", "milestones": list(milestones), "gamma": factors}


def adamw(optimizer: Section) -> Settings:
    """Return the settings of AdamW in a section on Adam or AdamW."""
    defaults = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    given = {key: optimizer.take(key, float, default) for key, default in defaults.items()}
    return {"kind": "adamw", **given}


def refuse_decay_of_adam(key: str, name: str, decay: float) -> None:
    """Refuse Adam with weight decay, which is another thing there than with AdamW.

    Raises:
        ConfigError: There is decay.
    """
    if decay:
        raise ConfigError(
            f"{key}: expected 0 with {name}; AdamW decays weights apart from the gradient, got "
            f"{decay:g}"
        )
