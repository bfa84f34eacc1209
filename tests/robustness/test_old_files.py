"""Checkpoints and exports of before the packages moved load, answer and train on as they did.

`tests/fixtures/make_old_files.py` made them by running that revision.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import yaml

from core.errors import ConfigError
from core.quant.layers import quantized_layers
from core.runtimes.description import read_description
from core.runtimes.predictor import load_as_written, load_predictor
from core.settings.plugins import load_plugin
from core.training import checkpoint
from core.training.run import read_run
from tests.robustness.conftest import ROOT
from tests.toy_runs import train

OLD = ROOT / "tests" / "fixtures" / "old"
Answers = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def answers() -> Answers:
    return dict(np.load(OLD / "answers.npz"))


@pytest.fixture
def settings() -> dict[str, Any]:
    load_plugin("outside.toy")
    read: dict[str, Any] = yaml.safe_load((OLD / "run.yml").read_text())
    return read


@pytest.mark.parametrize("name", ["float", "slim"])
def test_a_checkpoint_answers_as_it_did(
    settings: dict[str, Any], answers: Answers, name: str
) -> None:
    task = read_run(settings).task
    _, model = checkpoint.restore(OLD / name / "latest", task)
    made = model(paddle.to_tensor(answers["image"])).numpy()
    np.testing.assert_allclose(made, answers[f"{name}.level"], rtol=1e-6)
    assert model.head.weight.shape[0] == (3 if name == "slim" else 4)
    assert len(quantized_layers(model)) == (2 if name == "slim" else 0)


def test_a_run_of_before_trains_on(settings: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(OLD / "slim", tmp_path / "slim")
    settings["data"]["root"] = str(tmp_path / "data")
    settings["train"]["epochs"] = 6
    steps = yaml.safe_load((OLD / "slim.yml").read_text())["strategies"]
    with pytest.raises(ConfigError, match=r"\.processors: .* has 'vnni', got 'any'"):
        train(settings, tmp_path / "slim", *steps, resume=True)
    steps[1] |= {"processors": "vnni", "balance": True}
    with pytest.raises(ConfigError, match=r"\.balance: .* has False, got True"):
        train(settings, tmp_path / "slim", *steps, resume=True)
    del steps[1]["balance"]  # as before there was null
    engine = train(settings, tmp_path / "slim", *steps, resume=True)
    assert engine.epoch == 6
    assert [kind for kind, _ in checkpoint.load_description(OLD / "slim/latest").edits] == [
        *("prune", "qat")
    ]


def test_a_float_file_answers_as_it_did(answers: Answers) -> None:
    made = load_predictor(OLD / "exported", "paddle").run(answers["image"])["level"]
    np.testing.assert_allclose(made, answers["float.level"], rtol=1e-6)


@pytest.mark.int8
def test_an_int8_file_for_paddle_says_what_it_did(answers: Answers) -> None:
    """Its weights are for processors with VNNI; on others Paddle Inference rounds them again."""
    made = load_as_written(OLD / "int8", "paddle").run(answers["image"])["level"]
    np.testing.assert_allclose(made, answers["slim.level"], rtol=1e-6)


@pytest.mark.int8
def test_an_onnx_file_answers_as_it_did(answers: Answers) -> None:
    made = load_as_written(OLD / "int8", "onnx").run(answers["image"])["level"]
    np.testing.assert_allclose(made, answers["int8.level"], rtol=1e-6)


def test_its_description_is_read() -> None:
    described = read_description(OLD / "int8")
    assert described is not None
    assert described.quantization is not None
    assert described.quantization.layers == 2
