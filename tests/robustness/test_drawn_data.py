"""Drawn data: what a user put there is never deleted, and a kill leaves nothing to mend by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import DataError, FileError
from core.settings.locks import Held
from core.training.synthetic import MARK, ensure_drawn
from tests.robustness.conftest import ROOT, one_line

OLD, NEW = {"n": 1}, {"n": 2}


def draw(folder: Path, text: str = "drawn") -> None:
    (folder / "train").mkdir()
    (folder / "train" / "0.png").write_text(text)
    (folder / "labels.txt").write_text("0 x")


def content(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def add(root: Path) -> str:
    (root / "train" / "mine.png").write_text("mine")
    return f"{root}/train/mine.png was not drawn"


def change(root: Path) -> str:
    (root / "labels.txt").write_text("0 y")
    return f"{root}/labels.txt was changed since"


def link(root: Path) -> str:
    (root.parent / "elsewhere").mkdir()
    (root / "more").symlink_to(root.parent / "elsewhere")
    return f"{root}/more was not drawn"


def earlier(root: Path) -> str:
    (root / MARK).write_text(json.dumps(OLD))
    return "by an earlier version; remove it"


@pytest.mark.parametrize("meddle", [add, change, link, earlier])
def test_what_was_not_drawn_is_never_deleted(tmp_path: Path, meddle: Callable[[Path], str]) -> None:
    root = tmp_path / "data"
    ensure_drawn(root, OLD, draw)
    said_of = meddle(root)
    before = content(root)
    ensure_drawn(root, OLD, draw)  # with the settings of before they are used as they are
    with one_line() as said:
        ensure_drawn(root, NEW, draw)
    assert said[0].startswith(f"data.root: {root} was drawn with other settings of synthetic, ")
    assert said_of in said[0]
    assert content(root) == before


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    for name, text in (("photo.jpg", "x"), (MARK, "{")):
        root = tmp_path / name.partition(".")[0]
        root.mkdir()
        (root / name).write_text(text)
        with pytest.raises(DataError, match="holds files that were not drawn"):
            ensure_drawn(root, NEW, draw)
        assert content(root) == {name: text}
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="holds files that were not drawn"):
        ensure_drawn(tmp_path / "file", NEW, draw)


def python(code: str, root: Path) -> list[str]:
    head = (
        "import json, os, shutil, signal, sys, time\nfrom pathlib import Path\n"
        "from core.settings import files\nfrom core.training.synthetic import ensure_drawn\n"
        "from tests.robustness.test_drawn_data import draw\nroot = Path(sys.argv[1])\n"
        "die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
    ).replace("from tests.robustness.test_drawn_data import draw\n", DRAW)
    return [sys.executable, "-c", head + code, str(root)]


DRAW = """
def draw(folder, text="drawn"):
    (folder / "train").mkdir()
    (folder / "train" / "0.png").write_text(text)
    (folder / "labels.txt").write_text("0 x")
"""
KILLS = {
    "while it draws": "ensure_drawn(root, {'n': 2}, lambda folder: (draw(folder), die()))",
    "in front of the change": "files._put_in_place = die\nensure_drawn(root, {'n': 2}, draw)",
    "while the old is removed": (
        "remove = shutil.rmtree\n"
        "def half(path, **how):\n"
        "    if Path(path, 'labels.txt').exists():\n"
        "        Path(path, 'labels.txt').unlink()\n        die()\n"
        "    remove(path, **how)\n"
        "shutil.rmtree = half\nensure_drawn(root, {'n': 2}, draw)"
    ),
}


@pytest.mark.parametrize("when", KILLS)
def test_a_kill_while_it_is_redrawn_is_repaired_by_the_next_run(tmp_path: Path, when: str) -> None:
    root = tmp_path / "data"
    ensure_drawn(root, OLD, draw).end()
    done = subprocess.run(python(KILLS[when], root), cwd=ROOT, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert "train/0.png" in content(root)
    assert MARK in content(root)
    ensure_drawn(root, NEW, lambda folder: draw(folder, "anew"))
    assert content(root)["labels.txt"] == "0 x"
    assert content(root)["train/0.png"] in ("anew", "drawn")
    assert json.loads((root / MARK).read_text())["settings"] == NEW
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_data_that_another_process_uses_are_not_redrawn(tmp_path: Path) -> None:
    root = tmp_path / "data"
    code = "used = ensure_drawn(root, {'n': 1}, draw)\nprint('ready', flush=True)\ntime.sleep(60)"
    process = subprocess.Popen(python(code, root), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        used = ensure_drawn(root, OLD, draw)  # beside it, with the same settings
        with one_line() as said:
            ensure_drawn(root, NEW, draw)
        used.end()
        with one_line() as said:
            ensure_drawn(root, NEW, draw)
        assert f", and process {process.pid} on " in said[0]
        assert json.loads((root / MARK).read_text())["settings"] == OLD
    finally:
        process.kill()
        process.communicate()
    ensure_drawn(root, NEW, draw)
    assert json.loads((root / MARK).read_text())["settings"] == NEW


def test_processes_that_draw_at_once_draw_once(tmp_path: Path) -> None:
    root = tmp_path / "data"
    code = (
        "def slow(folder):\n    time.sleep(0.3)\n    draw(folder, str(os.getpid()))\n"
        "used = ensure_drawn(root, {'n': 1}, slow)\n"
        "print((root / 'train' / '0.png').read_text())"
    )
    started = [
        subprocess.Popen(python(code, root), cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = {process.communicate(timeout=60)[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(said) == 1


def test_a_task_keeps_its_data_while_it_lives(tmp_path: Path) -> None:
    from core.task import build_task

    settings: dict[str, Any] = {
        "model": {"name": "MobileNetV3_small_x0_35", "num_classes": 2},
        "data": {"root": str(tmp_path / "data"), "image_size": 32},
        "synthetic": {"train_images": 2, "val_images": 2, "side": 32},
    }
    first = build_task("cls", settings)
    first.build_dataset("val")
    other = build_task("cls", {**settings, "synthetic": {**settings["synthetic"], "seed": 5}})
    with pytest.raises(DataError, match=rf"and process {os.getpid()} on .* uses it"):
        other.build_dataset("val")
    del first
    other.build_dataset("val")


def test_drawn_data_that_cannot_be_written_to_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    ensure_drawn(root, OLD, draw).end()
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    assert isinstance(ensure_drawn(root, OLD, draw), Held)
    with pytest.raises(FileError, match=r"/data: cannot be written: Read-only file system"):
        ensure_drawn(root, NEW, draw)
