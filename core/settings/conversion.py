"""Convert plain values to typed settings: dataclasses, lists and scalars, by their annotations."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Union

from core.errors import MOST_PROBLEMS, ConfigError
from core.settings.other_names import UnknownKey, other_name
from core.settings.yaml_loader import shown

MOST_CHARACTERS = 400  # longest key, or message of a dataclass


class Problems:
    """Errors in settings, collected to be reported together."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def add(self, *messages: str) -> None:
        """Note problems."""
        self._found += messages

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Note the problems of a `ConfigError` that is raised inside, and go on."""
        try:
            yield
        except ConfigError as error:
            self._found += error.problems

    def tell(self, said: Callable[[str], str] = lambda problem: problem) -> None:
        """Raise all problems as one error.

        Args:
            said: Returns what to say of a problem.

        Raises:
            ConfigError: There is something.
        """
        if self._found:
            first, rest = self._found[:MOST_PROBLEMS], self._found[MOST_PROBLEMS:]
            raise ConfigError(*dict.fromkeys([*map(said, first), *rest]))


def suggest(wrong: str, known: Sequence[str]) -> str:
    """Return ` (did you mean 'x'?)` for the nearest known name, or the list of known names."""
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (known: {', '.join(sorted(known))})" if known else ""


def convert(wanted: Any, value: Any, path: str) -> Any:
    """Convert a plain value to an annotated type; all errors are reported together.

    Args:
        wanted: A scalar, `Literal`, `X | None`, list, tuple, dict, dataclass or union of such.
        value: Value from a YAML file.
        path: Dotted path of the value, for messages.

    Raises:
        ConfigError: Unknown or missing keys, wrong types, values that a dataclass refuses.
    """
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
            raise ConfigError(f"{path}: expected a mapping, got {typename(value)}")
        problems = Problems()
        converted = {}
        for key, each in value.items():
            with problems.gathered():
                name = convert(arguments[0], key, join(path, key))
                converted[name] = convert(arguments[1], each, join(path, key))
        problems.tell()
        return converted
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
    said = f"{path}: expected {wanted.__name__}, got {typename(value)} ({shown(value)})"
    if wanted is str and isinstance(value, (bool, int, float)):
        said += "; write it in quotes if it is a text"
    raise ConfigError(said)


def _convert_sequence(origin: Any, arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{path}: expected a list, got {typename(value)} ({shown(value)})")
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(value) != len(arguments):
            raise ConfigError(f"{path}: expected {len(arguments)} values, got {len(value)}")
        kinds = list(arguments)
    else:
        kinds = [arguments[0]] * len(value)
    problems = Problems()
    items = []
    for index, (kind, each) in enumerate(zip(kinds, value)):
        with problems.gathered():
            items.append(convert(kind, each, f"{path}.{index}"))
    problems.tell()
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
            raise ConfigError(f"{join(path, 'kind')}: got {shown(kind)}{hint}")
        return convert(tagged[kind], {k: v for k, v in value.items() if k != "kind"}, path)
    sure = _only_candidate(options, value)
    if sure is not None:
        return convert(sure, value, path)
    errors: list[ConfigError] = []
    for option in options:
        try:
            return convert(option, value, path)
        except ConfigError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    names = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise ConfigError(f"{path}: expected {names}, got {typename(value)} ({shown(value)})")


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
        where = f"{path}: " if path else ""
        raise ConfigError(f"{where}expected a mapping, got {typename(value)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    value = dict(value)
    own_kind = getattr(cls, "kind", None)
    if "kind" not in fields and own_kind is not None and value.get("kind") == own_kind:
        del value["kind"]
    unknown = [str(key)[:80] for key in value if key not in fields]
    names = list(fields)
    told = unknown[:MOST_PROBLEMS]  # no more are shown, and hints take their time
    hints_for = {key: suggest(other_name(key, names) or key, names) for key in told}
    problems = Problems()
    problems.add(*(UnknownKey(join(path, key), hints_for.get(key, "")) for key in unknown))
    fields_given = _convert_fields(fields, hints, value, path, problems, hints_for)
    if fields_given is not None:
        try:
            built = cls(**fields_given)
        except ValueError as error:
            problems.add(join(path, error))
    problems.tell()
    return built


def _convert_fields(
    fields: Mapping[str, dataclasses.Field[Any]],
    hints: Mapping[str, Any],
    value: Mapping[str, Any],
    path: str,
    problems: Problems,
    suggested: Mapping[str, str],
) -> dict[str, Any] | None:
    """Return the arguments of a dataclass; None if one of them is wrong or missing."""
    arguments = {}
    missing = False
    for name, field in fields.items():
        if name in value:
            with problems.gathered():
                arguments[name] = convert(hints[name], value[name], join(path, name))
            missing |= name not in arguments
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            missing = True
            # a key that is misspelt is told already
            if f"{name!r}" not in "".join(suggested.values()):
                problems.add(f"{join(path, name)}: required, but not given")
    return None if missing else arguments


def join(path: str, key: Any) -> str:
    """Return a dotted path with one more key, shortened."""
    key = str(key) if len(str(key)) <= MOST_CHARACTERS else f"{str(key)[:MOST_CHARACTERS]}..."
    return f"{path}.{key}" if path else key


def typename(value: Any) -> str:
    """Name the type of a plain value."""
    return "nothing" if value is None else type(value).__name__
