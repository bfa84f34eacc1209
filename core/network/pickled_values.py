"""The arrays and plain values of a pickle: built here from types, shapes and bytes that fit.

What a file names stays a name. So nothing in a file chooses what runs, and no memory is reserved by
a number in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

LARGEST_KEY = 2**60  # larger ones can be chosen so that all are at one place of a hash table
MAX_DEPTH = 64  # depth of containers in containers
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]")
_ORDERS = ("<", ">", "=", "|")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUILTINS = ("builtins", "__builtin__")
SCALARS = (str, bytes, int, float, bool, type(None))


class PickleError(Exception):
    """The file is broken, or asks for more than arrays and plain values; the message says which."""


class RefusedError(PickleError):
    """The file asks for something that arrays and plain values do not need."""


@dataclass(frozen=True)
class PickledName:
    """Something that a pickle names; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class PickledDtype:
    """A type of numbers; complete once its byte order was stated."""

    code: str
    order: str | None = None

    def numpy(self) -> np.dtype[Any]:
        if self.order is None:
            raise PickleError("a type of numbers has no byte order")
        return np.dtype(self.order + self.code)


@dataclass
class PickledArray:
    """An array to be; its content comes with a later instruction."""

    content: np.ndarray | None = None


class ValueBuilder:
    """Builds the arrays and plain values that a pickle asks for.

    Args:
        size: Bytes of the pickle, which limit the size of its values.
    """

    def __init__(self, size: int) -> None:
        # bytes that may still be made: a file has each byte of an array once, and may pass a text
        self._left = 2 * size

    def call(self, name: PickledName, arguments: tuple[Any, ...]) -> Any:
        """Return what a call in a pickle stands for; nothing is called that the file names.

        Raises:
            PickleError: Arrays and plain values need no such call.
        """
        if name.name == "_reconstruct":
            owner, shape, kind = arguments
            if owner != PickledName("numpy", "ndarray") or shape != (0,) or kind not in (b"b", "b"):
                raise RefusedError(f"it builds an array in an unusual way: {name}")
            return PickledArray()
        if name.name == "scalar":
            dtype, content = arguments
            return self._array((), dtype, content, False)[()]
        if name.name == "dtype":
            return _read_dtype(arguments)
        if name.name == "encode":
            text, encoding = arguments
            if encoding != "latin1" or not isinstance(text, str):
                raise RefusedError(f"it encodes in an unusual way: {name}")
            self._spend(text)
            return text.encode("latin1")
        if name.name in _PLAIN:
            for given in arguments:
                self._spend(_items(given))
            return _PLAIN[name.name](*arguments)
        raise RefusedError(f"it calls {name}, which weights do not need")

    def give_state(self, made: Any, state: Any) -> None:
        """Fill an array, or settle the byte order of a type of numbers.

        Raises:
            PickleError: The state is not what numpy writes.
        """
        if isinstance(made, PickledArray) and made.content is None:
            version, shape, dtype, fortran, content = state
            if version not in (0, 1):
                raise PickleError("an array of an unknown version")
            made.content = self._array(shape, dtype, content, fortran)
        elif isinstance(made, PickledDtype) and made.order is None:
            if state[0] not in (3, 4) or state[1] not in _ORDERS or state[2:8] not in _PLAIN_STATES:
                raise RefusedError("it asks for an unusual type of numbers")
            if any(state[8:]):
                raise RefusedError("it asks for a type of numbers with notes")
            made.order = state[1]
        else:
            kind = type(made).__name__.removeprefix("Pickled")
            raise RefusedError(f"it gives a {kind} a state")

    def _spend(self, content: Sized) -> None:
        """Refuse to copy a part of the file again and again."""
        self._left -= len(content)
        if self._left < 0:
            raise RefusedError("it repeats its content")

    def _array(self, shape: Any, dtype: Any, content: Any, fortran: Any) -> np.ndarray:
        if isinstance(content, str):  # as Python 2 writes it
            content = content.encode("latin1")
        if not isinstance(dtype, PickledDtype) or not isinstance(content, bytes):
            raise RefusedError("it builds an array of something else than numbers")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise PickleError("an array whose shape is no list of sizes")
        stored = dtype.numpy()
        if math.prod(shape) * stored.itemsize != len(content):
            raise PickleError("an array whose bytes do not fit its shape")
        self._spend(content)
        flat = np.frombuffer(content, stored).astype(stored.newbyteorder("="))
        return flat.reshape(shape, order="F" if fortran else "C")


def _read_dtype(arguments: tuple[Any, ...]) -> PickledDtype:
    code = arguments[0]
    if not isinstance(code, str):
        raise RefusedError("it asks for a type of numbers that has no name")
    if _DTYPE.fullmatch(code) is None:
        raise RefusedError(f"it asks for numbers of the type {code[:40]!r}")
    if arguments[1:] not in ((), (False, True), (0, 1)):
        raise RefusedError("it asks for a type of numbers in an unusual way")
    return PickledDtype(code)


def checked_name(module: str, name: str) -> PickledName:
    """Return a name that arrays or plain values need.

    Raises:
        RefusedError: It is another name.
    """
    known = (
        (module in _MULTIARRAY and name in ("_reconstruct", "scalar"))
        or (module == "numpy" and name in ("ndarray", "dtype"))
        or (module in _BUILTINS and name in _PLAIN)
        or (module, name) in (("collections", "OrderedDict"), ("_codecs", "encode"))
    )
    if not known:
        raise RefusedError(f"it asks for {module}.{name}, which weights do not need"[:200])
    return PickledName(module, name)


def plain_key(key: Any) -> Any:
    """Return a key of a dictionary or a value of a set, if it is a plain value.

    Raises:
        RefusedError: It is something else.
    """
    if not isinstance(key, SCALARS):
        raise RefusedError(f"a {type(key).__name__} as a key")
    if isinstance(key, int) and abs(key) > LARGEST_KEY:
        raise RefusedError("a number as a key that is too large")
    return key


def _items(given: Any) -> Any:
    if not isinstance(given, (list, tuple)):
        raise RefusedError(f"a container made of a {type(given).__name__}")
    return given


def _dict_of(pairs: Any = ()) -> dict[Any, Any]:
    return {plain_key(key): value for key, value in pairs}


def _set_of(values: Any = ()) -> set[Any]:
    return set(map(plain_key, values))


def _no_bytes() -> bytes:
    return b""


def resolve(value: Any, depth: int) -> Any:
    """Replace placeholders by the arrays, of any shape.

    Args:
        value: Value that the instructions of a pickle have built.
        depth: Containers around it.

    Raises:
        PickleError: An array has no content, or containers are nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise PickleError(f"containers in containers, more than {MAX_DEPTH}")
    if isinstance(value, PickledArray):
        if value.content is None:
            raise PickleError("an array without content")
        return value.content
    if isinstance(value, (PickledName, PickledDtype)):
        raise RefusedError(
            f"it holds a {type(value).__name__.removeprefix('Pickled').lower()} as a value"
        )
    if isinstance(value, dict):
        return {key: resolve(each, depth + 1) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(resolve(each, depth + 1) for each in value)
    return value


# numpy's state of a plain type: no fields, no shape of its own, its usual size and place
_PLAIN_STATES = ((None, None, None, -1, -1, 0),)
_PLAIN: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "tuple": lambda values=(): tuple(values),
        "list": lambda values=(): list(values),
        "dict": _dict_of,
        "OrderedDict": _dict_of,
        "set": _set_of,
        "bytes": _no_bytes,
    }
)
