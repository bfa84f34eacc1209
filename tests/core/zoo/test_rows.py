"""Rows of the zoo: those of the project can be planned at every scale, wrong ones are one line."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from core.errors import ConfigError, FileError
from core.settings.config import load_yaml
from core.workflows.run_plan import RunFiles, read_plan
from core.zoo.rows import SCALES, read_row, read_rows
from core.zoo.steps import ZooPlaces, plan_steps
from tests.core.zoo.conftest import ROOT

ROWS = read_rows(ROOT / "configs" / "zoo")
SOURCES = {
    "PaddleSlim, automatic compression",
    "PaddleClas, slim",
    "PaddleSlim 1.5, model zoo",
    "PaddleSeg, quantization",
    "HRNet-Keypoint, light models",
    "PaddleDetection, PP-TinyPose",
}


def test_every_source_has_its_rows() -> None:
    assert {row.source for row in ROWS.values()} == SOURCES
    assert len(ROWS) == 23
    published = ROWS["mobilenetv3_large_distill_qat"].published
    assert (published.float_metric, published.compressed_metric) == (0.7532, 0.7441)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_every_scale_and_its_runs_can_be_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    row = ROWS[name]
    assert row.scales.keys() == set(SCALES)
    for scale, how in row.scales.items():
        places = ZooPlaces(*(tmp_path / part for part in "rfdw"), ROOT / "configs" / "slim")
        weights = Path("published.pdparams") if how.weights else None
        steps = plan_steps(row, how, places, weights)
        assert how.cost
        assert scale == "smoke" or how.data or "fetched" in how.cost
        for step in steps:
            if step.training:
                readable(step.words)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_asks_for_the_data_that_it_reads(name: str) -> None:
    """And for nothing else, which would keep someone who has its data from running it."""
    for scale, how in ROWS[name].scales.items():
        said = [*how.overrides, how.weights or ""]
        for place in how.data:
            assert any(place in each for each in said), f"{name}, {scale}: {place} is not read"
        read = {each.partition("{data}/")[2] for each in said if "{data}/" in each}
        asked = {place.removeprefix("{data}/") for place in how.data}
        assert read == asked or "fetched" in how.cost


@pytest.mark.parametrize("name", ROWS)
def test_another_batch_has_another_learning_rate(name: str) -> None:
    """A row that trains on smaller batches at the rate of the larger ones ends in noise."""
    for how in ROWS[name].scales.values():
        for said in (how.overrides, (*how.overrides, *how.slim_overrides)):
            keys = {each.partition("=")[0] for each in said}
            assert "train.batch_size" not in keys or "train.learning_rate" in keys


def readable(words: tuple[str, ...]) -> None:
    """Read a training as `tools/train.py` would, but for teachers, which need their weights."""
    given = {key: words[words.index(key) + 1] for key in ("-c", "--slim") if key in words}
    overrides = [value for key, value in itertools.pairwise(words) if key == "-o"]
    slim = given.get("--slim")
    if "--distill_config" in words:
        teacher = words[words.index("--distill_config") + 1]
        named = [each for each in overrides if each.startswith("teacher.weights=")]
        assert teacher.endswith("best_model") or named or load_yaml(teacher)["weights"]
        overrides = [each for each in overrides if not each.startswith(("strategies.", "teacher."))]
        slim = None
    plan = read_plan(RunFiles(given["-c"], slim, [], overrides, recipes=ROOT / "configs/slim"))
    assert plan is not None


def test_wrong_rows_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "row.yml"
    whole = "title: T\nsource: S\nmetric: top1\nconfig: c.yml\nscales: {small: {}}\n"
    for text, said in {
        whole + "slimm: [qat]\n": "slimm",
        whole + "teacher: float\n": "teacher: has no meaning without slim",
        whole + "target: tvm\n": "target: expected one of",
        whole.replace("small", "medium"): "scales.medium: expected one of full, small, smoke",
        whole.replace("title: T\n", ""): "title",
        "[": "",
    }.items():
        file.write_text(text)
        with pytest.raises(ConfigError) as error:
            read_row(file)
        assert str(error.value).startswith(f"{file}: ")
        assert said in str(error.value)
        assert "\n" not in str(error.value)


def test_names_are_suggested(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"mobilenetv1_qatt: .* \(did you mean 'mobilenetv1_qat'\?\)"
    ):
        read_rows(ROOT / "configs" / "zoo", ("mobilenetv1_qatt",))
    with pytest.raises(FileError, match="expected YAML files of rows, found none"):
        read_rows(tmp_path)
