"""The task and the model that a user names: by a config, a checkpoint or exported files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddle.nn import Layer

from core.dialects.files import translated
from core.dialects.foreign import Translation
from core.dialects.origins import told_by
from core.errors import ConfigError
from core.runtimes.description import DESCRIPTION, DeployDescription, Port, TaskSettings
from core.runtimes.foreign import fitted_task, tell_of_free_sizes
from core.settings.config import load_yaml, merge, parse_overrides
from core.task import Task, build_recorded_task
from core.training import checkpoint
from core.training.run import read_run

Described = tuple[str, dict[str, Any], str]  # name of a task, its settings, the file that says so

COUNTS = ("num_classes", "num_joints")  # of a network's answers
SHORTEST = "a file with two lines: 'task: cls' and 'data: {root: FOLDER}'"


def read_config(
    config: str | Path, overrides: Sequence[str]
) -> tuple[dict[str, Any], Translation | None, list[str]]:
    """Return a config in our own words, its translation if it is not, and the overrides left."""
    content = load_yaml(config)
    translation, rest = translated(content, overrides)
    return (content if translation is None else translation.settings), translation, rest


def chosen_task(
    config: str | Path | None, overrides: Sequence[str], described: Described | None = None
) -> Task | None:
    """Build the task of a config, else the one that a model describes, with overrides on top.

    Args:
        config: YAML file, ours or of another project; None: the model says it.
        overrides: `key.sub=value`.
        described: Task that the model describes; None if it describes none.

    Returns:
        None if neither says what task it is.
    """
    if config is not None:
        settings, translation, rest = read_config(config, overrides)
        if translation is not None:
            settings.pop("device", None)  # it is meant for training
        with told_by({} if translation is None else translation.origins):
            return read_run(merge(settings, parse_overrides(rest))).task
    if described is None:
        return None
    return build_recorded_task(*described, parse_overrides(overrides))


def restored(
    weights: str | Path, config: str | Path | None, overrides: Sequence[str]
) -> tuple[Task, Layer]:
    """Return a model from its weights, with the task of the config or of the checkpoint.

    Raises:
        CheckpointError: As `core.training.checkpoint.restore`.
        ConfigError: The config or an override is wrong.
    """
    found = checkpoint.load_description(weights)
    where = str(checkpoint.description_path(weights))
    described = None if found is None else (found.task, found.settings, where)
    return checkpoint.restore(weights, chosen_task(config, overrides, described))


def exported_task(
    model_dir: str | Path,
    description: DeployDescription | None,
    inputs: Sequence[Port],
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Task:
    """Build the task of a config, else the one that an exported model's `deploy.yml` names.

    Its images get the size that the model takes.

    Args:
        model_dir: Named in messages.
        description: Content of `deploy.yml`; None if there is none.
        inputs: Inputs of the model.
        config: YAML file; None: `deploy.yml` says it.
        overrides: `key.sub=value`.

    Raises:
        ConfigError: Neither says what task it is, they say different ones, or the model ends in
            layers.
        ExportError: The model takes no images.
    """
    if description is not None:
        description.check_whole(model_dir)
    said = description.task if description else None
    where = str(Path(model_dir, DESCRIPTION))
    described = (said.name, said.settings, where) if said else None
    task = chosen_task(config, overrides, described)
    if task is None:
        raise ConfigError(f"{model_dir}: has no deploy.yml; name its config (-c), {SHORTEST}")
    if said is None:
        tell_of_free_sizes(task, inputs, model_dir)
    else:
        _check_fits(task, said, model_dir)
    return fitted_task(task, inputs, model_dir)


def _check_fits(task: Task, exported: TaskSettings, model_dir: str | Path) -> None:
    """Refuse a config of another task, or with another number of classes or joints.

    Raises:
        ConfigError: Says what the model was exported from.
    """
    if task.name != exported.name:
        raise ConfigError(
            f"{model_dir}: was exported from the task {exported.name!r}, the config is of "
            f"{task.name!r}"
        )
    before = exported.settings.get("model")
    for key in COUNTS:
        count = before.get(key) if isinstance(before, dict) else None
        given = getattr(getattr(task.config, "model", None), key, None)
        if None not in (count, given) and count != given:
            raise ConfigError(f"model.{key}: {model_dir} was exported with {count}, got {given}")
