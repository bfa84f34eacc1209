"""Signals that ask a process to end: each is Ctrl-C with a word and a status of its own."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from collections.abc import Iterator
from importlib.machinery import ExtensionFileLoader
from types import FrameType, MappingProxyType

# how a tool says in one word what ended it
WORDS = MappingProxyType(
    {
        number: word
        for name, word in (
            ("SIGINT", "interrupted"),
            ("SIGTERM", "terminated"),
            ("SIGHUP", "hung up"),
        )
        if (number := getattr(signal, name, None)) is not None
    }
)
ENDING = tuple(number for number in WORDS if number != signal.SIGINT)  # not from a keyboard
# how Paddle tells of an exception in a backward pass, with a heading since 3.3
_IN_PADDLE = re.compile(
    r"\(External\)\s+(?:\{\s*=+[^\n]*\s+)?(?:KeyboardInterrupt\b|Terminated: (\d+))"
)

_LOADER = "<frozen importlib._bootstrap_external>"  # code of `ExtensionFileLoader`
_MOST_SECONDS = 5.0  # that a signal waits for a library
_AGAIN_SECONDS = 0.02


class Terminated(KeyboardInterrupt):
    """Another signal than that of Ctrl-C asks the process to end.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(int(number))  # Python 3.10 calls one of `signal.Signals` by its name
        self.number = number


def interruption(number: int) -> KeyboardInterrupt:
    """Return the exception that a signal is raised as."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def number_of(error: BaseException) -> int | None:
    """Return the signal behind an error; None if there is none.

    Paddle makes an OSError of an exception that is raised in a backward pass, with its text.
    """
    if isinstance(error, Terminated):
        return error.number
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    told = _IN_PADDLE.search(str(error)) if isinstance(error, OSError) else None
    if told is not None:
        return int(told[1] or signal.SIGINT)
    return number_of(error.__cause__) if error.__cause__ is not None else None


def asking() -> list[signal.Signals]:
    """Return the signals that ask to end, but for those that this process was told to ignore."""
    return [number for number in WORDS if signal.getsignal(number) is not signal.SIG_IGN]


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Raise `Terminated` where the process is when a signal comes, `KeyboardInterrupt` for Ctrl-C.

    One that comes again is ignored: what was begun is closed by then. While a library of C code is
    loaded the signal waits, as such code makes another error of the exception: numpy prints it, and
    says that it could not be imported.
    """
    before = {number: signal.signal(number, _raise) for number in asking()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held_back(*numbers: int) -> Iterator[None]:
    """Let signals wait; threads and processes that the block starts do not get them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def renew() -> None:
    """Put Python's handlers in force again, after C++ code has changed them.

    Only the main thread may; from others nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in WORDS:
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    if number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    alarms = hasattr(signal, "setitimer")  # not on Windows
    if not (alarms and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and _loads_c_code(frame)):
        raise interruption(number)
    until = time.monotonic() + _MOST_SECONDS

    def raise_later(_: int, frame: FrameType | None) -> None:
        if not _loads_c_code(frame) or time.monotonic() > until:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            raise interruption(number)

    signal.signal(signal.SIGALRM, raise_later)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)


def _loads_c_code(frame: FrameType | None) -> bool:
    """Tell whether code that runs was called while Python imports an extension module."""
    while frame is not None:
        code, owner = frame.f_code, frame.f_locals.get("self")
        if code.co_filename == _LOADER and isinstance(owner, ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False
