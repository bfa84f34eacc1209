"""The teachers of a run, from the command line, the config and files of other projects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.dialects.files import tell_unused, translated
from core.dialects.foreign import Settings
from core.distill.teacher import SOURCE, TEACHING, WEIGHTS, read_teacher
from core.errors import ConfigError
from core.settings.config import merge, parse_overrides

TEACHER = "teacher."  # begins an override that is for the teacher


def read_teachers(named: Sequence[str], overrides: Sequence[str], own: Any) -> list[Settings]:
    """Return the settings of each teacher of a run.

    Args:
        named: Files of the command line.
        overrides: `key=value` of the command line; those of a teacher are used.
        own: What the config says under `distill_config`, where the command line names none.

    Raises:
        ConfigError: A file or an override is wrong, or belongs to no teacher.
    """
    given: Any = list(named) or ([own] if isinstance(own, str) else own)
    if not isinstance(given, list) or not all(isinstance(each, (str, Mapping)) for each in given):
        raise ConfigError(f"distill_config: expected a list of files or settings, got {given!r}")
    changes = [e[len(TEACHER) :] for e in overrides if e.startswith(TEACHER)]
    teachers = []
    for index, each in enumerate(given):
        if isinstance(each, Mapping):
            teachers.append({SOURCE: f"distill_config.{index}", **each})
        else:
            teachers.append(_teacher(each))
    if not changes:
        return teachers
    if len(teachers) != 1:
        found = "there is none" if not teachers else f"{len(teachers)} are given"
        raise ConfigError(f"teacher: -o teacher.{changes[0]} needs one teacher, {found}")
    return [merge(teachers[0], parse_overrides(changes))]


def _teacher(path: str) -> Settings:
    """Read the file of a teacher, ours or of another project."""
    settings = read_teacher(path)
    content = {key: value for key, value in settings.items() if key != SOURCE}
    translation, _ = translated(content)
    if translation is None:
        return settings
    tell_unused(path, translation)
    teacher = {SOURCE: path, **translation.settings}
    if translation.weights is not None:
        teacher[WEIGHTS] = translation.weights
    if translation.distill is not None:
        teacher[TEACHING] = translation.distill
    return teacher
