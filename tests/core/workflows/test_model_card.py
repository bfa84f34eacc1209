"""Model cards say what was measured, in a form that Hugging Face's Hub reads, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import ExportError
from core.export.files import check_folder
from core.runtimes.description import (
    DeployDescription,
    Port,
    Preprocess,
    Quantization,
    Report,
    write_description,
)
from core.task import build_task
from core.workflows.comparison_table import ComparisonRow
from core.workflows.int8_speed import Int8Latency
from core.workflows.model_card import RuntimeFigures, figures_of, write_card

DESCRIPTION = DeployDescription(
    trislim="0.1.0",
    inputs=(Port("image", (-1, 3, 32, 32), "float32"),),
    outputs=(Port("logits", (-1, 2), "float32"),),
    preprocess=Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    report=Report(1.5, 3_211_000, 11_600_000, ((1, 3, 32, 32),)),
    quantization=Quantization(27, "openvino", "any"),
)
MACHINE = "EPYC", ["avx2"]
FIGURES = (
    RuntimeFigures("paddle", {"top1": 0.91}, {"top1": 0.93}, 3.4, 2.5, 5.0),
    RuntimeFigures("openvino", {"top1": 0.905}, {"top1": 0.93}, 3.3, None, None),
)


def task_of(**data: Any) -> Any:
    settings = {
        "model": {"name": "MobileNetV1", "num_classes": 2},
        "data": {"root": "/home/x/flowers"},
    }
    settings["data"] |= data
    return build_task("cls", settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "exported"
    place.mkdir()
    (place / "model.onnx").write_bytes(b"model")
    write_description(DESCRIPTION, place)
    return place


def read(file: Path) -> tuple[dict[str, Any], str]:
    before, header, text = file.read_text(encoding="utf-8").split("---\n", 2)
    assert before == ""
    return yaml.safe_load(header), text


def test_the_header_is_what_the_hub_reads(folder: Path) -> None:
    header, _ = read(write_card(folder, task_of(), FIGURES, "apache-2.0", 600, machine=MACHINE))
    assert header["license"] == "apache-2.0"
    assert header["library_name"] == "trislim"
    assert header["tags"] == ["onnx", "int8"]
    assert header["pipeline_tag"] == "image-classification"
    (model,) = header["model-index"]
    (result,) = model["results"]
    assert model["name"] == "MobileNetV1"
    assert result["task"] == {"type": "image-classification"}
    assert result["dataset"] == {"type": "flowers", "name": "flowers"}
    assert result["metrics"] == [
        {"type": "top1", "name": "top1, paddle", "value": 0.91},
        {"type": "top1", "name": "top1, openvino", "value": 0.905},
    ]


def test_the_hub_gets_numbers_alone(folder: Path) -> None:
    """Its header is read as JSON, which has no NaN."""
    figures = [RuntimeFigures("paddle", {"mIoU": float("nan"), "accuracy": 0.5})]
    header, _ = read(write_card(folder, task_of(), figures))
    [result] = header["model-index"][0]["results"]
    assert [each["type"] for each in result["metrics"]] == ["accuracy"]
    json.dumps(header, allow_nan=False)


def test_the_text_has_every_figure_and_how_to_run_it(folder: Path) -> None:
    _, text = read(write_card(folder, task_of(), FIGURES, "other", 600, machine=MACHINE))
    for line in (
        "# MobileNetV1",
        "- Task: image classification",
        "- Data: flowers",
        "- Parameters: 3.211 M",
        "- MACs: 11.6 M at 1x3x32x32",
        "- int8: 27 layers, for openvino, right on any processor",
        "| runtime | top1 in float | top1 | MB | ms in float | ms |",
        "| paddle | 0.9300 | 0.9100 | 3.40 | 5.00 | 2.50 |",
        "| openvino | 0.9300 | 0.9050 | 3.30 |  |  |",
        "Metrics of the exported files on 600 images. "
        "Times of one image on one thread of EPYC (avx2).",
        "trislim predict --model_dir . --image_path PICTURES --save_dir predicted",
        "- input `image`: float32 [any, 3, 32, 32]",
        "- output `logits`: float32 [any, 2]",
        "## Licence",
        "other",
    ):
        assert line in text.splitlines(), line
    assert "/home/x" not in text  # where the data lie is nobody's business


def test_what_was_not_measured_is_left_out(folder: Path) -> None:
    header, text = read(write_card(folder, task_of()))
    assert header.keys() == {"library_name", "tags", "pipeline_tag"}
    assert "Figures" not in text
    assert "Licence" not in text
    figures = [RuntimeFigures("openvino", size_mb=3.3)]
    header, text = read(write_card(folder, task_of(), figures))
    assert "model-index" not in header
    assert "| runtime | MB |" in text
    for word in ("None", "nan", "Metrics of", "Times of", " ms"):
        assert word not in text
    write_description(replace(DESCRIPTION, report=None, quantization=None, preprocess=None), folder)
    header, text = read(write_card(folder, task_of(), checks={"paddle": "within 1e-6"}))
    assert header["tags"] == ["onnx"]
    assert "Parameters" not in text
    assert "pictures" not in text
    assert "- paddle: within 1e-6" in text


def test_a_task_without_a_name_on_the_hub(folder: Path) -> None:
    @dataclass(frozen=True)
    class Config:
        pass

    class Outside:
        name, config = "depth", Config()

    task: Any = Outside()
    header, text = read(write_card(folder, task, FIGURES))
    assert header.keys() == {"library_name", "tags"}
    assert "# depth" in text
    assert "- Data" not in text


def test_names_from_data_are_only_text(folder: Path) -> None:
    names = ["a|b", "<script>", "# c\n---", *(f"class {i}" for i in range(30))]
    _, text = read(write_card(folder, task_of(class_names=names)))
    (line,) = (each for each in text.splitlines() if each.startswith("- Classes"))
    assert r"- Classes (33): a\|b, \<script\>, \# c ---, class 0" in line
    assert line.endswith("class 16, ...")


def test_a_card_is_replaced_and_other_files_are_not(folder: Path, tmp_path: Path) -> None:
    card = write_card(folder, task_of(), FIGURES)
    write_card(folder, task_of())
    assert "Figures" not in card.read_text()
    check_folder(folder, overwrite=True)  # a card is part of an export
    card.write_text("my notes")
    with pytest.raises(ExportError, match=r"README.md: is no model card of TriSlim; it is left"):
        write_card(folder, task_of())
    with pytest.raises(ExportError, match=r"holds README.md, which is no part of an export"):
        check_folder(folder, overwrite=True)
    assert card.read_text() == "my notes"
    with pytest.raises(ExportError, match=r"has no deploy.yml"):
        write_card(tmp_path, task_of())


def test_a_card_may_be_edited(folder: Path) -> None:
    """Its digest is in no description, so the export still opens."""
    from core.runtimes.description import read_description

    card = write_card(folder, task_of())
    card.write_text(card.read_text() + "\nMore words.\n")
    assert read_description(folder) is not None


def test_figures_are_those_of_the_files_in_a_comparison() -> None:
    sizes: Sequence[tuple[str, int, int]] = [("a", 9, 3_000_000), ("b", 9, 400_000)]
    rows = [
        ComparisonRow("float", 0.93),
        ComparisonRow("quantized", 0.92, 3.0),
        ComparisonRow("int8, paddle", 0.91, 3.0, sizes, Int8Latency(5.0, 2.5)),
        ComparisonRow("int8, openvino", None, 3.0, sizes[:1]),
        ComparisonRow("int8, lite", None, 3.0, sizes),
    ]
    assert figures_of(rows, "top1") == [
        RuntimeFigures("paddle", {"top1": 0.91}, {"top1": 0.93}, 3.4, 2.5, 5.0),
        RuntimeFigures("openvino", {}, {"top1": 0.93}, 3.0),
    ]
