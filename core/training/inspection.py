"""Results of looking at a folder of data, and the interface of a task's module `own_data`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from core.errors import ConfigError
from core.settings.config import read

T = TypeVar("T")


@dataclass(frozen=True)
class Inspection:
    """Result of a task's look at a folder of data.

    Attributes:
        task: Name of the task.
        layout: How the data lie there; empty where the task cannot tell.
        sure: How sure the task is that the data are its own, from 0 (not at all) to 2.
        found: Lines for people.
        missing: Problems to mend before training, or things that will be missed after; a line each.
        settings: Settings that a config may leave out, since the data say them.
        trainable: Whether training would not stop at one of the problems.
    """

    task: str
    layout: str = ""
    sure: int = 0
    found: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    trainable: bool = True

    def in_one_line(self) -> str:
        """Return the findings and the problems, for the end of a message."""
        return "; ".join([*([self.layout] if self.layout else []), *self.found, *self.missing])


@dataclass(frozen=True)
class Labelled:
    """A picture of the data with its label drawn on it: RGB [H, W, 3] uint8."""

    name: str
    picture: np.ndarray


class OwnData(Protocol):
    """A task's module `own_data`, which may be left out: for data without a config."""

    DEFAULTS: Mapping[str, Any]  # for sections that a config may leave out

    def from_data(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return settings that the data of `data.root` say, as far as the config leaves them out.

        Raises:
            DataError: The data contradict themselves.
        """
        ...

    def inspect(self, settings: Mapping[str, Any]) -> Inspection:
        """Inspect the data of `data.root`."""
        ...

    def labelled(self, config: Any, count: int) -> list[Labelled]:
        """Return pictures of the training split with their labels drawn."""
        ...

    def write_lists(self, config: Any, folder: Path) -> Mapping[str, Any]:
        """Write a split that was drawn as list files; return the settings that read them."""
        ...


def read_data_section(kind: type[T], settings: Mapping[str, Any]) -> T | None:
    """Return the section `data` of a run's settings; None if it is wrong.

    What is wrong with it is reported with all other errors of the config, when the task is built.
    """
    try:
        return read(kind, settings.get("data"))
    except ConfigError:
        return None
