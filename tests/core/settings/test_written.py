"""What we wrote is replaced, what others wrote is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import FileError
from core.settings.written import LIST, WrittenFiles, replace_json


def test_only_what_is_ours_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    WrittenFiles(folder).write("a/x.png", b"1")
    (folder / "mine.png").write_bytes(b"mine")
    WrittenFiles(folder).write("a/x.png", b"2")  # another process of ours
    assert (folder / "a" / "x.png").read_bytes() == b"2"
    with pytest.raises(FileError, match=r"mine\.png: is there, and not written by this tool; move"):
        WrittenFiles(folder).check(["a/x.png", "new.png", "mine.png"])
    with pytest.raises(FileError, match=r"mine\.png: is there"):
        WrittenFiles(folder).write("mine.png", b"3")
    assert (folder / "mine.png").read_bytes() == b"mine"
    (folder / "a" / "x.png").write_bytes(b"retouched")
    with pytest.raises(FileError, match=r"x\.png: was changed since; move it"):
        WrittenFiles(folder).write("a/x.png", b"4")
    (folder / "a" / "x.png").unlink()
    WrittenFiles(folder).write("a/x.png", b"4")
    (folder / "b").mkdir()
    with pytest.raises(FileError, match=r"/b: is there"):
        WrittenFiles(folder).check(["b"])
    lines = (folder / LIST).read_text().splitlines()
    WrittenFiles(folder).write("a/x.png", b"4")
    assert (folder / LIST).read_text().splitlines() == lines  # nothing new


def test_files_that_others_write_for_us(tmp_path: Path) -> None:
    names = ["config.yml", "labels.txt"]
    killed = WrittenFiles(tmp_path).writing(names)
    killed.__enter__()
    (tmp_path / "config.yml").write_text("half")  # and then it is killed
    with WrittenFiles(tmp_path).writing(names):
        (tmp_path / "config.yml").write_text("whole")
    with pytest.raises(ZeroDivisionError), WrittenFiles(tmp_path).writing(names):
        raise ZeroDivisionError  # what fails leaves nothing open
    (tmp_path / "labels.txt").write_text("mine")
    with pytest.raises(FileError, match=r"labels\.txt: was changed since"):
        WrittenFiles(tmp_path).check(names)
    (tmp_path / "labels.txt").unlink()
    (tmp_path / "config.yml").write_text("edited")
    with (
        pytest.raises(FileError, match=r"config\.yml: was changed since"),
        WrittenFiles(tmp_path).writing(names),
    ):
        raise AssertionError("it was let in")
    assert (tmp_path / "config.yml").read_text() == "edited"


def test_a_file_that_is_moved_in(tmp_path: Path) -> None:
    files, draft = WrittenFiles(tmp_path), tmp_path / "draft"
    for content in ("1", "2"):
        draft.write_text(content)
        files.expect("clip.mp4", draft)
        draft.rename(tmp_path / "clip.mp4")
    (tmp_path / "clip.mp4").write_text("mine")
    draft.write_text("3")
    with pytest.raises(FileError, match=r"clip\.mp4: was changed since"):
        WrittenFiles(tmp_path).expect("clip.mp4", draft)


def test_a_killed_process_leaves_files_that_are_known(tmp_path: Path) -> None:
    files = WrittenFiles(tmp_path)
    files.write("x", b"1")
    with (tmp_path / LIST).open("a") as file:
        file.write('\n["x", "of content that never came"]\n["y", "of a li')
    again = WrittenFiles(tmp_path)
    again.check(["x", "y"])
    (tmp_path / "y").touch()
    with pytest.raises(FileError, match="/y: is there, and not written"):
        again.check(["y"])


def test_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / LIST).mkdir()
    with pytest.raises(FileError, match=rf"{LIST}: cannot be read: .*; remove it"):
        WrittenFiles(tmp_path)


def test_json_replaces_its_like(tmp_path: Path) -> None:
    file = tmp_path / "new" / "m.json"
    replace_json(file, {"top1": 0.5})
    replace_json(file, {"top1": 0.25, "top5": 1.0})
    assert json.loads(file.read_text()) == {"top1": 0.25, "top5": 1.0}
    for other in ('{"images": [], "annotations": []}', "[1, 2]", "no JSON", "", '[{"a": 1}]'):
        file.write_text(other)
        with pytest.raises(FileError, match=r"m\.json: is there, and holds something else; name"):
            replace_json(file, {"top1": 0.5})
        assert file.read_text() == other
    replace_json(file, [{"a": 2}])
    replace_json(tmp_path / "empty.json", [])
    replace_json(tmp_path / "empty.json", [])
    with pytest.raises(FileError, match="holds something else"):
        replace_json(tmp_path / "new", {"top1": 0.5})
