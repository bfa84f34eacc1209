"""tools/train.py and tools/eval.py as a user calls them, right and wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.network.weights import load_arrays
from core.training.checkpoint import load_description

ROOT = Path(__file__).resolve().parents[2]
Tool = Callable[..., tuple[Any, str]]


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "plugins")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def call(tool: str, *arguments: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def config(toy_settings: Any, tmp_path: Path) -> Path:
    path = tmp_path / "toy.yml"
    path.write_text(yaml.safe_dump(toy_settings(epochs=2)))
    return path


def test_train_eval_and_resume(config: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yml"
    steps = [{"kind": "outside.strategies:Narrow", "start_epoch": 1}]
    recipe.write_text(yaml.safe_dump({"epochs": 3, "strategies": steps}))
    arguments = ["-c", config, "--slim", recipe, "--save_dir", "out"]
    done = call("train.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "epoch 3/3" in done.stderr
    assert "best_model" in done.stdout
    assert load_description(tmp_path / "out/latest").epoch == 3
    saved = yaml.safe_load((tmp_path / "out/config.yml").read_text())
    assert saved["train"]["epochs"] == 3

    # the checkpoint's path is enough: task, settings and the narrowed structure come from it
    # (code from outside is named by the user)
    plugins = ["--plugin", "outside.toy", "--plugin", "outside.strategies:Narrow"]
    weights = "out/best_model/model.pdparams"
    done = call("eval.py", *plugins, "--weights", weights, "--save", "m.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "m.json").read_text())
    described = load_description(tmp_path / "out/best_model").metrics
    assert measured["mae"] == pytest.approx(described["mae"], abs=1e-6)

    # the command line goes before the recipe, the recipe before the config
    done = call("train.py", *arguments, "--resume", "-o", "train.epochs=5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_description(tmp_path / "out/latest").epoch == 5
    assert load_arrays(tmp_path / "out/latest/model.safetensors")["head.weight"].shape == (2, 1)
    over = (
        "--resume",
        "-o",
        "train.epochs=5",
        "--targets",
        "max_size_mb=1",
    )  # nothing is left to do
    done = call("train.py", *arguments, *over, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pass  best_model: size" in done.stdout
    shutil.rmtree(tmp_path / "out" / "best_model")
    done = call("train.py", *arguments, *over[:3], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "best_model is no longer there" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "train.epoch=3"], "train.epoch: unknown key (did you mean 'epochs'?)"),
        (["-o", "train.epochs=x"], "train.epochs: expected int, got str ('x')"),
        (["-o", "modle.width=2"], "modle: unknown key (did you mean 'model'?)"),
        (["-o", "task.name=nothing"], "task.name: no task 'nothing'"),
        (["-o", "device=gpu"], "device: gpu was asked for"),
        (["--slim", "gone.yml"], "gone.yml: no such config file"),
        (["--slim", "prun"], "slim: no recipe 'prun' (did you mean 'prune'?)"),
        (["-o", "task=null"], "task: expected a mapping"),
        (["-o", "strategies.0.end_epoch=1"], "strategies.0.end_epoch=1: there is no recipe; name"),
        (["--save_dir", "file/inside"], "save_dir: file/inside cannot be written"),
        (["--resume"], "output/outside.toy/toy/latest: no such weights file"),
        (["-o", "data.root=empty", "-o", "synthetic=null"], "empty/train: no such folder"),
    ],
)
def test_a_wrong_call_ends_in_one_line(
    config: Path,
    tmp_path: Path,
    call_tool: Tool,
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "file").write_text("")
    status, output = call_tool("train.py", "-c", config, *arguments)
    assert status == 2
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {message}")


def test_a_dry_run_tells_and_fails_like_the_run(
    config: Path, tmp_path: Path, call_tool: Tool
) -> None:
    for name, kind in (("a", "Narrow"), ("b", "Round")):
        steps = [{"kind": f"outside.strategies:{kind}", "start_epoch": 1}]
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump({"strategies": steps}))
    arguments = ["-c", config, "--slim", "a.yml,b.yml", "--dry_run"]

    def run(*more: Any) -> tuple[Any, str]:
        return call_tool("train.py", *arguments, *more)

    status, output = run()
    assert status == 2
    rule = "strategies.0 (outside.strategies:Narrow): channels cannot be removed beside or after"
    assert f"error: {rule}" in output
    later = ["-o", "train.epochs=3", "-o", "strategies.1.start_epoch=2"]
    status, output = run(*later, "--save_config", "ours.yml")
    assert status == 0, output
    assert "3 epochs, 12 steps" in output
    assert output.count("begins") == 2
    assert not (tmp_path / "output").exists()
    assert yaml.safe_load((tmp_path / "ours.yml").read_text())["slim"]["strategies"] == [
        {"kind": "outside.strategies:Narrow", "start_epoch": 1},
        {"kind": "outside.strategies:Round", "start_epoch": 2},
    ]
    status, output = call_tool("train.py", "-c", "ours.yml", "--save_dir", "out")
    assert status == 0, output
    edits = load_description(tmp_path / "out/latest").edits
    assert [kind.rpartition(":")[2] for kind, _ in edits] == ["Narrow", "Round"]


def test_ctrl_c_stops_at_once_and_training_can_go_on(toy_settings: Any, tmp_path: Path) -> None:
    settings = toy_settings(epochs=100000)
    (tmp_path / "long.yml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, str(ROOT / "tools/train.py"), "-c", "long.yml", "--save_dir", "out"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    )
    latest = tmp_path / "out/latest/model.safetensors"
    deadline = time.monotonic() + 60
    while not latest.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    epoch = load_description(latest).epoch
    done = call(
        "train.py",
        *["-c", "long.yml", "--save_dir", "out", "--resume", "-o", f"train.epochs={epoch + 1}"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert load_description(latest).epoch == epoch + 1


def test_eval_says_what_is_missing(config: Path, tmp_path: Path) -> None:
    done = call("eval.py", "--weights", "gone.pdparams", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: gone.pdparams: no such weights file" in done.stderr


@pytest.mark.parametrize("size", ["0", "-1", "x"])
def test_eval_wants_a_batch(tmp_path: Path, call_tool: Tool, size: str) -> None:
    arguments = ["--weights", "x", f"--batch_size={size}"]
    status, output = call_tool("eval.py", *arguments)
    assert status == 2
    assert "--batch_size: expected a whole number, 1 or more" in output


@pytest.mark.parametrize("tool", sorted(p.name for p in (ROOT / "tools").glob("*.py")))
def test_every_tool_explains_itself(tool: str, tmp_path: Path, call_tool: Tool) -> None:
    status, output = call_tool(tool, "--help")
    assert status == 0
    assert "usage:" in output
