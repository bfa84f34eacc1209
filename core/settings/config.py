"""Typed settings: YAML files in, frozen dataclasses out; nothing unknown is ever dropped."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from core.errors import ConfigError
from core.settings.home import find_config, known_configs
from core.settings.other_names import UnknownKeyError, other_name
from core.settings.reading import read_text
from core.settings.yaml_loader import MOST_DEPTH, parse_yaml, shown

T = TypeVar("T")
BASE_KEY = "_base_"
MOST_BYTES = 1 << 20  # of a file
MOST_CHARACTERS = 400  # of a key, or of what a dataclass says
LARGEST = 2**63 - 1
LONGEST = 2048  # of a text
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
_WORD = re.compile(r"(nn\.)?[A-Za-z0-9_-]*")


def read(cls: type[T], mapping: Any, path: str = "", measured: bool = False) -> T:
    """Build the dataclass `cls` from a mapping, checking every key and type.

    A union of dataclasses is told apart by the key `kind`, which each of them names in a class
    variable `kind`. A `ValueError` raised by `__post_init__` becomes a `ConfigError`; its text
    should begin with the field it is about.

    Args:
        cls: A dataclass; fields may be scalars, `Literal`, `X | None`, lists, tuples, dicts and
            dataclasses.
        mapping: What the YAML file says.
        path: Dotted path of `mapping` in the whole config, for messages.
        measured: These are no settings, but what was found out: NaN and infinity occur.

    Raises:
        ConfigError: Unknown or missing key, wrong type, or a value the dataclass refuses.
    """
    if not measured:
        check_plain(mapping, path)
    value = _convert(cls, mapping, path)
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
        raise ConfigError(f"{path}: expected a mapping of settings, got {_typename(content)}")
    return content


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid on top; mappings merge, anything else is replaced.

    A mapping whose `kind` differs from the one below replaces it whole: settings of one kind
    mean nothing to another.
    """
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping) and _same_kind(below, value):
            merged[key] = merge(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def parse_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn `["train.epochs=3", "model.name=X"]` into a nested mapping; values are read as YAML.

    Raises:
        ConfigError: An assignment without `=`, or one that is not YAML.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{assignment[:80]}: an override is written key.sub=value")
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            said = _first_line(error)
            raise ConfigError(f"{key[:80]}: {shown(text)} is not YAML: {said}") from error
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
        parse_overrides([assignment])  # complains of what is no assignment
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
    model may come in a file that somebody else made.

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
    """Refuse what is never a legal setting, however deep it lies.

    That is NaN and infinity, whole numbers that no machine word holds, and texts that are too long
    or cannot be written: with NUL or half of a surrogate pair.

    Raises:
        ConfigError: Names the setting.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            check_plain(key, path or "settings")
            check_plain(each, _join(path, key))
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            check_plain(each, _join(path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: expected a finite number, got {value}")
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


def suggest(wrong: str, known: Sequence[str]) -> str:
    """Return ` (did you mean 'x'?)` for the nearest known name, or the list of what is known."""
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (known: {', '.join(sorted(known))})" if known else ""


def _load_with_bases(
    path: Path, children: tuple[str, ...], known: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Read a file over its bases; what is `known` by its path is not read again."""
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


def _convert(wanted: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, path)
    if origin is Literal:
        if any(value == each and type(value) is type(each) for each in arguments):
            return value
        names = [str(a) for a in arguments]
        raise ConfigError(
            f"{path}: expected one of {', '.join(names)}, got {shown(value)}"
            + (suggest(value, names) if isinstance(value, str) else "")
        )
    if dataclasses.is_dataclass(wanted):
        return _convert_dataclass(typing.cast(type, wanted), value, path)
    if origin in (list, tuple):
        return _convert_sequence(origin, arguments, value, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected a mapping, got {_typename(value)}")
        return {
            _convert(arguments[0], k, _join(path, k)): _convert(arguments[1], v, _join(path, k))
            for k, v in value.items()
        }
    return _convert_scalar(wanted, value, path)


def _convert_scalar(wanted: Any, value: Any, path: str) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(f"{path}: got {shown(value)}, too large") from error
    if wanted is int and isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, wanted) and not (isinstance(value, bool) and wanted is not bool):
        return value
    raise ConfigError(
        f"{path}: expected {wanted.__name__}, got {_typename(value)} ({shown(value)})"
    )


def _convert_sequence(origin: Any, arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{path}: expected a list, got {_typename(value)} ({shown(value)})")
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(value) != len(arguments):
            raise ConfigError(f"{path}: expected {len(arguments)} values, got {len(value)}")
        kinds = list(arguments)
    else:
        kinds = [arguments[0]] * len(value)
    items = [_convert(k, v, f"{path}.{i}") for i, (k, v) in enumerate(zip(kinds, value))]
    return origin(items)


def _convert_union(options: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    tagged = {o.kind: o for o in options if dataclasses.is_dataclass(o) and hasattr(o, "kind")}
    if tagged and isinstance(value, Mapping):
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in tagged:
            hint = suggest(str(kind)[:80], list(tagged))
            raise ConfigError(f"{_join(path, 'kind')}: got {shown(kind)}{hint}")
        return _convert(tagged[kind], {k: v for k, v in value.items() if k != "kind"}, path)
    sure = _only_candidate(options, value)
    if sure is not None:
        return _convert(sure, value, path)
    errors = []
    for option in options:
        try:
            return _convert(option, value, path)
        except ConfigError as error:
            errors.append(str(error))
    if len(errors) == 1:
        raise ConfigError(errors[0])
    names = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise ConfigError(f"{path}: expected {names}, got {_typename(value)} ({shown(value)})")


def _only_candidate(options: tuple[Any, ...], value: Any) -> Any:
    """Return the one option that a mapping or a word can be meant for: its message is better."""
    if isinstance(value, Mapping):
        fitting = [
            o for o in options if dataclasses.is_dataclass(o) or typing.get_origin(o) is dict
        ]
    elif isinstance(value, str) and str not in options:
        fitting = [option for option in options if typing.get_origin(option) is Literal]
    else:
        return None
    return fitting[0] if len(fitting) == 1 else None


def _convert_dataclass(cls: type, value: Any, path: str) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path or cls.__name__}: expected a mapping, got {_typename(value)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    value = dict(value)
    own_kind = getattr(cls, "kind", None)
    if "kind" not in fields and own_kind is not None and value.get("kind") == own_kind:
        del value["kind"]
    for key in value:
        if key not in fields:
            wrong, names = str(key)[:80], list(fields)
            raise UnknownKeyError(
                _join(path, key), suggest(other_name(wrong, names) or wrong, names)
            )
    arguments = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _convert(hints[name], value[name], _join(path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{_join(path, name)}: required, but not given")
    try:
        return cls(**arguments)
    except ValueError as error:
        raise ConfigError(_join(path, error)) from error


def _join(path: str, key: Any) -> str:
    key = str(key) if len(str(key)) <= MOST_CHARACTERS else f"{str(key)[:MOST_CHARACTERS]}..."
    return f"{path}.{key}" if path else key


def _typename(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())
