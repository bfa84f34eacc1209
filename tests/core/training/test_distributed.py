"""Two processes over gloo train what one process trains with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

from core.network.weights import load_arrays
from core.settings.config import merge
from core.training import checkpoint
from core.training.distributed import SyncBatchNorm, gather, synchronized_batch_norm
from core.training.run import read_run
from tests.device import DEVICE, TWO_PROCESSES

ROOT = Path(__file__).resolve().parents[3]


def launch(arguments: list[str], tmp_path: Path, status: int = 0) -> str:
    """Run a script in two processes; return what the launcher shows."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests' / 'plugins'}"
    command = [sys.executable, "-m", "paddle.distributed.launch", *TWO_PROCESSES]
    command += ["--log_dir", str(tmp_path / "log"), *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    logs = "".join(path.read_text() for path in (tmp_path / "log").glob("workerlog.*"))
    assert done.returncode == status, done.stderr + logs
    return done.stdout + done.stderr


def teach(settings: Any, tmp_path: Path) -> list[str]:
    """Save a wider network as a teacher; its features need an adapter, which is trained too."""
    paddle.seed(7)
    task = read_run(merge(settings, {"model": {"width": 6}})).task
    checkpoint.save(
        tmp_path / "teacher", checkpoint.describe(task), task.build_model().state_dict()
    )
    losses = [{"kind": "l2", "student": "conv"}, {"kind": "l2"}]
    recipe = {"strategies": [{"kind": "distill", "losses": losses, "end_epoch": 2}]}
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(recipe))
    return ["--slim", "recipe.yml", "--distill_config", str(tmp_path / "teacher")]


def cut(settings: Any, tmp_path: Path) -> list[str]:
    """Prune the second epoch's model in both processes."""
    settings["model"] = {"width": 8}
    step = {"kind": "prune", "start_epoch": 1, "target_ratio": 0.5, "calibration_samples": 0}
    steps = [step | {"allocation": "sensitive"}]
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump({"strategies": steps}))
    return ["--slim", "recipe.yml"]


@pytest.mark.two_gpus
@pytest.mark.parametrize("extras", [None, teach, cut], ids=["plain", "distilled", "pruned"])
def test_two_processes_equal_one_with_the_same_global_batch(
    toy_settings: Any, tmp_path: Path, extras: Any
) -> None:
    script = str(ROOT / "tools" / "train.py")
    settings = toy_settings(epochs=3, batch_size=4, sync_bn=True)
    settings["device"] = DEVICE
    extra = extras(settings, tmp_path) if extras else []
    (tmp_path / "two.yml").write_text(yaml.safe_dump(settings))
    settings["train"] |= {"batch_size": 8}
    (tmp_path / "one.yml").write_text(yaml.safe_dump(settings))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'plugins'}"}
    one = [sys.executable, script, "-c", str(tmp_path / "one.yml"), "--save_dir", "one"]
    subprocess.run(one + extra, cwd=tmp_path, env=environment, check=True, capture_output=True)
    launch([script, "-c", str(tmp_path / "two.yml"), "--save_dir", "two", *extra], tmp_path)
    weights = {
        n: load_arrays(tmp_path / n / "latest" / "model.safetensors") for n in ("one", "two")
    }
    for name, value in weights["one"].items():
        np.testing.assert_allclose(weights["two"][name], value, atol=2e-5, err_msg=name)
    metrics = [
        json.loads((tmp_path / name / "latest" / "model.json").read_text())["metrics"]["mae"]
        for name in ("one", "two")
    ]
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-5)


ONE_FAILS = """
import core.settings.startup
from core import cli
from core.errors import DataError
from core.training.distributed import barrier, initialize
def main():
    cli.load_paddle()
    rank, _ = initialize()
    if rank == 1:
        raise DataError("mine/7.jpg: the JPEG file is truncated")
    barrier()
cli.run(main)
"""


def test_the_launcher_shows_which_rank_died_of_what(tmp_path: Path) -> None:
    """It shows what the first process says, and names the log of that alone."""
    (tmp_path / "one_fails.py").write_text(ONE_FAILS)
    shown = launch([str(tmp_path / "one_fails.py")], tmp_path, status=1)
    (line,) = (line for line in shown.splitlines() if "ERROR rank 1 (process " in line)
    assert "ended with status 2: mine/7.jpg: the JPEG file is truncated; see " in line
    assert line.endswith(f"{tmp_path}/log/workerlog.1")


@pytest.mark.gpu
def test_sync_batch_norm_alone_is_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle.distributed.all_reduce", lambda tensor: None)
    paddle.seed(0)
    for kind, shape in (
        (nn.BatchNorm2D(3, momentum=0.8), [4, 3, 5, 5]),
        (nn.BatchNorm1D(3), [6, 3]),
        (nn.BatchNorm(3, act="relu"), [4, 3, 5, 5]),
    ):
        x = paddle.rand(shape)
        for value in (kind.weight, kind.bias):
            value.set_value(paddle.rand([3]))
        results = []
        state = {name: tensor.numpy() for name, tensor in kind.state_dict().items()}
        for layer in (kind, SyncBatchNorm(kind)):
            kind.set_state_dict({k: paddle.to_tensor(v) for k, v in state.items()})
            x.stop_gradient = False
            x.clear_gradient()
            layer.train()
            y = layer(x)
            (y**2).sum().backward()
            layer.eval()
            parts = [y, x.grad, layer._mean, layer._variance, layer(x)]
            results.append([part.numpy().copy() for part in parts])
        for ours, theirs in zip(results[1], results[0]):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_synchronizing_leaves_the_model_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2D(3, 2, 1), nn.BatchNorm2D(2))
    original, names = net[1], list(net.state_dict())
    net.train()
    with synchronized_batch_norm(net):
        assert isinstance(net[1], SyncBatchNorm)
        assert list(net.state_dict()) == names
    assert net[1] is original


def test_alone_gather_is_a_list_of_one() -> None:
    assert gather({"x": 1}) == [{"x": 1}]
