"""Command lines of the documents, read by the tools themselves; nothing else of them runs."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from core import cli, options
from core.workflows.run_plan import RunFiles, read_plan
from tests.docs.pages import ROOT, Command


class _ReadError(Exception):
    """Stops a tool when it has read its command line."""


def read_arguments(tool: str, words: Sequence[str]) -> argparse.Namespace:
    """Return what a tool reads from its command line; it does nothing else.

    Raises:
        SystemExit: The command line is wrong.
    """
    read: list[argparse.Namespace] = []
    parse = cli.parse

    def stop(parser: argparse.ArgumentParser) -> argparse.Namespace:
        read.append(parse(parser))
        raise _ReadError

    module = importlib.import_module(f"tools.{Path(tool).stem}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "parse", stop)
        patch.setattr(sys, "argv", [tool, *words])
        with pytest.raises(_ReadError):
            module.main()
    return read[0]


def check_training(arguments: argparse.Namespace) -> None:
    """Read the config, the recipe and the teachers of a training as far as they are ours."""
    if not str(arguments.config).startswith("configs/"):
        return
    ours = [each for each in arguments.distill_config if each.startswith("configs/")]
    overrides = options.training_overrides(arguments)
    read_plan(RunFiles(arguments.config, arguments.slim, ours, overrides, ROOT / "configs/slim"))


def check(command: Command) -> None:
    """Check a command without running it.

    Raises:
        SystemExit: A tool does not read it.
    """
    tool = command.tool()
    if tool is not None:
        name, words = tool
        arguments = read_arguments(name, words)
        for word in words:
            if word.startswith("configs/"):
                assert (ROOT / word).is_file(), f"{command.block}: {word}"
        if name == "train.py":
            check_training(arguments)
    elif command.program == "make":
        made = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{command.words[-1]}:", made, re.M), f"{command.block}: {command.text}"
    else:
        done = subprocess.run(["bash", "-n", "-c", command.text], capture_output=True, text=True)
        assert done.returncode == 0, f"{command.block}: {done.stderr}"
