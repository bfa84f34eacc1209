"""The notebooks run from their first cell to their last, in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
# the cell with the tag `parameters` is replaced: less data, one epoch
SMALL = """settings = ["train.epochs=1", "synthetic.train_images=64", "synthetic.val_images=16"]"""


def cells(notebook: Path) -> list[dict[str, Any]]:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def test_notebooks_are_saved_without_outputs() -> None:
    assert NOTEBOOKS
    for notebook in NOTEBOOKS:
        for cell in cells(notebook):
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_cells_can_be_run_again() -> None:
    for notebook in NOTEBOOKS:
        text = "".join("".join(cell["source"]) for cell in cells(notebook))
        calls = text.count("trislim.train(") + text.count(".export(")
        assert text.count("overwrite=True") == calls > 0


@pytest.mark.chain
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[file.stem for file in NOTEBOOKS])
def test_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    lines = [
        SMALL if "parameters" in cell["metadata"].get("tags", ()) else "".join(cell["source"])
        for cell in cells(notebook)
    ]
    assert SMALL in lines
    (tmp_path / "notebook.py").write_text("\n\n".join(lines), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "notebook.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("Model(cls, ", "openvino", "onnxruntime", "notebook_int8"):
        assert word in done.stdout
