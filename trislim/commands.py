"""The command `trislim`: each tool of the folder `tools/` under a name."""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from dataclasses import dataclass

from trislim.checkout import TOP

WIDTH = 13  # of the names in the list


@dataclass(frozen=True)
class Command:
    """A tool under its name.

    Attributes:
        name: As it is typed.
        tool: Module of `tools/`.
        before: Arguments in front of those that are typed.
        text: What it does; by default the first line of the tool's own text.
    """

    name: str
    tool: str
    before: tuple[str, ...] = ()
    text: str = ""

    def describe(self) -> str:
        """Return in one line what it does; the tool is read, not imported."""
        if self.text:
            return self.text
        source = (TOP / "tools" / f"{self.tool}.py").read_text(encoding="utf-8")
        return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


# in the order of work; a tool is one line here
COMMANDS = (
    Command("demo", "demo"),
    Command("train", "train"),
    Command("eval", "eval"),
    Command("predict", "predict"),
    Command("export", "export_model"),
    Command("benchmark", "benchmark"),
    Command("sensitivity", "sensitivity"),
    Command(
        "prune", "train", ("--slim", "prune"), "Cut channels and train on: train --slim prune."
    ),
    Command("qat-train", "qat_train"),
    Command("qat-export", "qat_export"),
    Command("data", "data"),
    Command("reproduce", "reproduce"),
    Command("ptq", "ptq"),
    Command("act", "act"),
    Command("processors", "processors"),
)


def main() -> None:
    """Run the tool that the command line names, and leave the process with its status."""
    named, arguments = sys.argv[1:2], sys.argv[2:]
    if not named or named[0] in ("-h", "--help", "help"):
        print(overview())
        sys.exit(0 if named else 2)
    if named[0] == "--version":
        print(importlib.import_module("importlib.metadata").version("trislim"))
        sys.exit(0)
    command = next((each for each in COMMANDS if each.name == named[0]), None)
    if command is None:
        near = difflib.get_close_matches(named[0], [each.name for each in COMMANDS], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "trislim --help lists all"
        print(f"error: trislim has no command {named[0][:80]!r} ({hint})", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"trislim {command.name}", *command.before, *arguments]  # what the tool reads
    tool = importlib.import_module(f"trislim.tools.{command.tool}")
    importlib.import_module("trislim.core.cli").run(tool.main)


def overview() -> str:
    """Return what `trislim --help` prints."""
    lines = [f"  {each.name:<{WIDTH}}{each.describe()}" for each in COMMANDS]
    return "\n".join(
        [
            "usage: trislim COMMAND ...",
            "",
            "Vision models, small and fast. `trislim COMMAND --help` tells more of each command:",
            "",
            *lines,
            "",
            "Configs are files of yours, or those that come with it: -c cls/demo.yml",
        ]
    )
