"""Labels files as editors and spreadsheets write them, and files that are meant otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataError
from tasks.cls.class_names import read_labels

WORDS = st.text("abcdef ,:-", min_size=1, max_size=8).filter(
    lambda word: word.strip(" ,:") == word and word
)


@settings(max_examples=40, deadline=None)
@given(
    # names of which each is an entry of a list, "- a", are refused
    st.lists(WORDS, min_size=1, max_size=6).filter(lambda names: any("- " not in n for n in names)),
    st.sampled_from([" ", "   ", "\t", ",", ", ", ";", ": ", " : ", "="]),
    st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.randoms(use_true_random=False),
)
def test_an_index_is_never_part_of_a_name(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    between: str,
    end: str,
    coding: str,
    random: object,
) -> None:
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    lines = [f"{index}{between}{name}" for index, name in enumerate(names)]
    random.shuffle(lines)  # type: ignore[attr-defined]
    path.write_bytes(end.join(lines).encode(coding))
    assert read_labels(path) == names


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("cat\t0\ndog\t1", 1),
        ("cat,1\ndog,0", 1),
        ("cat: 0\ndog: 1", 1),
        ("index,name\n0,cat\n1,dog", 1),
        ("0 cat\n1 dog\nbird", 3),
        ("1 cat\n2 dog\nbird", 3),
        ("1 cat\n2 dog", 2),
        ('0,"cat"\n1,"dog"', 1),
        ('"0","cat"\n"1","dog"', 1),
        ("0\tcat\n0\tdog", 2),
        ("0 cat\n99999999999999999999 dog", 2),
        *((f"0{mark} cat\n1{mark} dog", 1) for mark in (".", ")", "|", " |", " ->", " -", ".0")),
        ("[0] cat\n[1] dog", 1),
        ("(0) cat\n(1) dog", 1),
        ("+0 cat\n+1 dog", 1),
        ("0x0 cat\n0x1 dog", 1),
        ("1. cat\n2. dog\n3. owl", 1),
        ("cat 0\ndog 1", 1),
        ("dog 1\ncat 0", 1),
        ("- cat\n- dog", 1),
        ("* cat\n* dog", 1),
        ('["cat", "dog"]', 1),
        ('[\n  "cat",\n  "dog"\n]', 2),
        ('{"0": "cat", "1": "dog"}', 1),
        ("{0: 'cat',\n 1: 'dog'}", 1),
        ("0 'cat'\n1 'dog'", 1),
        ("cat,\ndog,", 1),
        ("0,cat,\n1,dog,", 1),
        ("# classes\ncat\ndog", 1),
        ("cat\n# and\ndog", 2),
    ],
)
def test_lines_that_are_meant_otherwise_are_named(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(DataError, match=rf"labels\.txt:{line}: "):
        read_labels(tmp_path / "labels.txt")


@pytest.mark.parametrize(
    "names",
    [
        ["ant", "7 up", "bee"],
        ["tench, Tinca tinca", "goldfish"],
        ["class 0", "class 1"],
        ["Boeing 747", "A 380"],
        ["3 wheeler", "car"],
        ["year 1: spring", "year 1: autumn"],
        ["1-series", "2-series", "3-series"],
        ["#1", "# 2"],
        ["x [0]", "y"],
        ["cat, black", "dog,"],
        ["stage 0", "stage 1"],
    ],
)
def test_names_may_hold_numbers(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(names))
    assert read_labels(tmp_path / "labels.txt") == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0 cat\ndog\n", None),  # an index that was forgotten
        ("cat\n1 dog\n", None),
        ("7 up\nsprite\n", ["7 up", "sprite"]),
        ("1 euro\n5 euro\nbanknote\n", ["1 euro", "5 euro", "banknote"]),
    ],
)
def test_one_index_of_two_lines(tmp_path: Path, text: str, names: list[str] | None) -> None:
    (tmp_path / "labels.txt").write_text(text)
    if names is None:
        with pytest.raises(DataError, match=r"expected 'index name' as in the other lines"):
            read_labels(tmp_path / "labels.txt")
    else:
        assert read_labels(tmp_path / "labels.txt") == names
