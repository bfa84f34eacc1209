"""Files that a check refuses: kept beside their place, which stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigError, ExportError, RejectedError
from core.export.rejected import REASON, check_rejected_folder, replacing_unless_rejected


def attempt(folder: Path, content: str, error: Exception | None = None) -> None:
    with replacing_unless_rejected(folder, lambda: None) as draft:
        (draft / "inner").mkdir()
        (draft / "inner" / "file").write_text(content)
        if error is not None:
            raise error


def content(folder: Path) -> str:
    return (folder / "inner" / "file").read_text()


def test_what_is_refused_is_kept_with_the_reason(tmp_path: Path) -> None:
    place = tmp_path / "out.rejected"
    for number in (1, 2):  # the later one in the place of the earlier
        with pytest.raises(RejectedError, match=rf"^bad {number}; the files are in {place}, not"):
            attempt(tmp_path / "out", f"{number}", RejectedError(f"bad {number}"))
        assert [each.name for each in tmp_path.iterdir()] == ["out.rejected"]
        assert content(place) == f"{number}"
        assert (place / REASON).read_text() == f"bad {number}\n"
    attempt(tmp_path / "out", "good")
    with pytest.raises(RejectedError):
        attempt(tmp_path / "out", "3", RejectedError("bad 3"))
    assert (content(tmp_path / "out"), content(place)) == ("good", "3")


def test_the_folder_is_a_link_or_the_one_that_we_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real" / "out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "out")
    with pytest.raises(RejectedError, match=r"/real/out\.rejected, not in \S*/link$"):
        attempt(tmp_path / "link", "1", RejectedError("bad"))
    monkeypatch.chdir(tmp_path / "real" / "out")
    with pytest.raises(RejectedError, match=r"/real/out\.rejected, not in \.$"):
        attempt(Path("."), "2", RejectedError("bad"))
    assert content(tmp_path / "real" / "out.rejected") == "2"


def test_what_fails_otherwise_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^key$"):
        attempt(tmp_path / "out", "half", ConfigError("key"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_ours_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "out.rejected"
    place.mkdir()
    (place / "thesis.tex").write_text("mine")
    with pytest.raises(ExportError, match=r"^\S*out\.rejected: is where files go .* move it away"):
        attempt(tmp_path / "out", "1")
    assert [each.name for each in place.iterdir()] == ["thesis.tex"]
    assert not (tmp_path / "out").exists()
    check_rejected_folder(tmp_path / "another")
