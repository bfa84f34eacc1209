"""The report as a browser shows it: light and dark, on a desk and on a phone.

Headless Chromium opens the page in a frame of the width of a screen, and a script beside the frame
notes what can be seen. No driver is needed, and `make install` needs no browser.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.reports.benchmark import write_benchmark_report
from core.reports.zoo import write_report
from core.runtimes.benchmark import BenchmarkRow, Protocol
from core.zoo.changes import Changes, LayerChange
from core.zoo.reproduction import ZooResult
from tests.core.reports.test_benchmark import rows

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
SCHEMES = {"dark": 0, "light": 1}  # as Blink counts them
WIDTHS = {"desk": 1280, "phone": 390}
READABLE = 4.5  # contrast of text, as WCAG 2 asks for (AA)
SECONDS = 120

__all__ = ["rows"]  # a fixture

pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason=f"no browser: put one of {', '.join(NAMES)} on the path (apt-get install chromium), or "
    "name a Chromium in the variable CHROMIUM",
)

LOOK = """
<!doctype html><meta charset="utf-8">
<iframe id="frame" src="report.html" style="border: 0; width: WIDTHpx; height: 800px"></iframe>
<pre id="seen"></pre>
<script>
onload = () => {
  const frame = document.getElementById("frame"), view = frame.contentWindow;
  const page = frame.contentDocument;
  const numbers = colour => {
    const found = colour.match(/[\\d.]+/g).map(Number);
    return found.length === 3 ? [...found, 1] : found;
  };
  const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
  const probe = page.body.appendChild(page.createElement("div"));
  probe.style.background = "Canvas";
  const canvas = numbers(view.getComputedStyle(probe).backgroundColor);
  probe.remove();
  const ground = element => element === null ? canvas
    : over(numbers(view.getComputedStyle(element).backgroundColor), ground(element.parentElement));
  const light = colour => {
    const [r, g, b] = colour.slice(0, 3).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  page.querySelectorAll("details").forEach(each => { each.open = true; });
  let worst = [99, ""];
  for (const element of page.body.querySelectorAll("*")) {
    const said = [...element.childNodes].filter(n => n.nodeType === 3 && n.data.trim());
    if (!said.length || element.closest("svg")) continue;
    const below = ground(element);
    const pair = [light(over(numbers(view.getComputedStyle(element).color), below)), light(below)];
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (contrast < worst[0]) worst = [contrast, element.outerHTML.slice(0, 80)];
  }
  const wide = [...page.body.querySelectorAll("*")].filter(each => !each.closest(".wide, pre, svg")
    && each.getBoundingClientRect().right > page.documentElement.clientWidth + 1);
  document.getElementById("seen").textContent = JSON.stringify({
    dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
    canvas: canvas.slice(0, 3),
    width: [page.documentElement.scrollWidth, page.documentElement.clientWidth],
    wide: wide.map(each => each.outerHTML.slice(0, 80)),
    contrast: worst,
    pictures: [...page.images].map(each => each.naturalWidth),
    small: [...page.images].filter(each => each.getBoundingClientRect().width < 40).length,
    charts: page.querySelectorAll("svg").length,
    text: page.body.innerText.includes("Where each layer runs"),
  });
};
</script>
"""


@pytest.fixture
def page(result: ZooResult, tmp_path: Path) -> Path:
    """A report with long names, real pictures, a failure and all figures."""
    pixels = np.random.default_rng(0).integers(0, 255, (300, 1200, 3), np.uint8)
    for file in (tmp_path / "float").glob("*.png"):
        Image.fromarray(pixels).save(file, "png")
    name = "backbone.stage3.0.fuse_layers.2.0.pointwise_convolution_of_the_branch.conv"
    layers = tuple(LayerChange(f"{name}.{i}", "Conv", 64, 48, i % 2 == 0) for i in range(30))
    assert result.changes is not None
    changes = Changes(result.changes.strategies, (9, 8), (7, 6), layers)
    title = "MobileNetV3_large_x1_0_ssld, quantized under its float self"
    row = {**result.row, "title": title, "published": {**result.row["published"]}}
    long = replace(
        result, changes=changes, row=row, name="a_row_with_a_rather_long_name_of_its_own"
    )
    failures = {"another_row": f"train float: ended with status 2: error: {'x' * 200} (log: y)"}
    write_report([long, replace(result, name="second")], failures, tmp_path)
    return tmp_path / "report.html"


def seen(page: Path, scheme: str, width: int) -> dict[str, Any]:
    """Open a page in a browser; return what can be seen of it."""
    frame = page.with_name(f"{scheme}_{width}.html")
    frame.write_text(LOOK.replace("WIDTH", str(width)), encoding="utf-8")
    assert CHROMIUM is not None
    # a frame may look into its file, and root has no sandbox
    flags = ["--headless", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    flags += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    flags += [f"--user-data-dir={page.parent / 'profile'}", "--window-size=1400,900"]
    flags += [f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"]
    done = subprocess.run(
        [CHROMIUM, *flags, frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    found = re.search(r'<pre id="seen">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    content: dict[str, Any] = json.loads(html.unescape(found[1]))
    return content


@pytest.mark.parametrize("screen", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_report_can_be_read(scheme: str, screen: str, page: Path) -> None:
    found = seen(page, scheme, WIDTHS[screen])
    assert found["dark"] == (scheme == "dark")
    assert (sum(found["canvas"]) < 300) == (scheme == "dark")
    assert found["width"][0] <= found["width"][1], "the page scrolls sideways"
    assert found["wide"] == []  # tables and commands scroll by themselves
    assert found["contrast"][0] >= READABLE, found["contrast"]
    assert found["pictures"] == [1200] * 2  # decoded
    assert found["small"] == 0
    assert found["charts"] == 2 + 2 * 3
    assert found["text"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_report_of_a_benchmark_can_be_read_on_a_phone(
    scheme: str, tmp_path: Path, rows: list[BenchmarkRow]
) -> None:
    page = write_benchmark_report(tmp_path, rows, Protocol(), f"trislim benchmark {'x' * 200}")
    found = seen(page, scheme, WIDTHS["phone"])
    assert found["width"][0] <= found["width"][1], "the page scrolls sideways"
    assert found["wide"] == []
    assert found["contrast"][0] >= READABLE, found["contrast"]
    assert found["charts"] == 1
    assert found["text"]


@pytest.mark.parametrize(
    ("spoilt", "key"),
    [
        ("<style>h2 { width: 900px }</style></head>", "wide"),
        ("<style>summary { color: #777 }</style></head>", "contrast"),
    ],
)
def test_what_cannot_be_read_is_seen(spoilt: str, key: str, page: Path) -> None:
    """What the test above looks for is found where it is wrong."""
    page.write_text(page.read_text().replace("</head>", spoilt))
    found = seen(page, "dark", WIDTHS["phone"])
    if key == "contrast":
        assert found["contrast"][0] < READABLE
        assert "<summary" in found["contrast"][1]
    else:
        assert found[key] != []
