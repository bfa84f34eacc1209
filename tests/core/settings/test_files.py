"""Folders that appear whole, and data sets drawn into them."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import DataError, FileError
from core.settings import files, locks
from core.settings.files import (
    appearing,
    exchange,
    present,
    remove_folder,
    replacing,
    scratch,
    tidy,
    write_text,
)
from core.training.synthetic import ensure_drawn

ROOT = Path(__file__).resolve().parents[3]


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


def in_child(code: str, folder: Path) -> int:
    """Run code that ends its own process; without Paddle, so quickly."""
    head = "import os, signal\nfrom pathlib import Path\nfrom core.settings import files\n"
    head += "die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    command = [sys.executable, "-c", head + code, str(folder)]
    return subprocess.run(command, cwd=ROOT, timeout=60).returncode


def filled(folder: Path, content: str) -> None:
    with replacing(folder) as draft:
        (draft / "file").write_text(content)


# the process dies in front of its N-th renaming; without an exchange of both names there are two
@pytest.mark.parametrize(
    ("exchange", "number", "mend"),
    [
        *((True, number, "load") for number in (0, 1)),
        *((False, number, "load") for number in (0, 1, 2)),
        (False, 1, "write"),
    ],
)
def test_a_killed_replacement_leaves_the_old_or_the_new(
    tmp_path: Path, exchange: bool, number: int, mend: str
) -> None:
    folder = tmp_path / "out"
    filled(folder, "old")
    code = f"""
if not {exchange}:
    files.exchange = lambda *_: False
calls = []
real, swap = Path.rename, files.exchange
def rename(path, target, do=real):
    len(calls) == {number} and die()
    calls.append(1)
    return do(path, target)
Path.rename = rename
if {exchange}:
    files.exchange = lambda one, other: rename(one, other, swap)
import sys
with files.replacing(Path(sys.argv[1])) as draft:
    (draft / "file").write_text("new")
die()
"""
    assert in_child(code, folder) == -signal.SIGKILL
    if mend == "load":
        assert (present(folder) / "file").read_text() in ("old", "new")
        assert folder.is_dir()
    filled(folder, "newer")
    assert names(tmp_path) == ["out", "out/file"]
    assert (folder / "file").read_text() == "newer"


def test_two_names_change_places_at_once(tmp_path: Path) -> None:
    filled(tmp_path / "a", "a")
    filled(tmp_path / "b", "b")
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange names")
    assert (tmp_path / "a" / "file").read_text() == "b"
    assert not exchange(tmp_path / "a", tmp_path / "absent")


def test_an_interruption_between_two_renames_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "out", "old")
    monkeypatch.setattr(files, "exchange", lambda *_: False)
    rename, calls = Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "out", "new")
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert names(tmp_path) == ["out", "out/file"]


def test_a_folder_that_cannot_be_put_back_is_read_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / ".out.trislim-old"
    (old / "int8").mkdir(parents=True)
    monkeypatch.setattr(files, "_put_back", lambda folder: None)  # as on a disk that is read only
    assert present(tmp_path / "out") == old
    assert present(tmp_path / "out" / "int8") == old / "int8"
    monkeypatch.undo()
    assert present(tmp_path / "out" / "int8") == tmp_path / "out" / "int8"
    assert names(tmp_path) == ["out", "out/int8"]
    assert present(tmp_path / "absent") == tmp_path / "absent"


def test_what_killed_processes_left_is_removed_at_the_next_time(tmp_path: Path) -> None:
    code = """
import sys
top = Path(sys.argv[1])
os.environ["TMPDIR"] = str(top)
with files.replacing(top / "one") as a, files.appearing(top / "two") as b, files.scratch() as c:
    for each in (a, b, c):
        (each / "half").write_text("x")
    files.os.replace = die
    files.write_text(top / "three", "x")
