"""The report: every figure is there, nothing is fetched, and what names say is only text."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from core.reports.page import FIGURES
from core.reports.zoo import write_report
from core.training.measurements import save
from core.workflows.layer_sensitivity import QuantizationCost, QuantSensitivity
from core.zoo.reproduction import ZooResult

NOTHING = "\N{EN DASH}"
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Notes what a browser would fetch, and tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attributes:
            if key in ("src", "href", "xlink:href") and not value.startswith(("#", "data:")):
                self.fetched.append(value)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        for key, value in attributes:
            if key in ("src", "href", "xlink:href") and not value.startswith(("#", "data:")):
                self.fetched.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Path) -> Page:
    parsed = Page()
    parsed.feed(page.read_text(encoding="utf-8"))
    parsed.close()
    return parsed


def test_every_figure_is_there_and_nothing_is_fetched(tmp_path: Path, result: ZooResult) -> None:
    page = read(write_report([result], {"other": "data/x: is missing"}, tmp_path))
    assert page.open == []
    assert page.fetched == []
    for said in ("0.6875", "0.6250", "-0.0125", "+0.0250", "8.00 → 5.00", "4.00 → 2.50", "37.5 %"):
        assert said in page.text
    for said in ("ms, 2 threads", "4.00 → 5.00", "-25.0 %", "0.80", "6.00 → 3.50", "100 %"):
        assert said in page.text
    assert "openvino: Conv -2.50 ms, Add -2.00 ms, rounding +1.50 ms; 70% of" in page.text
    assert page.text.count("Classes of operators in") == 1  # Paddle tells none, nor did the other
    for said in ("1.60", "204.2 → 150.1", "avx512_vnni", "data/x: is missing", "# benchmark, 12 s"):
        assert said in page.text
    assert "<b>Net</b>" in page.text  # as text
    text = (tmp_path / "report.html").read_text()
    assert text.count("data:image/png;base64," + base64.b64encode(b"predictions").decode()) == 1
    assert text.count("<img") == 1  # those that are not there are left out
    assert (
        text.count("<svg") == 2 + 3
    )  # accuracy twice; loss, learning rate and metric of the float
    for said in ("training loss", "learning rate", "Sensitivity of each layer, top1"):
        assert said in page.text
    worst_first = f"head.new{NOTHING}-0.5000stem.conv+0.0000-0.2500"
    assert worst_first in "".join(page.text.split())


def test_what_was_changed_is_told_layer_by_layer(tmp_path: Path, result: ZooResult) -> None:
    page = read(write_report([result], {}, tmp_path))
    for said in (
        "prune: target_ratio 0.5",
        "parameters 3.000 → 2.000 M, MACs 9.0 → 5.0 M",
        "1 of 2 layers in int8, 1 with fewer output channels",
    ):
        assert said in page.text
    assert "stem.convConv32 → 24int8" in page.text
    assert f"head.newConv{NOTHING} → 4float" in page.text


def test_a_float_row_has_no_changes(tmp_path: Path, result: ZooResult) -> None:
    page = read(write_report([replace(result, changes=None, pictures={})], {}, tmp_path))
    for said in ("What the compression changed", "Where each layer", "Predictions"):
        assert said not in page.text


def test_the_same_figures_are_in_json(tmp_path: Path, result: ZooResult) -> None:
    write_report([result], {}, tmp_path)
    content = json.loads((tmp_path / FIGURES).read_text())
    [row] = content["rows"]
    assert row["metrics"]["float"]["paddle"]["top1"] == 0.6875
    assert row["row"]["published"]["float_metric"] == 0.7
    assert row["reached"] == {"float": 0.6875, "compressed": 0.625}
    assert row["difference"]["float"] == pytest.approx(-0.0125)
    assert [each.get("val/top1") for each in row["curves"]["float"]] == [None, 0.375]
    assert row["sensitivity"][0]["layers"]["stem.conv"] == [0.0, 0.25]
    assert row["changes"]["layers"][0]["in_int8"]
    assert row["environment"]["cpu_instructions"] == ["avx2", "avx512_vnni"]
    assert content["failures"] == {}


def test_the_same_results_make_the_same_page(tmp_path: Path, result: ZooResult) -> None:
    pages = [write_report([result], {}, tmp_path).read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]


def test_rows_without_figures_have_dashes(tmp_path: Path, result: ZooResult) -> None:
    published = dict.fromkeys(result.row["published"])
    metrics = {"float": result.metrics["float"]}
    alone = replace(result, metrics=metrics, row={**result.row, "published": published, "slim": []})
    rows = [row for row in alone.benchmark if row["model"] == "float"]
    alone = replace(alone, benchmark=tuple(rows))
    page = read(write_report([alone], {}, tmp_path))
    assert f"8.00 → {NOTHING}" in page.text


def test_nothing_that_was_reproduced_is_a_page_too(tmp_path: Path) -> None:
    page = read(write_report([], {"net": "failed <script>"}, tmp_path))
    assert "0 rows reproduced, 1 not" in page.text
    assert "failed <script>" in page.text


def test_a_difference_is_judged_at_full_scale_alone(tmp_path: Path, result: ZooResult) -> None:
    """Small data reach other figures, which are neither good nor bad."""
    for scale, judged in (("full", 2), ("smoke", 0)):
        page = write_report([replace(result, scale=scale)], {}, tmp_path).read_text()
        table = page.partition("<tbody>")[2].partition("</tbody>")[0]
        assert table.count('<span class="') == judged
        assert table.count("+0.0250") == 1


def test_each_row_says_whether_it_is_done(tmp_path: Path, result: ZooResult) -> None:
    page = write_report([result], {"other": "data/x: is missing"}, tmp_path).read_text()
    assert page.count('<td class="good">done</td>') == 1
    assert page.count('<td class="bad">failed</td>') == 1


def test_the_sensitivity_to_rounding_is_that_of_the_row(tmp_path: Path, result: ZooResult) -> None:
    home = tmp_path / "row"
    (home / "sensitivity").mkdir(parents=True)
    costs = {"stem.conv": QuantizationCost(0.1, 0.125), "head.new": QuantizationCost(0.2, -0.25)}
    found = QuantSensitivity("f", "top1", 0.75, 0.5, QuantizationCost(0.3, 0.25), costs)
    save(home / "sensitivity" / "quant_sensitivities.json", [found])
    row = replace(result, trainings={"compressed": str(home / "compressed")})
    page = read(write_report([row], {}, tmp_path))
    assert "layerint8 in this layer alonestem.conv-0.1250head.new+0.2500" in "".join(
        line.strip() for line in page.text.splitlines()
    )
    [told] = json.loads((tmp_path / FIGURES).read_text())["rows"][0]["sensitivity"]
    assert (told["before"], told["layers"]["stem.conv"]) == (0.75, [0.125])


def test_figures_of_the_table_are_of_one_runtime(tmp_path: Path, result: ZooResult) -> None:
    """A metric of one runtime beside the time of another would be a file that nobody has."""
    metrics = {**result.metrics, "compressed": {"paddle": {"top1": 0.9}, "openvino": {"top1": 0.5}}}
    write_report([replace(result, metrics=metrics)], {}, tmp_path)
    [row] = json.loads((tmp_path / FIGURES).read_text())["rows"]
    assert row["reached"]["compressed"] == 0.5
