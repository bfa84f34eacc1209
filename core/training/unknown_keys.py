"""Suggest the key that a wrong key of a config may be meant for, in any section."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core.errors import MOST_PROBLEMS
from core.settings.config import suggest
from core.settings.other_names import UnknownKey, other_name

CUTOFF = 0.8  # least likeness of a key in another section


def key_paths(cls: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted paths of all settings of a dataclass, outer ones first.

    Args:
        cls: A dataclass, or a union of some.
        path: Path of its section.
    """
    kinds = [each for each in (cls, *typing.get_args(cls)) if dataclasses.is_dataclass(each)]
    inner = []
    for kind in kinds:
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            place = f"{path}.{field.name}" if path else field.name
            yield place
            inner.append((hints[field.name], place))
    for hint, place in inner:
        yield from key_paths(hint, place)


def in_other_section(problem: str, known: Sequence[str]) -> str:
    """Return a message with a better suggestion, where its key belongs to another section.

    Args:
        problem: Message of reading a config; others than on unknown keys are returned.
        known: The dotted paths of all settings.
    """
    if not isinstance(problem, UnknownKey):
        return problem
    section, _, wrong = problem.path.rpartition(".")
    elsewhere: dict[str, str] = {}  # the first path that ends so
    for path in known:
        elsewhere.setdefault(path.rpartition(".")[2], path)
    if section and "did you mean" in problem.hint and wrong not in elsewhere:
        return problem
    if problem.path in known:  # a setting of another kind
        return UnknownKey(problem.path, f" of this kind{problem.hint}")
    name = wrong if wrong in elsewhere else other_name(wrong, elsewhere)
    if name is None and "did you mean" not in problem.hint:
        name = next(iter(difflib.get_close_matches(wrong, elsewhere, 1, CUTOFF)), None)
    hint = problem.hint
    if name is not None:
        top = " at the top of the file" if section and "." not in elsewhere[name] else ""
        hint = f" (did you mean {elsewhere[name]!r}{top}?)"
    return UnknownKey(problem.path, hint)


def unknown_sections(
    settings: Mapping[str, Any], known: Sequence[str], others: Sequence[str]
) -> dict[str, str]:
    """Return a message for each section that there is not.

    Args:
        settings: The content of a config.
        known: The dotted paths of all settings.
        others: Other keys that may stand at the top.
    """
    sections = [*(path for path in known if "." not in path), *others]
    wrong = {key: str(key)[:80] for key in settings if key not in sections}
    told = list(wrong)[:MOST_PROBLEMS]  # no more are shown, and hints take their time
    return {key: UnknownKey(name, "") for key, name in wrong.items()} | {
        key: in_other_section(UnknownKey(wrong[key], suggest(wrong[key], sections)), known)
        for key in told
    }
