"""Files that a recipe wants while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ConfigError, ExportError, RejectedError
from core.graph.program import Graph
from core.network.weights import load_arrays
from core.quant.layers import quantized_layers
from core.runtimes.description import read_description
from core.settings.config import merge
from core.training.engine import Engine
from core.training.hooks import Checkpoints, Hook
from core.training.recipe import read_recipe
from core.training.run import read_run
from core.workflows.exports_on_the_way import ExportsOnTheWay, rounded_in_float
from tests.toy_runs import StopAfter


@pytest.fixture
def make(toy_settings: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Engine]:
    def build(name: str, *forms: str, hooks: Any = ()) -> Engine:
        settings = merge(toy_settings(epochs=4), {"model": {"width": 8}, "device": "cpu"})
        run = read_run(settings)
        strategies = [
            {"kind": "prune", "start_epoch": 1, "target_ratio": 0.3, "calibration_samples": 0},
            {"kind": "qat", "start_epoch": 2, "calibration_samples": 4, "processors": "vnni"},
        ]
        exports = [
            {"after_epoch": 3, "save_dir": str(tmp_path / name / form), "form": form}
            for form in forms
        ]
        recipe = read_recipe({"strategies": strategies, "exports": exports}, 4, False)
        save_dir = tmp_path / name / "run"
        save_dir.mkdir(parents=True, exist_ok=True)
        first = [ExportsOnTheWay(recipe.exports)] if forms else []
        return Engine(run, recipe, save_dir, [*first, Checkpoints(), *hooks])

    return build


def test_files_are_written_and_training_goes_on(
    make: Callable[..., Engine], tmp_path: Path
) -> None:
    """The training neither notices the exports nor an interruption right behind them."""
    make("plain").train()
    make("saved", "int8", "float", hooks=[StopAfter(3)]).train()
    engine = make("saved", "int8", "float")
    engine.train(resume=True)
    ends = [
        load_arrays(tmp_path / name / "run/latest/model.safetensors") for name in ("plain", "saved")
    ]
    assert ends[0].keys() == ends[1].keys()
    assert all(np.array_equal(ends[0][key], ends[1][key]) for key in ends[0])

    int8 = Graph.from_files(*_files(tmp_path / "saved/int8"))
    plain = Graph.from_files(*_files(tmp_path / "saved/float"))
    assert any(weight.dtype == np.int8 for weight in int8.weights.values())
    assert all(weight.dtype == np.float32 for weight in plain.weights.values())
    assert read_description(tmp_path / "saved/int8").quantization is not None
    assert read_description(tmp_path / "saved/float").quantization is None


def test_float_weights_have_the_values_of_int8(make: Callable[..., Engine]) -> None:
    engine = make("run", hooks=[StopAfter(3)])
    live: list[Any] = []

    class Look(Hook):
        def after_epoch(self, engine: Engine) -> None:
            if engine.epoch == 3:
                plain = rounded_in_float(engine.task, engine.model, engine.windows.edits())
                live.append(plain)

    engine.hooks = [Look(), *engine.hooks]
    engine.train()
    [plain] = live
    assert not quantized_layers(plain)
    weight = plain.conv.weight.numpy()
    assert weight.shape[0] < 8  # pruned as the quantized model is
    for channel in weight:
        assert len(np.unique(channel)) <= 255
        steps = channel / (np.abs(channel).max() / 127)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


def test_what_could_not_be_exported_is_refused_before_training(
    make: Callable[..., Engine], tmp_path: Path
) -> None:
    (tmp_path / "run" / "int8").mkdir(parents=True)
    (tmp_path / "run" / "int8" / "thesis.txt").write_text("")
    engine = make("run", "int8")
    with pytest.raises(
        ConfigError, match=r"^exports\.0\.save_dir: .*thesis\.txt, which is no part of an export"
    ):
        engine.train()
    assert engine.step == 0


def test_a_failing_export_ends_no_training(
    make: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told at once and is the error at the end; the training is the same."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RejectedError("head: differs")

    make("plain").train()
    monkeypatch.setattr("core.workflows.exports_on_the_way.export", refuse)
    engine = make("run", "int8", "float")
    told = r"^exports: int8 after epoch 3: head: differs \(the training itself is whole\)$"
    with pytest.raises(ExportError, match=told):
        engine.train()
    assert engine.epoch == 4
    ends = [
        load_arrays(tmp_path / f"{name}/run/latest/model.safetensors") for name in ("plain", "run")
    ]
    assert all(np.array_equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_an_earlier_export_is_refused_before_training(
    make: Callable[..., Engine], tmp_path: Path
) -> None:
    (tmp_path / "run" / "int8").mkdir(parents=True)
    (tmp_path / "run" / "int8" / "model.onnx").write_text("")
    engine = make("run", "int8")
    with pytest.raises(
        ConfigError,
        match=r"^exports\.0\.save_dir: .*int8: holds an earlier export; name another folder",
    ):
        engine.train()
    assert engine.step == 0


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "model.pdmodel", folder / "model.pdiparams"
