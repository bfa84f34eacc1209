"""Say things once: several steps of a tool look at the same files and find the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType

_MARK = "told_once"
ONCE: Mapping[str, object] = MappingProxyType({_MARK: True})  # `log.info(text, extra=ONCE)`


class ToldOnce(logging.Filter):
    """Passes a record that is marked with `ONCE` if no record with the same text came before."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, _MARK):
            return True
        text = record.getMessage()
        if text in self._told:
            return False
        self._told.add(text)
        return True
