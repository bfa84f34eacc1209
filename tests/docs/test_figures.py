"""The pages of figures are what their JSON files say, and every table names its processor."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import comparison
from benchmarks.measure import results
from benchmarks.pages import benchmarks
from benchmarks.pages.__main__ import PAGES
from tests.docs.pages import ROOT

DOCS = ROOT / "docs"
Lines = Callable[[], Iterator[str]]


@pytest.mark.parametrize("document", PAGES)
def test_a_page_is_generated_whole(document: str) -> None:
    """No figure is typed: the page is what `python -m benchmarks.pages` makes of the JSON files."""
    written = (DOCS / document).read_text(encoding="utf-8")
    assert written == "\n".join(PAGES[document]()) + "\n"


@pytest.mark.parametrize("page", [results.page, benchmarks.page])
def test_every_table_names_the_instructions_of_its_processor(page: Lines) -> None:
    sections = re.split(r"\n## ", "\n".join(page()))[1:]
    assert len(sections) > 8
    assert [each.splitlines()[0] for each in sections if "avx2" not in each] == []


def test_a_changed_figure_changes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DOCS / "benchmarks" / "loader.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["cls"]["environment"]["cpu_instructions"] = ["a_new_instruction"]
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "loader.json").write_text(json.dumps(content))
    monkeypatch.setattr(comparison, "DOCS", tmp_path)
    assert "a_new_instruction" in "\n".join(benchmarks.page())


def test_one_command_writes_all_pages(tmp_path: Path) -> None:
    """The command itself, in a copy, for it writes."""
    for name in ("benchmarks", "core", "tasks", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for folder in ("benchmarks", "results"):
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / folder).symlink_to(DOCS / folder)
    start = (
        "import runpy, pathlib\n"
        "from benchmarks import comparison\n"
        "from benchmarks.measure import results\n"
        f"comparison.DOCS = results.DOCS = pathlib.Path({str(tmp_path / 'docs')!r})\n"
        "runpy.run_module('benchmarks.pages', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for document in PAGES:
        assert (tmp_path / "docs" / document).read_bytes() == (DOCS / document).read_bytes()