"""
    assert in_child(code, tmp_path) == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 5
    filled(tmp_path / "other", "x")  # in the same folder
    left = [
        name for name in names(tmp_path) if name.startswith(".trislim-scratch-") and "/" not in name
    ]
    assert names(tmp_path) == sorted(["other", "other/file", left[0], f"{left[0]}/half"])
    with temporary(tmp_path), scratch() as mine:
        assert names(tmp_path) == sorted(["other", "other/file", mine.name])
    assert names(tmp_path) == ["other", "other/file"]


@contextlib.contextmanager
def temporary(folder: Path) -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def test_what_living_processes_write_is_left_alone(tmp_path: Path) -> None:
    with (
        temporary(tmp_path),
        scratch() as one,
        appearing(tmp_path / "two") as two,
        replacing(tmp_path / "three") as three,
        scratch(),
        appearing(tmp_path / "five"),
        replacing(tmp_path / "six"),
    ):
        assert one.is_dir()
        assert two.is_dir()
        assert three.is_dir()


def test_two_who_replace_one_folder_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    with replacing(tmp_path / "out") as draft:
        (draft / "file").write_text("first")
        with pytest.raises(FileError, match=rf"/out: in use by process {os.getpid()} on "):
            filled(tmp_path / "out", "second")
    assert (tmp_path / "out" / "file").read_text() == "first"


def test_a_folder_is_removed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_folder(tmp_path / "absent")
    filled(tmp_path / "out", "first")
    (tmp_path / "link").symlink_to("out")

    with monkeypatch.context() as patch:  # killed in the middle
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
        remove_folder(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    tidy(tmp_path)
    assert os.listdir(tmp_path) == ["link"]
    filled(tmp_path / "out", "second")
    remove_folder(tmp_path / "link")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileError, match="expected a folder"):
        remove_folder(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def strange(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("mine")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(path.parent / "mine" if kind == "link to a file" else path)
        (path.parent / "mine").write_text("mine")


@pytest.mark.parametrize("kind", ["file", "fifo", "link to a file", "loop of links"])
def test_what_is_no_folder_is_refused_and_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    strange(path, kind)
    before = names(tmp_path)
    for _ in range(2):
        with pytest.raises(FileError, match=r": expected a folder, it is something else; move"):
            filled(path, "x")
        assert names(tmp_path) == before
    path.unlink()
    filled(path, "x")  # later saves work
    assert (path / "file").read_text() == "x"


def test_a_link_to_a_folder_stays_and_its_folder_is_replaced(tmp_path: Path) -> None:
    filled(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    filled(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "new"


def test_a_mounted_file_system_is_refused() -> None:
    with pytest.raises(FileError, match=r"^/proc: is a mounted file system; name a folder in it"):
        filled(Path("/proc"), "x")


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    code = """
import sys
files.os.replace = die
files.write_text(Path(sys.argv[1]) / "file", "new" * 10000)
"""
    assert in_child(code, tmp_path) == -signal.SIGKILL
    assert (tmp_path / "file").read_text() == "old"
    write_text(tmp_path / "file", "newer")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "newer"
    long = "x" * 250
    write_text(tmp_path / long, "a name with no room beside it")
    assert names(tmp_path) == ["file", long]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=r"/folder: cannot be written: Is a directory"):
        write_text(tmp_path / "folder", "x")
    assert names(tmp_path) == ["folder"]


def test_many_writers_of_one_file_leave_one_of_theirs(tmp_path: Path) -> None:
    texts = [str(number) * 50_000 for number in range(8)]
    threads = [
        threading.Thread(target=write_text, args=(tmp_path / "file", text)) for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_text() in texts
    assert names(tmp_path) == ["file"]


def test_without_a_place_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/absent")
    with pytest.raises(FileError, match=r"^/absent: no temporary folder can be made: No such"):
        scratch().__enter__()


def test_a_full_disk_may_be_that_of_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    for number, said in (
        (errno.ENOSPC, rf" \(free: [\d,]+ MB in {tmp_path}, [\d,]+ MB in {tmp_path}/tmp\)$"),
        (errno.EACCES, "$"),
    ):
        reason = os.strerror(number)
        message = rf"/out: cannot be written: {reason}{said}"
        with pytest.raises(FileError, match=message), replacing(tmp_path / "out"):
            raise OSError(number, reason)
    free = rf"\(free: [\d,]+ MB in {tmp_path}/tmp\)$"
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="No space") as caught, scratch():  # not on this disk
        raise full
    assert caught.value is full
    monkeypatch.setattr(files, "ROOM", 1 << 62)
    with (
        pytest.raises(FileError, match=rf"^a file cannot be written: No space .* {free}"),
        scratch(),
    ):
        raise full
    with pytest.raises(OSError, match="some/file"), scratch():  # which names itself
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some/file")
