"""Typed settings: YAML files in, frozen dataclasses out; nothing unknown is ever dropped."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import json
import math
import os
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from core.errors import ConfigError
from core.settings.conversion import Problems, convert, join, suggest, typename
from core.settings.home import find_config, known_configs
from core.settings.reading import read_text
from core.settings.yaml_loader import MOST_DEPTH, parse_yaml, shown

__all__ = [
    "Problems",
    "assignment",
    "check_plain",
    "check_words",
    "load_one_yaml",
    "load_yaml",
    "merge",
    "override",
    "parse_overrides",
    "read",
    "suggest",
    "to_mapping",
]
T = TypeVar("T")
BASE_KEY = "_base_"
INHERITED = "_inherited_"  # false in a mapping: nothing of the base's is kept in it
MOST_BYTES = 1 << 20  # largest file
LARGEST = 2**63 - 1
LONGEST = 2048  # longest text
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
_COMMENT = re.compile(r"(?:^|\s)#")  # where one begins
_WORD = re.compile(r"(nn\.)?[A-Za-z0-9_-]*")


def read(cls: type[T], mapping: Any, path: str = "", measured: bool = False) -> T:
    """Build the dataclass `cls` from a mapping, checking every key and type.

    A union of dataclasses is told apart by the key `kind`, which each of them names in a class
    variable `kind`. A `ValueError` raised by `__post_init__` becomes a `ConfigError`; its text
    should begin with the field it is about.

    Args:
        cls: A dataclass; fields may be scalars, `Literal`, `X | None`, lists, tuples, dicts and
            dataclasses.
        mapping: Content of the YAML file.
        path: Dotted path of `mapping` in the whole config, for messages.
        measured: These are no settings, but what was found out: NaN and infinity occur.

    Raises:
        ConfigError: Unknown or missing key, wrong type, or a value the dataclass refuses.
    """
    if not measured:
        check_plain(mapping, path)
    value = convert(cls, mapping, path)
    return typing.cast(T, value)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file and merge it over the files that its `_base_` key names (relative to it).

    Args:
        path: The user's file, or the name of one that comes with TriSlim, see `find_config`.

    Raises:
        ConfigError: The file is absent, is not YAML, repeats a key, or is its own ancestor.
    """
    return _load_with_bases(find_config(path), (), {})


