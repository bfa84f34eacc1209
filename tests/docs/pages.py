"""The documents as a reader takes them: blocks of code, and the commands in them.

A block of shell commands or of Python runs as it stands, unless a comment in it says what it needs
beyond an ordinary machine and the data that a test draws: `# needs a GPU`, in a Chinese page
`# 需要`. Such a block is only parsed. What installs software (`make`, `pip`, `docker`) is not run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trislim.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("results", "benchmarks", "robustness", "coverage")
LANGUAGES = ("bash", "python", "yaml", "json", "text")
FOLLOWED = (  # pages whose blocks a test runs from top to bottom
    "README.md",
    *(f"docs/{name}.md" for name in ("classification", "segmentation", "keypoint", "own_data")),
    *(f"docs/{name}.md" for name in ("predict", "prune", "distill", "quantize", "python")),
    *(f"docs/{name}.md" for name in ("measuring", "files", "zoo")),
    *(f"tasks/{name}/README.md" for name in ("cls", "seg", "keypoint")),
)
INSTALLING = ("make", "pip", "docker", "source")
_FENCE = re.compile(r"^( *)```(.*)$")
_NEEDS = re.compile(r"^ *# (?:needs |需要)(.+)$", re.M)
_LAUNCHER = ["python", "-m", "paddle.distributed.launch"]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: Its file, relative to the repository.
        line: Of the fence, from 1 on.
        language: Info string of the fence.
        text: Between the fences.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def needs(self) -> str:
        """Return what it needs, as it says itself; empty if a test can run it."""
        found = _NEEDS.search(self.text)
        return found[1] if found else ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A line of a block of shell commands.

    Attributes:
        block: Where it stands.
        text: As it is typed, continuation lines joined, without comments.
    """

    block: Block
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)

    @property
    def program(self) -> str:
        """Return what the shell would start, without its folder."""
        first = next((word for word in self.words if "=" not in word), "")
        return Path(first).name

    def tool(self) -> tuple[str, list[str]] | None:
        """Return the tool that it calls with the tool's arguments; None if it calls none."""
        words = self.words[self.words.index(next(w for w in self.words if "=" not in w)) :]
        if words[0] == "trislim" and words[1:] and not words[1].startswith("-"):
            [command] = [each for each in COMMANDS if each.name == words[1]]
            return f"{command.tool}.py", [*command.before, *words[2:]]
        at = next((n for n, word in enumerate(words) if word.startswith("tools/")), None)
        if at is None:
            return None
        if words[:at] != ["python"] and words[:3] != _LAUNCHER:
            raise ValueError(f"{self.block}: {self.text}: expected python tools/...")
        return words[at].removeprefix("tools/"), words[at + 1 :]


def pages() -> list[str]:
    """Return all pages that people write, relative to the repository."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("tasks/*/README.md")]
    written = [file for file in files if file.stem not in (*GENERATED, "CHANGELOG")]
    return sorted(file.relative_to(ROOT).as_posix() for file in written)


def blocks(page: str, *languages: str) -> list[Block]:
    """Return the blocks of a page in their order, of some languages or all."""
    found: list[Block] = []
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    opened: tuple[int, str, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                opened, inside = (number, fence[1], fence[2].strip()), []
        elif fence and not fence[2]:
            text = "\n".join(each.removeprefix(opened[1]) for each in inside)
            found.append(Block(page, opened[0], opened[2], text))
            opened = None
        else:
            inside.append(line)
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: the block has no end")
    return [each for each in found if not languages or each.language in languages]


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a block of shell commands."""
    for line in block.text.replace("\\\n", " ").splitlines():
        text = re.sub(r"(^|\s)#.*$", "", line).strip()
        if text:
            yield Command(block, re.sub(r" {2,}", " ", text))
