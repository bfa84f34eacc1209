"""The standard streams of a tool, whatever they lead to: a closed one, a pipe that nobody reads."""

from __future__ import annotations

import os
import select
import sys

_MODES = ("r", "w", "w")  # of standard input, output and error


def open_streams() -> None:
    """Lead standard streams that are closed to nowhere, and have any text be printable.

    Otherwise the next files that are opened take their numbers, and messages would be written into
    them. Names of files may hold bytes that are no text; they are printed as `\\\\udc80`.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, open(number, _MODES[number], closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def one_line(text: str) -> str:
    """Return a text with a blank for all that is not printed as itself, such as line ends.

    Names of files and classes may hold anything.
    """
    return "".join(each if each.isprintable() else " " for each in text)


def is_unread() -> bool:
    """Tell whether standard output is a pipe whose reader has ended, as `head` does."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no such call, or no file
        return False


def flush_output() -> None:
    """Write what standard output still holds, or discard it if that fails."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_output()


def discard_output() -> None:
    """Lead standard output to nowhere: what is still to be flushed at the end would fail again."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
