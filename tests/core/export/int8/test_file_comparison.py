"""Whole int8 files must answer like the model on their grids; the layer that does not is named."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ExportError
from core.export import parity
from core.export.int8 import exporter, layerwise
from core.export.int8.comparison import OutputKinds, WholeAnswers, compare
from core.export.int8.exporter import Int8Exporter
from core.export.int8.file_comparison import FileComparison
from core.export.package import export
from core.runtimes.formats import format_of
from core.runtimes.predictor import load_predictor
from core.targets.names import BACKENDS
from core.task import build_task
from tests.networks.compared_layers import (
    CORRUPTIONS,
    KINDS,
    Chaos,
    Net,
    corrupt,
    differences,
    images,
    prepared,
    quantized,
    randomize,
    wrong,
)
from tests.wrong_kernels import needs_right_kernels

pytestmark = pytest.mark.int8


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Int8Exporter, Path]:
    folder = tmp_path_factory.mktemp("written")
    rounded = prepared(quantized(randomize(Net())))
    rounded.write(folder, KINDS)
    return rounded, folder


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Int8Exporter, Path]:
    folder = tmp_path_factory.mktemp("chaos")
    rounded = prepared(quantized(randomize(Chaos())))
    rounded.write(folder, KINDS)
    assert wrong(differences(rounded, folder)) == set()
    return rounded, folder


@pytest.mark.parametrize("what", CORRUPTIONS)
def test_the_deepest_layer_of_a_net_that_rounds_badly(
    what: str, chaos: tuple[Int8Exporter, Path], tmp_path: Path
) -> None:
    """Such errors hide behind what rounding does to the whole; by itself the layer is named."""
    rounded, folder = chaos
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for kind in KINDS:
        corrupt(tmp_path, kind, "last", what, {})
    batches, comparison = images(), FileComparison(rounded, tmp_path)
    exact = comparison.eager_answers(batches, "paddle", ())
    for backend in BACKENDS:
        predictor = load_predictor(tmp_path, backend, own=True)
        wanted = comparison.eager_answers(batches, format_of(backend), None)
        got = [predictor.run(*batch) for batch in batches]
        (whole,) = compare(backend, WholeAnswers(wanted, got, exact), OutputKinds())
        assert whole.effect is not None
        assert whole.effect > 0.2
        assert whole.passes  # which was all that was asked
    found = differences(rounded, tmp_path)
    assert wrong(found) == {(backend, "last") for backend in BACKENDS}


@needs_right_kernels
def test_an_export_with_a_wrong_file_names_the_layer_and_rejects_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})
    model = quantized(task.build_model(), 8)
    made = export(task, model, tmp_path / "right", ("paddle", "onnx"))
    assert {(each.runtime, each.layer) for each in made.layers} == {
        (backend, path) for backend in BACKENDS for path in ("conv", "head")
    }
    lines = layerwise.summary(made.layers)
    assert list(lines) == list(BACKENDS)
    for line in lines.values():
        assert line.startswith("2 layers, each by itself, within "), line
    honest = exporter.write_int8

    def write_wrongly(graph: Any, tables: Any, float_files: Any, folder: Path, *rest: Any) -> None:
        honest(graph, tables, float_files, folder, *rest)
        corrupt(folder, "paddle", "head", "input", {})

    monkeypatch.setattr(exporter, "write_int8", write_wrongly)
    with pytest.raises(ExportError, match=r"^head: this layer .* by itself in paddle, differs"):
        export(task, model, tmp_path / "wrong", ("paddle", "onnx"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["right", "wrong.rejected"]


@pytest.fixture
def whole(written: tuple[Int8Exporter, Path]) -> Callable[[], list[Any]]:
    """Return what checks the files of `written` as an export does."""
    rounded, folder = written

    def check() -> list[Any]:
        predictors = [load_predictor(folder, backend, own=True) for backend in BACKENDS]
        return FileComparison(rounded, folder).check(predictors, images())[0]

    return check


def distort(monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Let OpenVINO answer otherwise than its layers do one by one."""
    honest = parity.run

    def run(predictor: Any, batch: Any) -> Any:
        made = honest(predictor, batch)
        whole = predictor.backend == "openvino" and list(made) == ["output"]
        return {name: change(each) for name, each in made.items()} if whole else made

    monkeypatch.setattr(parity, "run", run)


@needs_right_kernels
def test_right_layers_that_make_a_drifting_whole_are_warned_about(
    whole: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    found = whole()
    assert all(each.passes for each in found)
    assert "right" not in caplog.text
    distort(monkeypatch, lambda made: made * np.float32(1.1))
    found = whole()
    (line,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert line.startswith(
        "openvino: output 'output' of the int8 model differs by 1.0e-01 over 3 images, "
    )
    assert line.endswith("each layer by itself is right, so let the metric decide")
    assert [each.runtime for each in found if not each.passes] == ["openvino"]


def test_a_whole_of_which_nothing_is_left_is_refused(
    whole: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    distort(monkeypatch, lambda made: np.roll(made, 1, axis=1))
    message = (
        "^openvino: output 'output' of the int8 model differs by .*; with the layers before stem"
    )
    with pytest.raises(ExportError, match=message):
        whole()
    distort(monkeypatch, lambda made: made * np.float32("nan"))
    with pytest.raises(
        ExportError, match=r"^openvino: output 'output' of the int8 model differs by"
    ):
        whole()


@needs_right_kernels
def test_what_few_images_do_not_tell_is_not_refused(
    whole: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """One image of three is off: of others, none may be, or all."""

    def spoil(made: np.ndarray) -> np.ndarray:
        spoilt = made.copy()
        spoilt[0] = np.roll(made[0], 1, axis=0) * 10
        return spoilt

    distort(monkeypatch, spoil)
    found = [each for each in whole() if not each.passes]
    assert [(each.runtime, each.enough) for each in found] == [("openvino", False)]
    assert "so let the metric decide" in caplog.text
