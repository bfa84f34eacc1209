"""Read pickles of arrays, as `.pdparams` files are, without running anything that they ask for.

A pickle is a program: it names functions of any module and calls them. The reader here knows the
few instructions that arrays and plain values are written with. What a file names stays a name; an
array is built by this module alone, from a type, a shape and bytes that fit each other. So nothing
in a file chooses what runs, no memory is reserved by a number in it, and the result is a tree of
plain values of a limited depth.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from core.network.pickled_values import (
    SCALARS,
    PickledName,
    PickleError,
    RefusedError,
    ValueBuilder,
    checked_name,
    plain_key,
    resolve,
)

_MARK = object()


def read_pickle(content: bytes) -> Any:
    """Return the arrays and plain values of a pickle; ordered dictionaries become plain ones.

    Args:
        content: Content of a file of `paddle.save` (protocols 2 to 5, Python 2 included).

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
    return resolve(tree, 0)


class _Reader:
    """The instructions, and the stack they work on.

    Args:
        content: The pickle.
    """

    def __init__(self, content: bytes) -> None:
        self._content, self.position = content, 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._builder = ValueBuilder(len(content))

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
        nested = isinstance(value, tuple) and not all(isinstance(v, SCALARS) for v in value)
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
        self._container(dict)[plain_key(key)] = value

    def setitems(self) -> None:
        values = self._since_mark()
        if len(values) % 2:
            raise PickleError("a key without a value")
        held = self._container(dict)
        for key, value in zip(values[::2], values[1::2]):
            held[plain_key(key)] = value

    def additems(self) -> None:
        values = self._since_mark()
        self._container(set).update(map(plain_key, values))

    def _container(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise PickleError(f"no {kind.__name__} to put values into")
        return self._stack[-1]

    def name(self) -> None:
        self._push(checked_name(self._line(), self._line()))

    def stack_name(self) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise PickleError("a name that is no text")
        self._push(checked_name(module, name))

    def reduce(self) -> None:
        arguments, name = self._pop(), self._pop()
        if not isinstance(name, PickledName) or not isinstance(arguments, tuple):
            raise RefusedError("it calls something that is no name")
        self._push(self._builder.call(name, arguments))

    def build(self) -> None:
        state = self._pop()
        self._builder.give_state(self._stack[-1], state)


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
