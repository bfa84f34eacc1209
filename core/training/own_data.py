"""Complete a config of three lines from the data and from the task's defaults.

The config overrides the data, and the data override the defaults. Nothing is looked at
where data are drawn or fetched, and for tasks that offer no `own_data`. A checkpoint says it all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from core.errors import ConfigError
from core.settings.config import merge
from core.task import build_task, load_package, own_tasks
from core.training.inspection import Inspection, Labelled, OwnData

# a learning rate goes with an optimizer and a schedule: a config that has the first chose those too
_WITH_RATE = ("optimizer", "schedule")


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings, completed.

    Args:
        settings: Settings of the whole run, as a config gives them; `task: cls` is short for
            `task: {name: cls}`.

    Raises:
        DataError: The data contradict themselves.
    """
    given = dict(settings)
    if isinstance(given.get("task"), str):
        given["task"] = {"name": given["task"]}
    own = _own_data(given)
    if own is None:
        return given
    defaults = _defaults(own, given)
    whole = merge(defaults, given)
    if _lies_there(whole):
        whole = merge(merge(defaults, own.from_data(whole)), given)
    return {key: whole[key] for key in (*given, *(each for each in whole if each not in given))}


def inspections(root: str, tasks: tuple[str, ...] = ()) -> list[Inspection]:
    """Let tasks inspect a folder; the task that is most certain of the data comes first.

    Args:
        root: Root folder of the data.
        tasks: Names; none: all in `tasks/`.
    """
    found = []
    for name in tasks or own_tasks():
        given = {"task": {"name": name}, "data": {"root": root}}
        own = _own_data(given)
        if own is not None:
            found.append(own.inspect(merge(_defaults(own, given), given)))
    return sorted(found, key=lambda each: -each.sure)


def short_config(inspection: Inspection, root: str) -> str:
    """Return the lines of YAML that train on inspected data."""
    own = _own_data({"task": {"name": inspection.task}})
    model = own.DEFAULTS["model"] if own is not None else {}
    sections = {"data": {"root": root}, "model": dict(model)}
    lines = [
        yaml.safe_dump({key: each}, default_flow_style=None, sort_keys=False)
        for key, each in sections.items()
    ]
    return f"task: {inspection.task}\n{''.join(lines)}"


def labelled_pictures(inspection: Inspection, root: str, count: int) -> list[Labelled]:
    """Return pictures of inspected data with their labels drawn.

    Raises:
        DataError: They cannot be read.
    """
    own, config = _own_config(inspection, root)
    return own.labelled(config, count)


def write_lists(inspection: Inspection, root: str, folder: Path) -> Mapping[str, Any]:
    """Write a split that was drawn as list files; return the settings of `data` that read them.

    Raises:
        FileError: They cannot be written.
    """
    own, config = _own_config(inspection, root)
    return own.write_lists(config, folder)


def _own_config(inspection: Inspection, root: str) -> tuple[OwnData, Any]:
    settings = completed({"task": {"name": inspection.task}, "data": {"root": root}})
    own = _own_data(settings)
    assert own is not None  # it has inspected
    sections = {key: each for key, each in settings.items() if key not in ("task", "train")}
    return own, build_task(inspection.task, sections).config


def _own_data(settings: Mapping[str, Any]) -> OwnData | None:
    """Return the module `own_data` of the task that settings name, if there is one."""
    task = settings.get("task")
    name = task.get("name") if isinstance(task, Mapping) else None
    if not isinstance(name, str):
        return None
    try:
        found: OwnData | None = getattr(load_package(name), "own_data", None)
    except ConfigError:  # told when the task is built
        return None
    return found


def _defaults(own: OwnData, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults that go with what is given."""
    defaults = {section: dict(values) for section, values in own.DEFAULTS.items()}
    train, model = given.get("train"), given.get("model")
    if isinstance(train, Mapping) and "learning_rate" in train:
        defaults["train"] = {k: v for k, v in defaults["train"].items() if k not in _WITH_RATE}
    if isinstance(model, Mapping) and "name" in model:
        del defaults["model"]  # all of them are for the network of that name
    return defaults


def _lies_there(settings: Mapping[str, Any]) -> bool:
    """Tell whether there are data to look at, which are neither drawn nor fetched."""
    data = settings.get("data")
    if settings.get("synthetic") is not None or not isinstance(data, Mapping):
        return False
    root = data.get("root")
    if data.get("download") is not None or not isinstance(root, str) or not root or "\0" in root:
        return False
    try:
        return Path(root).is_dir()
    except OSError:  # a name that no folder can have
        return False
