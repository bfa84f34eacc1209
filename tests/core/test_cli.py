"""The shared frame of the tools: versions, overrides, one line per error."""

from __future__ import annotations

import argparse
import errno
import importlib.metadata
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core import cli, options
from core.errors import ConfigError, DataError
from core.settings import versions
from core.settings.acceptance import FileFigures
from core.settings.signals import Terminated
from core.settings.versions import check_versions

NO_ROOM = "error: the system gives this process no more memory or threads"


@pytest.fixture(autouse=True)
def _keep_log_handlers():
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DataError("x.jpg: broken"), 2, "error: x.jpg: broken\n"),
        (MemoryError(), 2, "error: out of memory\n"),
        (RuntimeError("can't start new thread"), 2, f"{NO_ROOM}: can't start new thread\n"),
        (
            ImportError("libmkl.so: failed to map segment from shared object"),
            2,
            f"{NO_ROOM}: libmkl.so: failed to map segment from shared object\n",
        ),
        (
            RuntimeError("(PreconditionNotMet) x.so: failed to map segment\n  Suggestions:\n1."),
            2,
            f"{NO_ROOM}: (PreconditionNotMet) x.so: failed to map segment\n",
        ),
        (
            OSError(errno.ENOMEM, "Cannot allocate memory"),
            2,
            f"{NO_ROOM}: [Errno {errno.ENOMEM}] Cannot allocate memory\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (Terminated(signal.SIGTERM), 143, "terminated\n"),
        (Terminated(signal.SIGHUP), 129, "hung up\n"),
    ],
)
def test_errors_are_one_line(capsys, error, status, line) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == status
    assert capsys.readouterr().err == line


def test_messages_are_one_line_whatever_is_in_them(capsys) -> None:
    cli.print_left_out(["a\nb\udc80c", "x " * 5_000, "a" * 6_000 + "b: no such file"])
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "left out: a b c"
    assert second.endswith("x x  ... (6000 characters more)")
    assert third == f"left out: {'a' * 200}...{'a' * 38}b: no such file"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-o train.epochs 3", "-o train.epochs 3: the = is missing; write -o train.epochs=3\n"),
        ("-o a.b=1 -o seed 7", "-o seed 7: the = is missing; write -o seed=7\n"),
        ("-o a.b=1 3", "unrecognized arguments: 3\n"),
        ("--nothing 3 4", "unrecognized arguments: --nothing 3 4\n"),
    ],
)
def test_a_missing_equals_sign_is_named(
    words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser(prog="tool")
    options.add_config_arguments(parser, required=False)
    monkeypatch.setattr(sys, "argv", ["tool", *words.split()])
    with pytest.raises(SystemExit) as end:
        cli.parse(parser)
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith(f"tool: error: {said}")


@pytest.mark.parametrize("name", ["ppcls", "faiss"])
def test_libraries_that_choose_their_level_are_hushed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger(name)
    before = logger.level, logger.propagate, logger.filters[:]

    def main() -> None:
        logging.getLogger(f"{name}.loader").info("is deprecated")
        logger.setLevel(logging.INFO)
        logger.propagate = True
        logger.warning("init_res will be deprecated")
        logger.error("broken")

    with pytest.raises(SystemExit):
        cli.run(main)
    logger.level, logger.propagate, logger.filters[:] = before
    said = capsys.readouterr().err
    assert "broken" in said
    assert "deprecated" not in said


def test_our_own_defects_keep_their_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(main)


@pytest.mark.parametrize(
    "output",
    [
        'print("a line", flush=True)',
        'print("a line", flush=False)',
        'cli.wide_console().print("a line")',
    ],
)
def test_a_reader_that_has_seen_enough_is_no_error(output: str) -> None:
    code = f"""
from core import cli
cli.run(lambda: {output})
"""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 128 + signal.SIGPIPE


def test_brackets_are_no_markup_in_tables(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    table = Table("[b]column[/b]")
    table.add_row("my[model]/[/b]:smile:")
    cli.wide_console().print(table, "[red]x[/red]")
    said = capsys.readouterr().out
    for text in ("[b]column[/b]", "my[model]/[/b]:smile:", "[red]x[/red]"):
        assert text in said


def test_a_broken_pipe_elsewhere_keeps_its_traceback() -> None:
    def main() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        cli.run(main)


def test_status_is_passed_on() -> None:
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: 1)
    assert end.value.code == 1


def test_this_environment_is_the_tested_one() -> None:
    check_versions()


def test_wrong_and_missing_libraries_are_named(monkeypatch) -> None:
    installed = {"paddlepaddle": "2.6.2", "gpu": "x"}
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "paddlepaddle-gpu" or installed.get(name) == "":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    for wrong in ("2.6.2", "3.1.0", "3.4.0rc0", "3.4.0"):
        installed["paddlepaddle"] = wrong
        said = rf"^paddlepaddle: version {wrong} is installed, .* with <3\.4,>=3\.1\.1; run"
        with pytest.raises(ConfigError, match=said):
            check_versions()
    for tested in ("3.1.1", "3.2.2", "3.3.1"):
        installed["paddlepaddle"] = tested
        check_versions()
    installed["paddlepaddle"] = ""
    with pytest.raises(ConfigError, match=r"^paddlepaddle: not installed; run `make install`"):
        check_versions()
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "3.1.1" if name == "paddlepaddle-gpu" else version(name),
    )
    check_versions()


