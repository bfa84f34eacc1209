"""The command `trislim`: every tool under a name, answered without Paddle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trislim import commands

ROOT = Path(__file__).resolve().parents[2]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["trislim", *arguments])
    with pytest.raises(SystemExit) as end:
        commands.main()
    return end.value.code


def test_every_tool_has_its_command() -> None:
    tools = {file.stem for file in (ROOT / "tools").glob("*.py")}
    assert len(tools) > 8
    assert {each.tool for each in commands.COMMANDS} == tools
    names = [each.name for each in commands.COMMANDS]
    assert len(set(names)) == len(names)
    assert all(len(name) < commands.WIDTH for name in names)


def test_overview_says_what_each_does() -> None:
    lines = commands.overview().splitlines()
    for each in commands.COMMANDS:
        [line] = [line for line in lines if line.startswith(f"  {each.name} ")]
        assert line.endswith(".")
        assert len(line) > commands.WIDTH + 20


def test_help_loads_neither_paddle_nor_numpy() -> None:
    code = (
        "import sys; from trislim import commands; print(commands.overview()); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    words = set(done.stdout.split())
    assert {"train", "trislim.commands"} < words
    assert not words & {"paddle", "numpy", "yaml", "core", "trislim.core"}


def test_no_command_and_wrong_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    assert capsys.readouterr().out == f"{commands.overview()}\n"
    assert run(monkeypatch) == 2
    assert run(monkeypatch, "trian") == 2
    said = capsys.readouterr().err
    assert said == "error: trislim has no command 'trian' (did you mean 'train'?)\n"
    assert run(monkeypatch, "--verbose") == 2
    assert "trislim --help lists all" in capsys.readouterr().err


def test_help_of_a_command_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "export", "--help") == 0
    assert capsys.readouterr().out.startswith("usage: trislim export ")


def test_prune_is_train_under_a_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "prune", "-c", "gone.yml") == 2
    assert capsys.readouterr().err == "error: gone.yml: no such config file\n"
    assert run(monkeypatch, "prune", "-c", "cls/demo.yml", "--slim", "qat") == 2
    assert "--slim: given twice, as 'prune' and as 'qat'" in capsys.readouterr().err
