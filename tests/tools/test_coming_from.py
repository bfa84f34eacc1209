"""The page for those who come from elsewhere: its tools, flags and tests exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.docs.command_lines import read_arguments

ROOT = Path(__file__).resolve().parents[2]
RUNNING = ("tests/tools/", "tests/core/workflows/")  # whose tests run commands to their end
ROWS = [
    [cell.strip() for cell in line.strip("| \n").split(" | ")]
    for line in (ROOT / "docs/coming_from.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and "tests/" in line
]


def test_there_is_a_row_for_every_document() -> None:
    text = (ROOT / "docs/coming_from.md").read_text(encoding="utf-8")
    for document in ("PaddleSlim 1.x", "PaddleClas", "PaddleSeg", "light-weight", "ACT"):
        assert f"| {document}" in text
    assert len(ROWS) >= 15


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[-2][:40])
def test_commands_and_tests_exist(row: list[str]) -> None:
    command, tests = row[-2], row[-1]
    found = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", tests)
    assert any(file.startswith(RUNNING) for file, _ in found), "no test runs the command"
    for file, name in found:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text, f"{file}::{name}"
    for words in re.findall(r"`tools/([^`]+)`", command):
        tool, *arguments = shlex.split(words)
        read_arguments(tool, arguments)
