"""Someone who follows pages from top to bottom: every command and every snippet in its order.

A reader has a folder of their own, so what an earlier page has made is there for the next one. What
is added to a command only saves the test's time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.training.run import read_run
from tests.calling import call
from tests.docs.pages import INSTALLING, ROOT, Block, Command, blocks, commands
from tests.drawn_folders import ground, write

SMALL: Mapping[str, Sequence[str]] = {
    "train.py": ("-odata.num_workers=0",),
    "qat_export.py": ("--no_metric",),
    "ptq.py": ("--num_calib=8", "--no_metric"),
    "benchmark.py": ("--runs=2", "--warmup=0", "--no_memory"),
}


class Reader:
    """Someone who follows pages in a folder of their own.

    Attributes:
        folder: Where the commands run; tools and configs are there.
        small: For each config, overrides that make its data and its network small.
        found: Names that the last snippet left.
    """

    def __init__(self, folder: Path, small: Mapping[str, Sequence[str]]) -> None:
        self.folder, self.small = folder, small
        self.found: dict[str, Any] = {}
        for name in ("configs", "tools"):
            (folder / name).symlink_to(ROOT / name)

    def follow(self, page: str) -> int:
        """Run what a page shows, but for blocks that need more; return how much has run."""
        count = 0
        for block in blocks(page, "bash", "python"):
            if block.needs:
                continue
            if block.language == "python":
                self.run_snippet(block)
                count += 1
                continue
            for command in commands(block):
                if command.program not in INSTALLING:
                    self.run(command)
                    count += 1
        return count

    def run(self, command: Command) -> None:
        """Run a tool in this process, anything else in a shell."""
        tool = command.tool()
        if tool is None:
            self.run_in_shell(command)
            return
        name, arguments = tool
        added = list(SMALL.get(name, ()))
        if name == "train.py":
            overrides = self.small.get(arguments[arguments.index("-c") + 1], ())
            epochs = () if "--dry_run" in arguments else ("train.epochs=1",)
            added += [f"-o{each}" for each in (*overrides, *epochs)]
        status, output = call(self.folder, name, *arguments, *added)
        assert status == 0, f"{command.block}: {command.text}\n{output}"

    def run_in_shell(self, command: Command) -> None:
        """Run what is no tool of ours; `python` is the one that runs the test."""
        search = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command.text],
            cwd=self.folder,
            env={**os.environ, **search, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command.block}: {command.text}\n{done.stdout}{done.stderr}"

    def run_snippet(self, block: Block) -> None:
        """Run a block of Python; what it defines is in `found`."""
        self.found = {"__name__": "snippet"}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            exec(compile(block.text, str(block), "exec"), self.found)

    def read_configs(self, page: str) -> int:
        """Read the configs that a page shows, beside the data they are about; return how many."""
        shown = [yaml.safe_load(block.text) for block in blocks(page, "yaml")]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for settings in shown:
                read_run(settings)
        return len(shown)

    def draw_new_photos(self, ending: str) -> None:
        """Draw pictures without labels into `new_photos`."""
        for index in range(2):
            write(self.folder / "new_photos" / f"{index + 1}{ending}", ground(index))