def test_beside_the_package_pip_is_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "INSTALLED", True)
    monkeypatch.setattr(versions, "installed_version", lambda name: None)
    with pytest.raises(ConfigError, match=r"run `pip install 'paddlepaddle<3\.4,>=3\.1\.1'`$"):
        check_versions()


def test_libraries_to_install_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in versions.BY_HAND.items():
        versions.require(name, "model.name")
        assert versions.installed_version(name) == version
    monkeypatch.setattr(versions, "installed_version", lambda name: None)
    with pytest.raises(ConfigError, match=r"^model\.name: needs paddleclas.*--no-deps"):
        versions.require("paddleclas", "model.name")


def test_a_tool_ends_in_one_line_before_a_wrong_library_is_loaded(tmp_path) -> None:
    # a Paddle of another version, which moreover cannot be imported
    (tmp_path / "paddle.py").write_text("raise RuntimeError('unreadable')")
    (tmp_path / "paddlepaddle-2.6.2.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: paddlepaddle\nVersion: 2.6.2\n"
    (tmp_path / "paddlepaddle-2.6.2.dist-info" / "METADATA").write_text(metadata)
    tools = Path(__file__).resolve().parents[2] / "tools"
    for tool in sorted(tools.glob("*.py")):
        done = subprocess.run(
            [sys.executable, str(tool), "--help"],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: paddlepaddle: version 2.6.2 is installed")
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("number", "told"),
    [
        *((each, "cannot be written: ") for each in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)),
        *((each, "") for each in (errno.EACCES, errno.ENAMETOOLONG, errno.ELOOP)),
    ],
)
def test_full_disks_and_barred_paths_are_one_line_wherever_they_are_met(
    capsys, number, told
) -> None:
    def main() -> None:
        raise OSError(number, os.strerror(number), "some/file")

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: some/file: {told}{os.strerror(number)}\n"


def test_other_errors_of_the_system_keep_their_traceback() -> None:
    def main() -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file descriptor"):
        cli.run(main)


def test_one_of_several_processes_names_itself(capsys, monkeypatch) -> None:
    def main() -> None:
        raise DataError("x.jpg: broken")

    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    with pytest.raises(SystemExit):
        cli.run(main)
    assert capsys.readouterr().err == "error: rank 1: x.jpg: broken\n"


def test_targets_are_read_and_decide_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    options.add_acceptance_argument(parser, "max_drop")
    wanted = parser.parse_args(["--targets", "max_size_mb=2"]).targets
    small, large = FileFigures("small", size_mb=1.0), FileFigures("large", size_mb=3.0)
    assert cli.judged(None, [large]) == 0
    assert cli.judged(wanted, [large, small]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "FAIL  large: size 3 MB, at most 2 wanted",
        "pass  small: size 1 MB, at most 2 wanted",
        "best: small",
    ]
    assert cli.judged(wanted, [large]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "no file meets all targets"
    for text, said in {"max_drop=1": "is not measured by this tool", "x=1": "expected one"}.items():
        with pytest.raises(SystemExit):
            parser.parse_args(["--targets", text])
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder.json", r"folder\.json is a folder; name another file"),
        ("file/a.json", r"file/a\.json cannot be written there; name another file"),
        ("file/b/a.json", r"file/b/a\.json cannot be written there"),
        ("barred/b/a.json", r"barred/b/a\.json cannot be written there"),
    ],
)
def test_where_a_file_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "barred").mkdir()
    (tmp_path / "new.json").write_text("{}")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: p.name != "barred" and allowed(p, mode))
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        options.file_ending(".json")(str(tmp_path / name))
    for fine in ("new.json", "made/later/a.json"):
        assert options.file_ending(".json")(str(tmp_path / fine)) == tmp_path / fine


def test_a_recipe_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slim", action=options.Once)
    assert parser.parse_args(["--slim", "qat"]).slim == "qat"
    with pytest.raises(SystemExit):
        parser.parse_args(["--slim", "prune", "--slim", "qat"])
    assert "--slim: given twice, as 'prune' and as 'qat'" in capsys.readouterr().err
