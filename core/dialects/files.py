"""Recognize the project whose settings a file has, and translate them into ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.dialects import act, compressor, paddleclas, paddledet, paddleseg
from core.dialects.foreign import Translation
from core.settings.config import override

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dialect:
    """The words of one project.

    Attributes:
        matches: Tells from a file's keys whether it is written in them.
        keys: Keys that such a file may have; an override of one of them is meant for the file.
        translate: Says it in our own words.
    """

    matches: Callable[[Mapping[str, Any]], bool]
    keys: tuple[str, ...]
    translate: Callable[[Mapping[str, Any]], Translation]


DIALECTS = (
    Dialect(compressor.is_compressor, compressor.KEYS, compressor.translate),
    Dialect(act.is_act, act.KEYS, act.translate),
    Dialect(paddleclas.is_paddleclas, paddleclas.KEYS, paddleclas.translate),
    Dialect(paddledet.is_paddledet, paddledet.KEYS, paddledet.translate),
    Dialect(paddleseg.is_paddleseg, paddleseg.KEYS, paddleseg.translate),
)


def translated(
    content: Mapping[str, Any], overrides: Sequence[str] = ()
) -> tuple[Translation | None, list[str]]:
    """Translate a file's content if it is written in the words of another project.

    Args:
        content: Content of the file.
        overrides: `key.sub=value`; those of the file's own keys are applied before.

    Returns:
        None if the words are ours; and the overrides that are left.

    Raises:
        ConfigError: A key is unknown, missing, wrong, or cannot act here.
    """
    for dialect in DIALECTS:
        if dialect.matches(content):
            own = [each for each in overrides if _first_key(each) in dialect.keys]
            rest = [each for each in overrides if each not in own]
            return dialect.translate(override(content, own)), rest
    return None, list(overrides)


def _first_key(assignment: str) -> str:
    return assignment.partition("=")[0].strip().partition(".")[0]


def tell_unused(name: str, translation: Translation) -> None:
    """Log, in one line, the keys that only other software reads."""
    if translation.unused:
        _log.info("%s: not used here: %s", name, ", ".join(translation.unused))
