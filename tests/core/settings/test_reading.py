"""Files of any editor, and what is no file."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DataError
from core.settings.reading import read_bytes, read_json, read_lines, read_text, trimmed


class Stated(NamedTuple):
    """What a system says of a file."""

    st_mode: int
    st_size: int


TEXT = "0 Käfer\n\n1 Bär \n"
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=2, max_size=8)


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_texts_of_all_systems(tmp_path: Path, coding: str, end: str) -> None:
    (tmp_path / "t.txt").write_bytes(TEXT.replace("\n", end).encode(coding))
    assert read_lines(tmp_path / "t.txt", DataError) == [(1, "0 Käfer"), (3, "1 Bär")]


@given(st.lists(NAMES.filter(lambda name: trimmed(name) == name), max_size=5), st.booleans())
def test_lines_end_at_line_ends_only(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], wide: bool
) -> None:
    path = tmp_path_factory.mktemp("lines") / "t.txt"
    path.write_bytes("\r\n".join(names).encode("utf-16" if wide else "utf-8"))
    assert [text for _, text in read_lines(path, DataError)] == names


def test_files_that_were_put_together_keep_no_marks_inside(tmp_path: Path) -> None:
    parts = [text.encode("utf-8-sig") for text in ("0 cat\n", "1 dog\n", " \u200b2 owl\u200b \n")]
    (tmp_path / "t.txt").write_bytes(b"".join(parts))
    lines = read_lines(tmp_path / "t.txt", DataError)
    assert lines == [(1, "0 cat"), (2, "1 dog"), (3, "2 owl")]


def test_no_memory_is_reserved_for_more_than_a_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small").write_bytes(b"12345")
    for most in (5, 1 << 40):
        tracemalloc.start()
        assert read_bytes(tmp_path / "small", DataError, most) == b"12345"
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
        tracemalloc.stop()
    # a file that grows while it is read
    size = os.fstat
    monkeypatch.setattr(os, "fstat", lambda handle: Stated(size(handle).st_mode, 2))
    assert read_bytes(tmp_path / "small", DataError) == b"12345"
    with pytest.raises(DataError, match="has more than 4 bytes"):
        read_bytes(tmp_path / "small", DataError, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nKäfer".encode("latin-1"), r"t\.txt: not a UTF-8 text file \(line 2\)"),
        ("a\nb".encode("utf-16-le"), r"t\.txt: not a UTF-8 text file \(a NUL in line 1\)"),
        (b"\xff\xfe\x00", r"t\.txt: not a UTF-8"),
    ],
)
def test_other_texts_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_text(tmp_path / "t.txt", DataError)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "large").write_bytes(b"12345")
    for path, message in (
        ("pipe", "a pipe, socket or device"),
        ("loop", "Too many levels of symbolic links"),
        ("", "Is a directory"),
        ("none", "No such file"),
        ("a\0b", "cannot be the name of a file"),
        ("a\ud800", "cannot be the name of a file"),
        ("x" * 5000, "File name too long"),
    ):
        with pytest.raises(DataError, match=message):
            read_bytes(str(tmp_path / path), DataError)
    with pytest.raises(DataError, match="a pipe, socket or device"):
        read_bytes("/dev/zero", DataError)
    with pytest.raises(DataError, match="has more than 4 bytes"):
        read_bytes(tmp_path / "large", DataError, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ("9" * 5000, "not JSON that can be read: a number of too many digits$"),
        ('{"a": 1, "b": [{"c": 1, "d": 2, "c": 3}]}', "an object has the key 'c' twice$"),
        ("{", "not JSON: .* line 1, column 2"),
    ],
)
def test_json_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_json(tmp_path / "x.json", DataError)
