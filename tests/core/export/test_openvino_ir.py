"""Files of OpenVINO."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.act.source import open_source
from core.errors import ExportError
from core.export import openvino_ir
from core.export.files import FILES
from core.export.package import export
from core.runtimes import formats as known
from core.runtimes import overflow_report
from core.runtimes.description import read_description, write_description
from core.runtimes.predictor import load_predictor
from core.task import Task
from tests.core.export.conftest import build, named


@pytest.mark.int8
@pytest.mark.parametrize("kind", ["float", "int8"])
def test_openvino_answers_to_its_own_files_as_to_onnx(
    task: Task, tmp_path: Path, kind: str
) -> None:
    """Bit for bit; and the same model gives the same files."""
    model = build(task, kind)
    made = export(task, model, tmp_path / "both", ("onnx", "openvino"))
    export(task, model, tmp_path / "own", ("openvino",))
    for name in FILES["openvino"]:
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    assert made.float_bytes.keys() == (named(("onnx", "openvino")) if kind == "int8" else set())
    if kind == "int8":
        assert made.file_bytes["model.bin"] < 0.5 * made.float_bytes["model.bin"]
    images = np.random.default_rng(0).random((5, 3, 8, 8), np.float32)
    found = load_predictor(tmp_path / "own").run(images)["level"]
    wanted = load_predictor(tmp_path / "both" / "model.onnx", "openvino").run(images)["level"]
    np.testing.assert_array_equal(found, wanted)
    # of both files in a folder OpenVINO reads its own
    (tmp_path / "both" / "deploy.yml").unlink()
    (tmp_path / "both" / "model.onnx").write_bytes(b"")
    found = load_predictor(tmp_path / "both", "openvino").run(images)["level"]
    np.testing.assert_array_equal(found, wanted)


def test_files_of_openvino_that_others_made(task: Task, tmp_path: Path) -> None:
    """They say themselves what their inputs and outputs are; damaged ones are refused."""
    folder = export(task, build(task, "float"), tmp_path / "out", ("openvino",)).folder
    wanted = load_predictor(folder).description
    (folder / "deploy.yml").unlink()
    for name in ("model.xml", "model.bin"):
        (folder / name).rename(folder / f"theirs{name[5:]}")
    for place in (folder, folder / "theirs.xml"):
        predictor = load_predictor(place)
        assert predictor.backend == "openvino"
        (image,), (level,) = predictor.description.inputs, predictor.description.outputs
        assert (image, level.name) == (wanted.inputs[0], wanted.outputs[0].name)
        assert predictor.run(np.zeros((2, 3, 8, 8), np.float32))["level"].shape == (2, 1)
    with pytest.raises(ExportError, match=r"theirs\.xml: a file of OpenVINO, which eval, predict"):
        open_source(folder / "theirs.xml")
    (folder / "theirs.xml").write_text("<net></net>")
    with pytest.raises(ExportError, match=r"^\S+theirs\.xml: openvino cannot load it: [^\n]*$"):
        load_predictor(folder)
    (folder / "theirs.bin").unlink()
    with pytest.raises(ExportError, match=r"which openvino reads \(formats there: none\)"):
        load_predictor(folder, "openvino")


def test_changed_files_of_openvino_are_noticed(task: Task, tmp_path: Path) -> None:
    folder = export(task, build(task, "float"), tmp_path / "out", ("openvino",)).folder
    content = bytearray((folder / "model.bin").read_bytes())
    content[8] ^= 1
    (folder / "model.bin").write_bytes(content)
    with pytest.raises(ExportError, match=r"model\.bin: is not as it was written: its digest"):
        load_predictor(folder)


def test_without_openvino_its_files_are_refused(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(task, "float")
    folder = export(task, model, tmp_path / "out", ("openvino",)).folder
    for place in (known, openvino_ir):
        monkeypatch.setattr(place, "is_installed", lambda backend: backend != "openvino")
    with pytest.raises(ExportError, match=r"out: holds files of OpenVINO, which is not installed"):
        load_predictor(folder)
    with pytest.raises(ExportError, match=r"^format: openvino is not installed; run: pip inst"):
        export(task, model, tmp_path / "other", ("paddle", "openvino"))
    assert not (tmp_path / "other").exists()


def test_what_openvino_cannot_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^openvino: the model cannot be converted: [^\n]+$"):
        openvino_ir.convert(b"no model", tmp_path / "model.xml")


@pytest.mark.parametrize(
    ("kind", "processors", "said"),
    [("float", "any", ""), ("int8", "any", ""), ("int8", "vnni", "may overflow here is not known")],
)
def test_overflow_in_files_of_openvino(
    task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    processors: Any,
    said: str,
) -> None:
    """They are not checked: deploy.yml says that the ONNX file was that they are made of."""
    folder = export(task, build(task, kind), tmp_path / "out", ("openvino",)).folder
    description = read_description(folder)
    assert description is not None
    if description.quantization is not None:
        quantization = replace(description.quantization, processors=processors)
        write_description(replace(description, quantization=quantization), folder)
    monkeypatch.setattr(overflow_report, "multiplies_int8_exactly", lambda backend: False)
    caplog.clear()  # of what the export says on processors without VNNI
    overflow_report.warn_of_overflow([(folder, "openvino")])
    assert (said in caplog.text) if said else not caplog.text
