"""Arguments of Python calls are what their annotations say, or one line tells which is not."""

from __future__ import annotations

import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union

from core.errors import ConfigError, FileError, denied
from core.settings.conversion import suggest, typename
from core.settings.yaml_loader import shown

Given = ParamSpec("Given")
Result = TypeVar("Result")
LARGE = 1 << 63  # no whole number that means something here
WORDS = {
    str: "a text",
    Path: "a path",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
}


def checked(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Return a function that looks at its arguments before it begins.

    Numbers of numpy pass for Python's. A text or path is neither empty nor has a NUL in it.

    Raises:
        ConfigError: From the function returned: an argument of another type than is annotated.
        FileError: From it: the disk is full, or the system does not let us use a path.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        given = signature.bind(*args, **kwargs)
        hints = typing.get_type_hints(function)
        for name, value in given.arguments.items():
            kind = signature.parameters[name].kind
            if name not in hints or kind is inspect.Parameter.VAR_KEYWORD:
                continue
            if kind is inspect.Parameter.VAR_POSITIONAL:
                read = tuple(_read(name, hints[name], each) for each in value)
            else:
                read = _read(name, hints[name], value)
            given.arguments[name] = read
        try:
            return function(*given.args, **given.kwargs)
        except OSError as error:
            said = denied(error)
            if not said:
                raise
            raise FileError(said) from error

    return call


def _read(name: str, hint: Any, value: Any) -> Any:
    """Return a value of an annotated type, numbers as those of Python.

    Raises:
        ConfigError: It is of another.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _read_one_of(name, inner, value)
    if origin is Literal and isinstance(value, str) and value not in inner:
        raise ConfigError(f"{name}: got {shown(value)}{suggest(value, list(inner))}")
    if _fits(hint, origin, inner, value):
        if hint in (int, float):
            return hint(value)
        if origin is not Sequence:
            return value
        return [_read(f"{name}[{place}]", inner[0], each) for place, each in enumerate(value)]
    raise ConfigError(f"{name}: expected {_words(hint)}, got {_told(value)}")


def _read_one_of(name: str, options: tuple[Any, ...], value: Any) -> Any:
    for option in options:
        if _fits(option, typing.get_origin(option), typing.get_args(option), value):
            return _read(name, option, value)
    for option in options:
        if typing.get_origin(option) is Literal and isinstance(value, str):
            return _read(name, option, value)  # refuses it, with the words that are known
    wanted = "a path" if str in options and Path in options else ""
    others = [_words(each) for each in options if not (wanted and each in (str, Path))]
    raise ConfigError(
        f"{name}: expected {' or '.join([wanted, *others] if wanted else others)}, "
        f"got {_told(value)}"
    )


def _fits(hint: Any, origin: Any, inner: tuple[Any, ...], value: Any) -> bool:
    if hint is Any:
        return True
    if hint in (str, Path):
        return isinstance(value, hint) and str(value) != "" and "\0" not in str(value)
    if hint in (int, float):
        number = numbers.Integral if hint is int else numbers.Real
        sane = isinstance(value, number) and not isinstance(value, bool)
        return sane and not (isinstance(value, numbers.Integral) and abs(int(value)) >= LARGE)
    if origin is Literal:
        return any(value is each or (type(value) is str and value == each) for each in inner)
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if hint is type(None):
        return value is None
    return isinstance(value, origin or hint)


def _words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Sequence:
        return f"a list, of {_words(inner[0])} each"
    if origin is Mapping:
        return "a mapping"
    if origin is Literal:
        return ", ".join(map(str, inner))
    if hint is type(None):
        return "None"
    return WORDS[hint] if hint in WORDS else str(getattr(hint, "__name__", hint))


def _told(value: Any) -> str:
    """Name a value that was given: plain ones as they are, others by their type."""
    plain = isinstance(value, (str, bool, numbers.Real, Path))
    return shown(str(value) if isinstance(value, Path) else value) if plain else typename(value)
