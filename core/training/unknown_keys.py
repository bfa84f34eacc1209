"""What a wrong key of a config may be meant for, wherever in the config that has its place."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core.settings.config import suggest
from core.settings.other_names import UnknownKeyError, other_name

CUTOFF = 0.8  # of likeness, for a key in another section


def key_paths(cls: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted paths of all settings of a dataclass, outer ones first.

    Args:
        cls: A dataclass, or a union of some.
        path: Of its section.
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


def in_other_section(error: UnknownKeyError, known: Sequence[str]) -> UnknownKeyError:
    """Return the error with a better suggestion, where the key belongs to another section.

    Args:
        error: Of reading a config.
        known: The dotted paths of all settings.
    """
    section, _, wrong = error.path.rpartition(".")
    if section and "did you mean" in error.hint:
        return UnknownKeyError(error.path, error.hint)
    elsewhere: dict[str, str] = {}  # the first path that ends so
    for path in known:
        elsewhere.setdefault(path.rpartition(".")[2], path)
    name = wrong if wrong in elsewhere else other_name(wrong, elsewhere)
    if name is None and "did you mean" not in error.hint:
        name = next(iter(difflib.get_close_matches(wrong, elsewhere, 1, CUTOFF)), None)
    hint = error.hint if name is None else f" (did you mean {elsewhere[name]!r}?)"
    return UnknownKeyError(error.path, hint)


def check_sections(
    settings: Mapping[str, Any], known: Sequence[str], others: Sequence[str]
) -> None:
    """Refuse a section that there is not, before the one that it is meant for is missed.

    Args:
        settings: The content of a config.
        known: The dotted paths of all settings.
        others: What else may stand at the top.

    Raises:
        ConfigError: Names the first that is unknown.
    """
    sections = [*(path for path in known if "." not in path), *others]
    for name in (str(key)[:80] for key in settings):
        if name not in sections:
            raise in_other_section(UnknownKeyError(name, suggest(name, sections)), known)
