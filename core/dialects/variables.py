"""Names of a program's variables, as 1.x files have them, for layers of a network."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import ConfigError

LISTED = 30  # candidates in a message
# how the fully connected layer of 1.x, and its variables, are called today
_FULLY_CONNECTED = re.compile(r"fc_(\d+)\.tmp_\d+")


@dataclass(frozen=True)
class Variables:
    """The layers of a network, and what a trace of it calls their results.

    Attributes:
        title: For messages: `student`, `teacher x.yml`.
        made: Variable that each layer makes, by the layer's path; inner layers first.
        shapes: Shapes of the variables.
        table: Layer by a name that the file uses; it takes precedence.
    """

    title: str
    made: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    table: Mapping[str, str]

    def layer(self, name: str, where: str) -> str:
        """Return the path of the layer that a name means.

        Args:
            name: Name in the table, path of a layer, or name of a variable.
            where: The setting it comes from, for the message.

        Raises:
            ConfigError: It means none; lists candidates with their shapes.
        """
        name = self.table.get(name, name)
        if name in self.made:
            return name
        by_variable: dict[str, str] = {}
        for path, variable in self.made.items():
            by_variable.setdefault(variable, path)  # the innermost
        if name in by_variable:
            return by_variable[name]
        connected = _FULLY_CONNECTED.fullmatch(name)
        if connected is not None:
            begins = f"linear_{connected[1]}.tmp_"
            found = [path for variable, path in by_variable.items() if variable.startswith(begins)]
            if found:
                return found[0]
        raise ConfigError(f"{where}: {name!r} is no layer or variable of the {self._listing(name)}")

    def _listing(self, name: str) -> str:
        known = {variable: path for path, variable in reversed(list(self.made.items()))}
        near = difflib.get_close_matches(name, known, n=LISTED, cutoff=0.3)
        listed = [*near, *(each for each in known if each not in near)][:LISTED]
        shown = ", ".join(
            f"{variable} ({known[variable]}) {list(self.shapes[variable])}" for variable in listed
        )
        more = f", and {len(known) - len(listed)} more" if len(known) > len(listed) else ""
        key = "teacher_layers" if self.title.startswith("teacher") else "layers"
        return f"{self.title}; give its layer under {key}, for instance {shown}{more}"
