"""Folders that appear whole, and data sets drawn into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.errors import DataError, FileError
from core.settings.files import appearing, replacing
from core.training.synthetic import ensure_drawn


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def fill(way: Any, folder: Path, name: str, error: Exception | None = None) -> None:
    with way(folder) as draft:
        (draft / name).write_text("x")
        if error is not None:
            raise error


def test_a_failure_leaves_nothing_of_a_new_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fill(appearing, tmp_path / "new", "half", ZeroDivisionError())
    assert names(tmp_path) == []


def test_a_failure_leaves_the_old_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("x")
    with pytest.raises(ZeroDivisionError):
        fill(replacing, tmp_path / "out", "half", ZeroDivisionError())
    assert names(tmp_path) == ["out", "out/old"]
    fill(replacing, tmp_path / "out", "new")
    assert names(tmp_path) == ["out", "out/new"]


def test_of_two_processes_the_first_ones_folder_stays(tmp_path: Path) -> None:
    with appearing(tmp_path / "data") as slow:
        (slow / "a").write_text("slow")
        with appearing(tmp_path / "data") as fast:
            (fast / "a").write_text("fast")
    assert (tmp_path / "data" / "a").read_text() == "fast"
    assert names(tmp_path) == ["data", "data/a"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for way in (appearing, replacing):
        with pytest.raises(FileError, match=r"file/out: cannot be written: (Not a|File exists)"):
            fill(way, tmp_path / "file" / "out", "x")
        with pytest.raises(FileError, match=r"taken: cannot be written: No space left"):
            fill(way, tmp_path / "taken", "x", OSError(28, "No space left on device"))
    assert names(tmp_path) == ["file"]


def test_data_is_drawn_once_and_again_with_other_settings(tmp_path: Path) -> None:
    calls = []

    def draw(folder: Path) -> None:
        calls.append(folder)
        (folder / "picture").write_text(str(len(calls)))

    for settings in ({"n": 1, "size": (2, 3)}, {"n": 1, "size": [2, 3]}, {"n": 2}):
        ensure_drawn(tmp_path / "data", settings, draw)
    assert len(calls) == 2
    assert (tmp_path / "data" / "picture").read_text() == "2"
    (tmp_path / "mine").mkdir()
    ensure_drawn(tmp_path / "mine", {}, draw)  # an empty folder is free to use
    (tmp_path / "mine" / "synthetic.json").unlink()
    with pytest.raises(DataError, match=r"^data\.root: .*mine holds files that were not drawn"):
        ensure_drawn(tmp_path / "mine", {}, draw)
    assert (tmp_path / "mine" / "picture").read_text() == "3"
