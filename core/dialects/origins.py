"""Say what is wrong with a translated file by the keys of that file, not by those of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from core.errors import ConfigError, DataError

Origins = Mapping[str, str]


def in_their_words(message: str, origins: Origins) -> str:
    """Return a message with paths of ours replaced by those of the file they were read from.

    A path that ends with a dot has the same keys below it as ours; any other stands for all of what
    is below ours, whose path then follows in brackets.

    Args:
        message: Begins with a path of ours, and may name others that have a dot.
        origins: Path in the file by path of ours.
    """
    if not origins:
        return message
    known = "|".join(re.escape(path) for path in sorted(origins, key=len, reverse=True))
    found = re.compile(rf"(?<![\w./-])({known})((?:\.\w[\w*-]*)*)(?=[:;,)\s]|$)")

    def replaced(place: re.Match[str]) -> str:
        ours, below = place.groups()
        if place.start() and "." not in ours:
            return place.group()  # a word of the sentence
        theirs = origins[ours]
        if not below:
            return theirs.removesuffix(".")
        return f"{theirs}{below[1:]}" if theirs.endswith(".") else f"{theirs} ({ours}{below})"

    return found.sub(replaced, message)


@contextmanager
def told_by(origins: Origins) -> Iterator[None]:
    """Raise errors in settings and data again, in the words of the file that they come from."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(*(in_their_words(each, origins) for each in error.problems)) from error
    except DataError as error:
        raise DataError(in_their_words(str(error), origins)) from error
