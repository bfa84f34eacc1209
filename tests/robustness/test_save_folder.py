"""The folder of a run: one run at a time, and what is in the way or does not fit is one line."""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import FileError
from core.settings import files, locks
from core.settings.locks import Lock
from core.training.engine import Engine
from core.training.hooks import LOCK, Hook
from core.training.recipe import read_recipe
from core.training.run import read_run
from core.training.standard_hooks import standard_hooks
from tests.robustness.conftest import one_line

Train = Callable[..., Engine]


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.setLevel(logging.INFO)
    yield
    assert root.handlers == before  # none of ours is left
    root.setLevel(level)


@pytest.fixture
def train(toy_settings: Callable[..., dict[str, Any]], tmp_path: Path) -> Train:
    """Train an epoch with the hooks of the tool."""

    def run(*more: Hook, epochs: int = 1, **how: bool) -> Engine:
        settings, out = toy_settings(epochs=epochs), tmp_path / "out"
        out.mkdir(exist_ok=True)
        given = read_run(settings)
        hooks = [*standard_hooks(given.train, out, 0, True, settings), *more]
        engine = Engine(given, read_recipe({}, epochs, False), out, hooks)
        engine.train(**how)
        return engine

    return run


def as_folder(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine")


def as_file(path: Path) -> None:
    path.write_text("mine")


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("config.yml", as_folder),
        ("train.log", as_folder),
        *((name, make) for name in ("latest", "best_model", "vdl") for make in (as_file, as_pipe)),
        (LOCK, as_folder),
    ],
)
def test_what_is_in_the_way_is_one_line_at_the_start(
    train: Train, tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / name
    make(path)
    with one_line() as said:
        train()
    where = tmp_path / "out" if name == LOCK else path
    assert said[0].startswith(f"{where}: ")
    assert path.exists()
    assert not (tmp_path / "out" / "latest" / "model.json").exists()  # before an epoch was lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert train().epoch == 1
    assert (tmp_path / "out" / "latest" / "model.json").is_file()
    assert not (tmp_path / "out" / LOCK).exists()


@pytest.mark.parametrize("name", ["latest", "best_model"])
def test_what_a_user_keeps_beside_a_checkpoint_stays(
    train: Train, tmp_path: Path, name: str
) -> None:
    train()
    mine = tmp_path / "out" / name / "notes.txt"
    mine.write_text("mine")
    with one_line() as said:
        train(overwrite=True)
    assert said == [
        f"{mine.parent}: holds notes.txt, which is no part of a checkpoint; name another folder, "
        "or move it away"
    ]
    assert mine.read_text() == "mine"
    mine.rename(mine.parent / ".hidden")  # as file managers leave them
    train(overwrite=True)


def test_a_config_that_is_a_file_is_replaced(train: Train, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yml").write_text("of before")
    train()
    assert "outside.toy" in (tmp_path / "out" / "config.yml").read_text()


def test_a_disk_that_is_full_at_the_start(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("config.yml"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    with one_line() as said:
        train()
    assert said[0] == f"{tmp_path}/out/config.yml: cannot be written: No space left on device"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == []


def test_a_log_that_the_disk_has_no_room_for_ends_no_training(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.log").symlink_to("/dev/full")
    assert train().epoch == 1
    said = [record.getMessage() for record in caplog.records if "any more" in record.getMessage()]
    assert len(said) == 1
    assert said[0].endswith("/dev/full: cannot be written any more: No space left on device") or (
        said[0] == f"{tmp_path}/out/train.log: cannot be written any more: No space left on device"
    )
    assert "Traceback" not in capfd.readouterr().err


def test_a_second_run_is_refused_and_the_first_one_s_files_stay(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train()
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    out = tmp_path / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with Lock(out / LOCK, out):
        with one_line() as said:
            train(epochs=2)
        who = f"process {os.getpid()} on {socket.gethostname()}"
        assert said[0].startswith(f"{out}: in use by {who}; wait until that has ended, or name")
        after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
        del after[out / LOCK]
        assert after == before
    train(epochs=2, resume=True)


def test_the_folder_is_free_again_after_an_error(train: Train, tmp_path: Path) -> None:
    class Fail(Hook):
        def after_epoch(self, engine: Engine) -> None:
            raise FileError("here")

    with pytest.raises(FileError, match="here"):
        train(Fail())
    assert not (tmp_path / "out" / LOCK).exists()
    assert train(resume=True, epochs=2).epoch == 2
