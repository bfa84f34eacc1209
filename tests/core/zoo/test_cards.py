"""Model cards of a row: what was measured of each model, beside the float model's figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from core.errors import ExportError
from core.runtimes.description import DeployDescription, Port, TaskSettings, write_description
from core.zoo.cards import write_cards
from core.zoo.reproduction import ZooResult


def exported(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"model")
    settings = {"model": {"name": "MobileNetV1", "num_classes": 4}, "data": {"root": "x/flowers"}}
    about = DeployDescription(
        inputs=(Port("image", (-1, 3, 32, 32), "float32"),),
        outputs=(Port("logits", (-1, 4), "float32"),),
        task=TaskSettings("cls", settings),
    )
    write_description(about, folder)
    return folder


def test_each_model_has_a_card_with_its_figures(result: ZooResult, tmp_path: Path) -> None:
    folders = {name: exported(tmp_path / f"{name}_exported") for name in ("float", "compressed")}
    write_cards(result, folders)
    cards = {name: (folder / "README.md").read_text() for name, folder in folders.items()}
    assert "| runtime | top1 | MB | ms |" in cards["float"]
    assert "| openvino | 0.6875 | 4.00 | 8.00 |" in cards["float"]
    assert "| runtime | top1 in float | top1 | MB | ms in float | ms |" in cards["compressed"]
    assert "| openvino | 0.6875 | 0.6250 | 2.50 | 8.00 | 5.00 |" in cards["compressed"]
    for card in cards.values():
        assert "one thread of EPYC (avx2, avx512\\_vnni)" in card
        header = yaml.safe_load(card.split("---\n")[1])
        assert "license" not in header  # nobody has told it
        assert header["pipeline_tag"] == "image-classification"
        assert header["model-index"][0]["results"][0]["dataset"]["name"] == "flowers"


def test_what_was_not_measured_has_no_figure(result: ZooResult, tmp_path: Path) -> None:
    alone = replace(result, benchmark=(), metrics={"float": {"paddle": {"top1": 0.5}}})
    write_cards(alone, {"float": exported(tmp_path / "e")})
    card = (tmp_path / "e" / "README.md").read_text()
    assert "| paddle | 0.5000 |" in card
    assert "openvino" not in card
    assert "one thread" not in card


def test_a_folder_that_is_no_export(result: ZooResult, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"has no deploy\.yml"):
        write_cards(result, {"float": tmp_path})