def load_one_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file alone: a `_base_` in it is a key like any other.

    Raises:
        ConfigError: The file is absent, is not YAML, or repeats a key.
    """
    if not os.path.lexists(path):
        near = difflib.get_close_matches(str(path)[:80], known_configs(), n=1, cutoff=0.8)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"{path}: no such config file{hint}")
    try:
        content = parse_yaml(read_text(path, ConfigError, MOST_BYTES))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {_first_line(error)}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {typename(content)}")
    return content


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid on top; mappings merge, anything else is replaced.

    A mapping whose `kind` differs from the one below replaces it whole: settings of one kind
    mean nothing to another. So does one with `_inherited_: false`, as in PaddleSeg's files.
    """
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(value.get(INHERITED), bool):
            below = below if value[INHERITED] else None
            value = {name: each for name, each in value.items() if name != INHERITED}
        if isinstance(below, Mapping) and isinstance(value, Mapping) and _same_kind(below, value):
            merged[key] = merge(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def assignment(key: str, value: str | float) -> str:
    """Return the override that sets a key to a value; a text arrives as it is, such as a path."""
    with contextlib.suppress(ConfigError):
        if parse_overrides([f"k={value}"]) == {"k": value}:
            return f"{key}={value}"
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def parse_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn `["train.epochs=3", "model.name=X"]` into a nested mapping; values are read as YAML.

    There are no comments in them: ` #` is part of a text without quotes.

    Raises:
        ConfigError: An assignment without `=`, or one that is not YAML.
    """
    result: dict[str, Any] = {}
    for each in assignments:
        key, equals, text = each.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{each[:80]}: an override is written key.sub=value")
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            said = _first_line(error)
            raise ConfigError(f"{key[:80]}: {shown(text)} is not YAML: {said}") from error
        if _COMMENT.search(text) and (value is None or value == _COMMENT.split(text)[0].strip()):
            value = text.strip()
        parts = key.strip().split(".")
        if len(parts) > MOST_DEPTH:
            raise ConfigError(f"{key[:80]}: nested deeper than {MOST_DEPTH} levels")
        for part in reversed(parts):
            value = {part: value}
        result = merge(result, value)
    return result


def override(settings: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return settings with `key.sub=value` on top; a number picks an entry of a list.

    Raises:
        ConfigError: An assignment without `=`, one that is not YAML, or a list without the entry.
    """
    changed = copy.deepcopy(dict(settings))
    for assignment in assignments:
        parse_overrides([assignment])  # refuses other arguments
        key, _, text = assignment.partition("=")
        parts, value = key.strip().split("."), parse_yaml(text)
        changed = _with_value(changed, parts, value, key.strip())
    return changed


def _with_value(below: Any, parts: list[str], value: Any, key: str) -> Any:
    if not parts:
        return merge(below, value) if _both_mappings(below, value) else value
    first, rest = parts[0], parts[1:]
    if isinstance(below, list):
        if not first.isdecimal() or int(first) >= len(below):
            raise ConfigError(f"{key}: a list with {len(below)} entries has no {first!r}")
        index = int(first)
        return [
            (_with_value(each, rest, value, key) if rest else value) if i == index else each
            for i, each in enumerate(below)
        ]
    mapping = dict(below) if isinstance(below, Mapping) else {}
    mapping[first] = _with_value(mapping.get(first), rest, value, key)
    return mapping


def _both_mappings(below: Any, value: Any) -> bool:
    return isinstance(below, Mapping) and isinstance(value, Mapping) and _same_kind(below, value)


def check_words(value: Any, path: str) -> None:
    """Refuse texts that are more than a word or a name like `nn.LayerNorm`, however deep they lie.

    Some constructors of PaddleClas and PaddleSeg hand arguments to `eval`, and the settings of a
    model may come in a file from elsewhere.

    Raises:
        ConfigError: Names the argument.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            check_words(key, path)
            check_words(each, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            check_words(each, f"{path}.{index}")
    elif isinstance(value, str) and _WORD.fullmatch(value) is None:
        raise ConfigError(f"{path}: expected a word (letters, digits, _ and -), got {shown(value)}")


def check_plain(value: Any, path: str) -> None:
    """Refuse values that are never legal settings, at any depth.

    That is NaN and infinity, whole numbers that no machine word holds, and texts that are too long
    or cannot be written: with NUL or half of a surrogate pair.

    Raises:
        ConfigError: Names the setting.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            check_plain(key, path or "settings")
            check_plain(each, join(path, key))
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            check_plain(each, join(path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: expected a finite number, got {value}")
    elif isinstance(value, float) and 0 < abs(value) < sys.float_info.min:
        least = f"{sys.float_info.min:.1e}"
        raise ConfigError(f"{path}: expected 0, or at least {least} in size, got {value}")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise ConfigError(f"{path}: expected a number up to {LARGEST:,}, got {shown(value)}")
    elif isinstance(value, str) and len(value) > LONGEST:
        raise ConfigError(f"{path}: expected up to {LONGEST} characters, got {len(value)}")
    elif isinstance(value, str) and _UNWRITABLE.search(value):
        raise ConfigError(f"{path}: expected a text without NUL and surrogates, got {shown(value)}")


def to_mapping(config: Any) -> Any:
    """Return a dataclass as plain mappings and lists that `read` turns back into an equal one."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        plain = {
            field.name: to_mapping(getattr(config, field.name))
            for field in dataclasses.fields(config)
        }
        kind = getattr(type(config), "kind", None)
        return {"kind": kind, **plain} if isinstance(kind, str) else plain
    if isinstance(config, Mapping):
        return {key: to_mapping(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_mapping(value) for value in config]
    return config


def _load_with_bases(
    path: Path, children: tuple[str, ...], known: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Read a file over its bases; a file in `known` is not read again."""
    content = load_one_yaml(path)
    resolved = os.path.realpath(path)
    if resolved in children:
        raise ConfigError(f"{path}: {BASE_KEY} leads back to the file itself")
    if len(children) >= MOST_DEPTH:
        raise ConfigError(f"{path}: {BASE_KEY} leads over more than {MOST_DEPTH} files")
    if resolved in known:
        return known[resolved]
    bases = content.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        got = shown(bases)
        raise ConfigError(f"{path}: {BASE_KEY}: expected a path or a list of paths, got {got}")
    if len(bases) > MOST_DEPTH:
        raise ConfigError(f"{path}: {BASE_KEY}: expected up to {MOST_DEPTH}, got {len(bases)}")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = merge(merged, _load_with_bases(path.parent / base, (*children, resolved), known))
    known[resolved] = merge(merged, content)
    return known[resolved]


def _same_kind(below: Mapping[str, Any], over: Mapping[str, Any]) -> bool:
    return "kind" not in over or "kind" not in below or over["kind"] == below["kind"]


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())
