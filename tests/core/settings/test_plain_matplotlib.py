"""Pictures do not depend on what the user has set for matplotlib, and it does not end a tool."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from core.settings.plain_matplotlib import plain_settings
from core.training.charts import draw_curves

ROOT = Path(__file__).resolve().parents[3]
ROWS = [{"epoch": each, "train/loss": 1 / each, "learning_rate": 0.1} for each in (1.0, 2.0)]
DRAW = f"""
import hashlib
from core.reports.figures import curve_charts
from core.training.charts import draw_curves
rows = {ROWS!r}
print(hashlib.sha256(draw_curves(rows, None)).hexdigest(), len(list(curve_charts(rows))))
"""


@pytest.mark.parametrize(
    ("content", "variables"),
    [
        (b"", {}),
        (b"", {"MPLBACKEND": "module://absent_inline.backend"}),
        (b"text.usetex: True\nfont.size: 30\n", {}),
        (b"\xff\xfe\x00", {"MPLBACKEND": "nonsense"}),
    ],
)
def test_settings_of_the_user_change_nothing(
    tmp_path: Path, content: bytes, variables: dict[str, str]
) -> None:
    (tmp_path / "matplotlibrc").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", DRAW],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [hashlib.sha256(draw_curves(ROWS, None)).hexdigest(), "2"]


def test_settings_come_back() -> None:
    with matplotlib.rc_context({"font.size": 3}):
        with plain_settings({"lines.linewidth": 7}):
            assert matplotlib.rcParams["font.size"] == matplotlib.rcParamsDefault["font.size"]
            assert matplotlib.rcParams["lines.linewidth"] == 7
        assert matplotlib.rcParams["font.size"] == 3
