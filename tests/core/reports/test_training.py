"""The report of a training: what it says is what the training did."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from core.reports.page import FIGURES, PAGE
from core.reports.training import write_training_report
from core.training.checkpoint import restore
from tests.calling import call
from tests.docs.pages import ROOT

SMALL = (
    *("-c", str(ROOT / "configs/cls/demo.yml"), "-o", "model.name=SqueezeNet1_1"),
    *("-o", "synthetic.train_images=16", "-o", "synthetic.val_images=8"),
    *("-o", "train.batch_size=8", "-o", "train.epochs=2", "-o", "data.num_workers=0"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float training, and one that prunes and quantizes what it made."""
    folder = tmp_path_factory.mktemp("reports")
    recipe = folder / "recipe.yml"
    recipe.write_text(
        "epochs: 2\nstrategies:\n- {kind: prune, start_epoch: 0, target_ratio: 0.4}\n"
        "- {kind: qat, start_epoch: 1}\n"
    )
    for words in (
        ("--save_dir", "run", "--report"),
        *(
            ("--save_dir", "slim", "--report", "--slim", "recipe.yml")
            + ("-o", "model.pretrained=run/best_model"),
        ),
    ):
        status, output = call(folder, "train.py", *SMALL, *words)
        assert status == 0, output
        assert f"report: {words[1]}/{PAGE}" in output
    return folder


def figures(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / FIGURES).read_text())
    return content


def test_a_compression_is_told_layer_by_layer(folder: Path) -> None:
    told, page = figures(folder / "slim"), (folder / "slim" / PAGE).read_text()
    _, model = restore(folder / "slim" / "best_model")
    _, before = restore(folder / "run" / "best_model")
    path = "_conv1._conv_path1._conv"
    [layer] = [each for each in told["changes"]["layers"] if each["layer"] == path]
    networks = (dict(each.named_sublayers()) for each in (before, model))
    counts = [each[path].weight.shape[0] for each in networks]
    assert counts[1] < counts[0]
    assert [layer["before"], layer["after"], layer["kind"]] == [*counts, "Conv2D"]
    assert [each["kind"] for each in told["changes"]["strategies"]] == ["prune", "qat"]
    assert told["changes"]["macs"][1] < 0.7 * told["changes"]["macs"][0]
    assert told["changes"]["parameters"][1] < told["changes"]["parameters"][0]
    # the best epoch may be the one before layers were quantized
    rounded = {each["in_int8"] for each in told["changes"]["layers"]}
    assert rounded == {told["epoch"] == 2}
    assert f"{counts[0]} → {counts[1]}" in page


def test_metrics_are_beside_those_that_the_training_began_with(folder: Path) -> None:
    before, told = figures(folder / "run"), figures(folder / "slim")
    assert before["before"] == {}
    assert told["before"] == before["metrics"]
    assert told["metric"] == "top1"
    best = next(row for row in told["curves"] if row["epoch"] == told["epoch"])
    assert best["val/top1"] == pytest.approx(told["metrics"]["top1"])
    assert told["environment"]["cpu_instructions"]
    assert "train.py" in told["command"]
    assert "--slim recipe.yml" in told["command"]


def test_a_page_has_its_pictures_and_charts(folder: Path) -> None:
    for run, pictures in (("run", ["after it"]), ("slim", ["before this training", "after it"])):
        page = (folder / run / PAGE).read_text()
        for name in (*pictures, "worst samples", "confusion matrix"):
            assert page.count(f'alt="{name}"') == 1
        assert page.count("<svg") == 3
        assert re.findall(r'(?:src|href)="(?!#|data:)', page) == []  # nothing is fetched


def test_a_folder_without_a_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("model: {}\n")
    with pytest.raises(UserError) as error:
        write_training_report(tmp_path, "")
    assert "best_model" in str(error.value)
    assert "\n" not in str(error.value)
