"""What is said of folders and image files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from core.errors import DataError
from core.training import looking
from core.training.looking import (
    files_in,
    find_folder,
    folder_in_words,
    holds_images,
    look_at_images,
    spread,
)


def write(path: Path, width: int, height: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))
    return str(path)


def test_some_are_spread_over_all() -> None:
    paths = [str(i) for i in range(10)]
    assert spread(paths, 4) == ["0", "2", "5", "7"]
    assert spread(paths, 20) == paths
    assert spread([], 3) == []


@pytest.mark.parametrize("whole", [True, False])
def test_sizes_and_broken_files(tmp_path: Path, whole: bool) -> None:
    sizes = ((30, 20), (60, 50), (40, 30))
    paths = [write(tmp_path / f"{i}.{kind}", *size)
             for i, (size, kind) in enumerate(zip(sizes, ("png", "jpg", "bmp")))]  # fmt: skip
    (tmp_path / "broken.png").write_bytes(b"no image")
    found = look_at_images([*paths, str(tmp_path / "broken.png")], whole)
    assert found.median == (40, 30)
    assert found.in_words() == "pictures are 30x20 to 60x50"
    assert len(found.broken) == 1
    assert "broken.png" in found.broken[0]
    assert look_at_images(paths[:1]).in_words() == "all pictures are 30x20"
    assert look_at_images([]).in_words() == "no picture can be read"


def test_a_folder_in_words(tmp_path: Path) -> None:
    for name in ("a", "b", ".hidden"):
        (tmp_path / name).mkdir()
    for name in ("x.jpg", "y.JPG", "z.txt", ".DS_Store"):
        (tmp_path / name).write_text("")
    assert folder_in_words(tmp_path) == f"{tmp_path} holds folders a, b and files: 2 .jpg, 1 .txt"
    assert folder_in_words(tmp_path / "a") == f"{tmp_path / 'a'} holds no folders and no files"
    assert folder_in_words(tmp_path / "no") == f"{tmp_path / 'no'}: no such folder"
    assert [file.name for file in files_in(tmp_path, (".txt",))] == ["z.txt"]
    with pytest.raises(DataError, match=r"no: cannot be read: No such file"):
        files_in(tmp_path / "no")


def test_a_folder_in_capitals_is_found(tmp_path: Path) -> None:
    (tmp_path / "TRAIN").mkdir()
    (tmp_path / "Val").write_text("a file")
    assert find_folder(tmp_path, ("training", "train")) == tmp_path / "TRAIN"
    assert find_folder(tmp_path, ("val",)) is None
    assert find_folder(tmp_path / "none", ("train",)) is None
    (tmp_path / "train").mkdir()
    assert find_folder(tmp_path, ("train",)) == tmp_path / "train"


def test_images_are_found_anywhere_but_in_clutter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / ".ipynb_checkpoints" / "1.png", 4, 4)
    assert not holds_images(tmp_path)
    write(tmp_path / "deep" / "er" / "1.png", 4, 4)
    assert holds_images(tmp_path)
    monkeypatch.setattr(looking, "VAST", 0)  # only the beginning of what is vast is looked at
    assert not holds_images(tmp_path)
