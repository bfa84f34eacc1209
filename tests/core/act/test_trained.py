"""What a compression has trained is kept, whatever becomes of its int8 files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from core.act.quantized import QuantizedProgram
from core.act.session import Session
from core.act.source import open_source
from core.act.trained import TRAINED, keeping_trained
from core.errors import ExportError, FileError, RejectedError
from core.export.package import export
from core.export.rejected import REASON, replacing_unless_rejected
from core.task import build_task


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    paddle.seed(0)
    task = build_task("outside.toy", {"data": {"root": str(folder / "data")}})
    return export(task, task.build_model(), folder / "float").folder


@pytest.fixture
def trained(exported: Path) -> QuantizedProgram:
    source = open_source(exported)
    moved = {name: array + np.float32(0.5) for name, array in source.graph.weights.items()}
    graph = replace(source.graph, weights=moved)
    return QuantizedProgram(source, graph, [], Session.__new__(Session), "any")


def attempt(model: QuantizedProgram, folder: Path, error: BaseException | None) -> None:
    with (
        replacing_unless_rejected(folder, lambda: None) as draft,
        keeping_trained(model, draft, folder),
    ):
        (draft / "model.onnx").write_text("half")
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("error", "raised", "told"),
    [
        (RejectedError("differs"), RejectedError, r"^differs; the trained .* in trained; the fil"),
        (ExportError("onnx: no"), RejectedError, r"^onnx: no; the trained weights are kept in fl"),
        (FileError("full"), RejectedError, "^full; the trained"),
        (ValueError("a defect"), ValueError, "^a defect$"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_a_training_is_never_thrown_away(
    trained: QuantizedProgram,
    tmp_path: Path,
    error: BaseException,
    raised: type[BaseException],
    told: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(raised, match=told):
        attempt(trained, tmp_path / "int8", error)
    kept = tmp_path / "int8.rejected"
    assert [each.name for each in tmp_path.iterdir()] == ["int8.rejected"]
    assert (kept / REASON).is_file()
    assert (kept / "model.onnx").is_file()
    again = open_source(kept / TRAINED)  # to be quantized once more
    assert again.description is not None
    assert again.description.task is not None
    for name, array in trained.graph.weights.items():
        np.testing.assert_array_equal(again.graph.weights[name], array)
    if raised is not RejectedError:
        assert f"the trained weights, in float, are in {kept / TRAINED}" in caplog.text


def test_a_training_whose_files_are_right_leaves_the_files(
    trained: QuantizedProgram, tmp_path: Path
) -> None:
    attempt(trained, tmp_path / "int8", None)
    assert [each.name for each in tmp_path.rglob("*")] == ["int8", "model.onnx"]
