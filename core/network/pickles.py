"""Read pickles of arrays, as `.pdparams` files are, without running anything that they ask for.

A pickle is a program: it names functions of any module and calls them. The reader here knows the
few instructions that arrays and plain values are written with. What a file names stays a name; an
array is built by this module alone, from a type, a shape and bytes that fit each other. So nothing
in a file chooses what runs, no memory is reserved by a number in it, and the result is a tree of
plain values of a limited depth.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

MAX_DEPTH = 64  # of containers in containers
_MARK = object()
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]")
_ORDERS = ("<", ">", "=", "|")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUILTINS = ("builtins", "__builtin__")
_SCALARS = (str, bytes, int, float, bool, type(None))


class PickleError(Exception):
    """The file is broken, or asks for more than arrays and plain values; says what."""


class RefusedError(PickleError):
    """The file asks for something that arrays and plain values do not need."""


@dataclass(frozen=True)
class _Name:
    """Something that a pickle names; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class _Dtype:
    """A type of numbers; complete once its byte order was stated."""

    code: str
    order: str | None = None

    def numpy(self) -> np.dtype[Any]:
        if self.order is None:
            raise PickleError("a type of numbers has no byte order")
        return np.dtype(self.order + self.code)


@dataclass
class _Array:
    """An array to be; its content comes with a later instruction."""

    content: np.ndarray | None = None


