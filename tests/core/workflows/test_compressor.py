"""The two calls of PaddleSlim 1.x."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigError
from core.network.weights import load_arrays
from core.settings.config import merge
from core.training.checkpoint import load_description
from core.workflows.compressor import Compressor

FILE = """
pruners: {p: {class: StructurePruner, pruning_axis: {'*': 0}, criterions: {'*': l1_norm}}}
distillers: {l2: {class: L2Distiller, teacher_feature_map: fc_0.tmp_0,
                  student_feature_map: fc_0.tmp_0}}
strategies:
  cut: {class: UniformPruneStrategy, pruner: p, start_epoch: 1, target_ratio: 0.4,
        pruned_params: 'conv*'}
  learn: {class: DistillationStrategy, distillers: [l2], start_epoch: 0, end_epoch: 2}
compress_pass: {epoch: 3, strategies: [cut, learn]}
"""


@pytest.fixture
def settings(toy_settings: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return merge(toy_settings(epochs=1), {"model": {"width": 8}})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "compress.yaml"
    path.write_text(FILE)
    return path


def test_config_and_run(settings: dict[str, Any], file: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.yml"
    teacher.write_text("strategies: []")
    trained = Compressor(settings, "cpu", checkpoint_path=str(tmp_path / "teacher"))
    trained.config(teacher)
    trained.run()
    compressor = Compressor(
        settings,
        "cpu",
        teachers=[str(tmp_path / "teacher/best_model")],
        checkpoint_path=str(tmp_path / "checkpoints"),
        train_optimizer={"kind": "momentum", "learning_rate": 0.02},
        distiller_optimizer={"kind": "adamw", "learning_rate": 0.001},
    )
    training = compressor.config(file)
    assert training.run.train.learning_rate == 0.02
    learn = training.recipe.steps[1].config
    assert (learn.optimizer.kind, learn.learning_rate) == ("adamw", 0.001)
    metrics = compressor.run()
    assert "mae" in metrics
    latest = tmp_path / "checkpoints/latest"
    assert load_description(latest).epoch == 3
    assert load_arrays(latest / "model.safetensors")["conv.weight"].shape[0] < 8
    # the same two calls again go on from the checkpoint: there is nothing left to do
    before = (latest / "training.safetensors").read_bytes()
    compressor.config(file)
    assert compressor.run() == metrics
    assert (latest / "training.safetensors").read_bytes() == before


def test_refused(settings: dict[str, Any], file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^compressor: nothing to run; call config"):
        Compressor(settings).run()
    compressor = Compressor(settings, distiller_optimizer={"kind": "sgd"})
    with pytest.raises(ConfigError, match=r"^distiller_optimizer: no strategy of the file dist"):
        compressor.config(file, ["compress_pass.strategies=[cut]"])
    with pytest.raises(ConfigError, match=r"^train_optimizer: expected a mapping with kind"):
        Compressor(settings, train_optimizer={"momentum": 0.9}).config(file)
    with pytest.raises(ConfigError, match=r"^TrainConfig: a file of ACT compresses an exported"):
        Compressor({"TrainConfig": {"epochs": 1}}).config(file)
