"""Peers run in processes of their own; what they make, or how they fail, gets into the tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from benchmarks.pages.processors import processors
from benchmarks.peers import paddleslim_ptq
from benchmarks.peers.after_training import PeerFiles, quantize_with_peers
from benchmarks.peers.processes import PeerError, ask_paddleslim
from core.export.files import MODEL
from core.export.package import export
from core.runtimes.predictor import load_predictor
from core.task import Task, build_task
from core.training import checkpoint

SIDE = 32


def script(folder: Path, content: str) -> str:
    file = folder / "script.py"
    file.write_text(content)
    return str(file)


def test_a_script_answers_fails_in_its_own_words_or_runs_out_of_time(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    writes = "import os, sys; open(sys.argv[1], 'w').write(os.environ['FLAGS_enable_pir_api'])"
    assert ask_paddleslim(script(tmp_path, writes), [str(result)], result, 60) == 0
    result.unlink()
    for content, message in (
        ("raise LookupError('no such layer')", "LookupError: no such layer"),
        ("while True: pass", "not done after 1 s of processor time"),
        ("import os; os.abort()", "killed by SIGABRT"),
    ):
        with pytest.raises(PeerError, match=message):
            ask_paddleslim(script(tmp_path, content), [], result, 1)


@pytest.fixture
def classifier(tmp_path: Path) -> Task:
    """Save a small classifier, and export it in float."""
    settings = {
        "model": {"name": "MobileNetV1_x0_25", "num_classes": 5},
        "data": {"root": "", "image_size": SIDE},
    }
    task = build_task("cls", settings)
    paddle.seed(0)
    model = task.build_model()
    checkpoint.save(tmp_path / "saved", checkpoint.describe(task), model.state_dict())
    export(task, model, tmp_path / "float", ("paddle", "onnx"))
    return task


@pytest.mark.usefixtures("classifier")
def test_outputs_of_a_program_get_other_names_and_answer_the_same(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(1, 3, SIDE, SIDE)).astype("float32")
    folder = tmp_path / "float"
    ((_, wanted),) = load_predictor(folder, "paddle").run(image).items()
    (folder / "deploy.yml").unlink()
    paddleslim_ptq.name_outputs(folder / MODEL, ["renamed"])
    answers = load_predictor(folder, "paddle").run(image)
    assert list(answers) == ["renamed"]
    np.testing.assert_array_equal(answers["renamed"], wanted)
    with pytest.raises(ValueError, match="argument 2 is longer"):
        paddleslim_ptq.name_outputs(folder / MODEL, ["one", "more"])


@pytest.mark.chain
@pytest.mark.usefixtures("classifier")
def test_paddleslim_quantizes_and_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    images = paddle.to_tensor(np.random.default_rng(0).normal(size=(4, 3, SIDE, SIDE)), "float32")
    nncf = tmp_path / "python"
    nncf.write_text("#!/bin/sh\necho 'ImportError: no nncf' >&2; exit 1\n")
    nncf.chmod(0o755)
    batches: list[Sequence[paddle.Tensor]] = [[images]]
    source = tmp_path / "saved", tmp_path / "float"
    names = "NNCF, mixed", "PaddleSlim, abs_max"
    made = dict(quantize_with_peers(*source, lambda: batches, tmp_path / "peers", nncf, names))
    assert made[names[0]] == PeerFiles(None, "openvino", fails="ImportError: no nncf")
    exact = load_predictor(tmp_path / "float", "paddle").run(images[:1].numpy())
    files = made[names[1]]
    assert files.folder is not None
    answers = load_predictor(files.folder, "paddle").run(images[:1].numpy())
    assert list(answers) == list(exact)  # under our names
    (rounded,), (wanted,) = answers.values(), exact.values()
    assert 0 < np.abs(rounded - wanted).max() < 0.5 * np.abs(wanted).max()
    assert files.bytes > 0
    assert files.seconds > 0


def test_the_page_says_which_peer_failed() -> None:
    row: dict[str, Any] = {"float": {"avx2": 0.5}, "any": {"avx2": 0.49}}
    entry = {
        "metric": "AP",
        "metrics": {"paddle": row, "onnxruntime": row, "openvino": row},
        "failed": {"PaddleSlim, KL": "not done after 900 s of processor time"},
        "seconds": {"paddle, any": 3.0},
        "command": "measure it",
        "environment": {"logical_cores": 2, "cpu": "one", "cpu_instructions": ["avx2"]},
        "date": "2026-11-29",
    }
    lines = list(processors({"net": entry}))
    assert "- net, PaddleSlim, KL: not done after 900 s of processor time" in lines
    assert "| net, AP | paddle | any | - | 0.4900 (-1.00) |" in lines