def read_pickle(content: bytes) -> Any:
    """Return the arrays and plain values of a pickle; ordered dictionaries become plain ones.

    Args:
        content: Of a file of `paddle.save` (protocols 2 to 5, Python 2 included).

    Raises:
        PickleError: It is broken, or a `RefusedError`: it holds anything else.
    """
    reader = _Reader(content)
    try:
        tree = reader.run()
    except PickleError:
        raise
    except (LookupError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise PickleError(f"a wrong instruction before byte {reader.position}") from error
    return _resolve(tree, 0)


class _Reader:
    """The instructions, and the stack they work on.

    Args:
        content: The pickle.
    """

    def __init__(self, content: bytes) -> None:
        self._content, self.position = content, 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        # what may still be made: the file has each byte of an array once, and it may pass a text
        self._left = 2 * len(content)

    def run(self) -> Any:
        while True:
            code = self._take(1)
            if code == pickle.STOP:
                if len(self._stack) != 1:
                    raise PickleError("it does not end with one value")
                return self._stack.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise PickleError(f"an instruction that weights do not need: {code!r}")
            instruction(self)

    def _take(self, count: int) -> bytes:
        if count < 0 or self.position + count > len(self._content):
            raise PickleError("it ends in the middle")
        begin, self.position = self.position, self.position + count
        return self._content[begin : self.position]

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _line(self) -> str:
        end = self._content.index(b"\n", self.position)
        return self._take(end + 1 - self.position)[:-1].decode("utf-8")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise PickleError("a mark in the place of a value")
        return value

    def _since_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def proto(self) -> None:
        version = self._number("<B")
        if not 2 <= version <= 5:
            raise PickleError(f"pickle protocol {version}, expected 2 to 5")

    def frame(self) -> None:
        self._take(8)  # only the length of what follows

    def mark(self) -> None:
        self._push(_MARK)

    def binfloat(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0])

    def long1(self) -> None:
        self._push(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def remember(self, index: int) -> None:
        if not self._stack or self._stack[-1] is _MARK:
            raise PickleError("nothing to remember")
        self._memo[index] = self._stack[-1]

    def memoize(self) -> None:
        self.remember(len(self._memo))

    def recall(self, index: int) -> None:
        """Push a value again; containers are in one place only, so that the result is a tree."""
        value = self._memo[index]
        nested = isinstance(value, tuple) and not all(isinstance(v, _SCALARS) for v in value)
        if nested or isinstance(value, (list, dict, set)):
            raise RefusedError(f"it has the same {type(value).__name__} in two places")
        self._push(value)

    def tuple_of(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._push(tuple(values[::-1]))

    def append(self) -> None:
        value = self._pop()
        self._container(list).append(value)

    def appends(self) -> None:
        values = self._since_mark()
        self._container(list).extend(values)

    def setitem(self) -> None:
        value, key = self._pop(), self._pop()
        self._container(dict)[_plain_key(key)] = value

    def setitems(self) -> None:
        values = self._since_mark()
        if len(values) % 2:
            raise PickleError("a key without a value")
        held = self._container(dict)
        for key, value in zip(values[::2], values[1::2]):
            held[_plain_key(key)] = value

    def additems(self) -> None:
        values = self._since_mark()
        self._container(set).update(map(_plain_key, values))

    def _container(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise PickleError(f"no {kind.__name__} to put values into")
        return self._stack[-1]

    def name(self) -> None:
        self._push(_checked_name(self._line(), self._line()))

    def stack_name(self) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise PickleError("a name that is no text")
        self._push(_checked_name(module, name))

    def reduce(self) -> None:
        arguments, name = self._pop(), self._pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise RefusedError("it calls something that is no name")
        self._push(self._call(name, arguments))

    def _call(self, name: _Name, arguments: tuple[Any, ...]) -> Any:
        if name.name == "_reconstruct":
            owner, shape, kind = arguments
            if owner != _Name("numpy", "ndarray") or shape != (0,) or kind not in (b"b", "b"):
                raise RefusedError(f"it builds an array in an unusual way: {name}")
            return _Array()
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

    def build(self) -> None:
        state, made = self._pop(), self._stack[-1]
        if isinstance(made, _Array) and made.content is None:
            version, shape, dtype, fortran, content = state
            if version not in (0, 1):
                raise PickleError("an array of an unknown version")
            made.content = self._array(shape, dtype, content, fortran)
        elif isinstance(made, _Dtype) and made.order is None:
            if state[0] not in (3, 4) or state[1] not in _ORDERS or state[2:8] not in _PLAIN_STATES:
                raise RefusedError("it asks for an unusual type of numbers")
            if any(state[8:]):
                raise RefusedError("it asks for a type of numbers with notes")
            made.order = state[1]
        else:
            raise RefusedError(f"it gives a {type(made).__name__} a state")

    def _spend(self, content: Sized) -> None:
        """Refuse to copy a part of the file again and again."""
        self._left -= len(content)
        if self._left < 0:
            raise RefusedError("it repeats its content")

    def _array(self, shape: Any, dtype: Any, content: Any, fortran: Any) -> np.ndarray:
        if isinstance(content, str):  # of Python 2
            content = content.encode("latin1")
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise RefusedError("it builds an array of something else than numbers")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise PickleError("an array whose shape is no list of sizes")
        stored = dtype.numpy()
        if math.prod(shape) * stored.itemsize != len(content):
            raise PickleError("an array whose bytes do not fit its shape")
        self._spend(content)
        flat = np.frombuffer(content, stored).astype(stored.newbyteorder("="))
        return flat.reshape(shape, order="F" if fortran else "C")


def _read_dtype(arguments: tuple[Any, ...]) -> _Dtype:
    code = arguments[0]
    if not isinstance(code, str):
        raise RefusedError("it asks for a type of numbers that has no name")
    if _DTYPE.fullmatch(code) is None:
        raise RefusedError(f"it asks for numbers of the type {code[:40]!r}")
    if arguments[1:] not in ((), (False, True), (0, 1)):
        raise RefusedError("it asks for a type of numbers in an unusual way")
    return _Dtype(code)


def _checked_name(module: str, name: str) -> _Name:
    known = (
        (module in _MULTIARRAY and name in ("_reconstruct", "scalar"))
        or (module == "numpy" and name in ("ndarray", "dtype"))
        or (module in _BUILTINS and name in _PLAIN)
        or (module, name) in (("collections", "OrderedDict"), ("_codecs", "encode"))
    )
    if not known:
        raise RefusedError(f"it asks for {module}.{name}, which weights do not need"[:200])
    return _Name(module, name)


def _plain_key(key: Any) -> Any:
    if not isinstance(key, _SCALARS):
        raise RefusedError(f"a {type(key).__name__} as a key")
    return key


def _items(given: Any) -> Any:
    if not isinstance(given, (list, tuple)):
        raise RefusedError(f"a container made of a {type(given).__name__}")
    return given


def _dict_of(pairs: Any = ()) -> dict[Any, Any]:
    return {_plain_key(key): value for key, value in pairs}


def _set_of(values: Any = ()) -> set[Any]:
    return set(map(_plain_key, values))


def _no_bytes() -> bytes:
    return b""


def _resolve(value: Any, depth: int) -> Any:
    """Put the arrays in the place of what stood for them."""
    if depth > MAX_DEPTH:
        raise PickleError(f"containers in containers, more than {MAX_DEPTH}")
    if isinstance(value, _Array):
        if value.content is None:
            raise PickleError("an array without content")
        return value.content
    if isinstance(value, (_Name, _Dtype)):
        raise RefusedError(f"it holds a {type(value).__name__.strip('_').lower()} as a value")
    if isinstance(value, dict):
        return {key: _resolve(each, depth + 1) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_resolve(each, depth + 1) for each in value)
    return value


# what numpy writes for a plain type: no fields, no shape of its own, its usual size and place
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
_INSTRUCTIONS: Mapping[bytes, Callable[[_Reader], None]] = MappingProxyType(
    {
        pickle.PROTO: _Reader.proto,
        pickle.FRAME: _Reader.frame,
        pickle.MARK: _Reader.mark,
        pickle.NONE: lambda it: it._push(None),
        pickle.NEWTRUE: lambda it: it._push(True),
        pickle.NEWFALSE: lambda it: it._push(False),
        pickle.BININT: lambda it: it._push(it._number("<i")),
        pickle.BININT1: lambda it: it._push(it._number("<B")),
        pickle.BININT2: lambda it: it._push(it._number("<H")),
        pickle.LONG1: _Reader.long1,
        pickle.BINFLOAT: _Reader.binfloat,
        pickle.SHORT_BINUNICODE: lambda it: it._push(it._take(it._number("<B")).decode()),
        pickle.BINUNICODE: lambda it: it._push(it._take(it._number("<I")).decode()),
        pickle.BINUNICODE8: lambda it: it._push(it._take(it._number("<Q")).decode()),
        pickle.SHORT_BINSTRING: lambda it: it._push(it._take(it._number("<B")).decode("latin1")),
        pickle.BINSTRING: lambda it: it._push(it._take(it._number("<i")).decode("latin1")),
        pickle.SHORT_BINBYTES: lambda it: it._push(it._take(it._number("<B"))),
        pickle.BINBYTES: lambda it: it._push(it._take(it._number("<I"))),
        pickle.BINBYTES8: lambda it: it._push(it._take(it._number("<Q"))),
        pickle.EMPTY_TUPLE: lambda it: it._push(()),
        pickle.TUPLE: lambda it: it._push(tuple(it._since_mark())),
        pickle.TUPLE1: lambda it: it.tuple_of(1),
        pickle.TUPLE2: lambda it: it.tuple_of(2),
        pickle.TUPLE3: lambda it: it.tuple_of(3),
        pickle.EMPTY_LIST: lambda it: it._push([]),
        pickle.APPEND: _Reader.append,
        pickle.APPENDS: _Reader.appends,
        pickle.EMPTY_DICT: lambda it: it._push({}),
        pickle.SETITEM: _Reader.setitem,
        pickle.SETITEMS: _Reader.setitems,
        pickle.EMPTY_SET: lambda it: it._push(set()),
        pickle.ADDITEMS: _Reader.additems,
        pickle.BINPUT: lambda it: it.remember(it._number("<B")),
        pickle.LONG_BINPUT: lambda it: it.remember(it._number("<I")),
        pickle.MEMOIZE: _Reader.memoize,
        pickle.BINGET: lambda it: it.recall(it._number("<B")),
        pickle.LONG_BINGET: lambda it: it.recall(it._number("<I")),
        pickle.GLOBAL: _Reader.name,
        pickle.STACK_GLOBAL: _Reader.stack_name,
        pickle.REDUCE: _Reader.reduce,
        pickle.BUILD: _Reader.build,
    }
)
