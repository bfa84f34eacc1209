"""What tools do not do: wait for Paddle before they explain themselves, or print its noise.

Paddle warns at its import where `ccache` is not on the path, and of its batch norms in every
training, and answers signals that end a process with its C++ frames. Here the path is empty, so
that it would on every machine.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from outside import toy

from core import cli

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py"))
NOISE = ("ccache", "global mean", "C++ Traceback", "FatalError", "by the operating system")
HEAVY = ("paddle", "cv2", "onnx", "matplotlib", "numpy", "scipy")


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "plugins")])
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    return {**kept, "PYTHONPATH": paths, "PATH": "", "OMP_NUM_THREADS": "1", **more}


def python(*words: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_quiet(*texts: str) -> None:
    """Look for noise in what was said on either stream; Paddle uses both."""
    lines = [line for text in texts for line in text.splitlines()]
    assert [line for line in lines if any(word in line for word in NOISE)] == []


@pytest.mark.parametrize(
    "words",
    [*[(tool, "--help") for tool in TOOLS], ("sensitivity.py", "--quant", "--help")],
    ids=" ".join,
)
def test_help_needs_no_paddle(words: tuple[str, ...], tmp_path: Path) -> None:
    done = python("-X", "importtime", ROOT / "tools" / words[0], *words[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "core.cli" in imported  # so this is how the list is read
    assert imported.isdisjoint(HEAVY)
    assert_quiet(done.stdout, done.stderr)


def test_nor_does_a_typing_error(tmp_path: Path) -> None:
    words = (ROOT / "tools" / "eval.py", "--weights", "x", "--batch_size", "none")
    done = python("-X", "importtime", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "--batch_size: expected a whole number, 1 or more, got 'none'" in done.stderr
    assert "paddle" not in {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_what_is_looked_for_is_there_without_us(tmp_path: Path) -> None:
    assert "No ccache found" in python("-c", "import paddle", cwd=tmp_path).stderr


def test_paddle_leaves_logging_and_other_warnings_alone(tmp_path: Path) -> None:
    code = """
import logging, warnings
logging.basicConfig(level=logging.INFO)
from core.settings.startup import load_paddle
load_paddle()
logging.info("still heard")
warnings.warn("still seen")
"""
    done = python("-c", code, cwd=tmp_path)
    assert "INFO:root:still heard" in done.stderr
    assert "UserWarning: still seen" in done.stderr
    assert_quiet(done.stdout, done.stderr)


# the demo calls the others; what data.py prints is all in tests/tools/test_own_data.py
APART = ("demo.py", "data.py")
# read what was made with a task from outside, which they are told to trust
PLUGGED = (
    *("eval.py", "sensitivity.py", "export_model.py", "predict.py", "ptq.py", "qat_export.py"),
    "act.py",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run every tool but the demo, which calls the others, on the toy task; return what it said."""
    folder, said = tmp_path_factory.mktemp("chain"), {}
    data = folder / "data"
    settings = {
        "task": {"name": "outside.toy"},
        "train": {"epochs": 1, "batch_size": 4, "learning_rate": 0.01},
        "data": {"root": str(data), "num_workers": 2},
        "synthetic": {"train_images": 8, "val_images": 2},
    }
    (folder / "toy.yml").write_text(yaml.safe_dump(settings))
    toy.draw_images(folder / "pictures", 2, seed=0)
    for name in ("ant", "bee"):
        toy.draw_images(folder / "own" / name, 2, seed=0)
    act = {
        "Global": {"model_dir": "float", "batch_size": 4, "calibration_batches": 1},
        "Distillation": {"loss": "l2"},
        "QuantAware": {},
        "TrainConfig": {"epochs": 1, "eval_iter": 2, "logging_iter": 1, "learning_rate": 0.01},
    }
    (folder / "act.yml").write_text(yaml.safe_dump(act))
    short = ("--no_metric", "--format", "paddle", "--save_dir")
    calls: dict[str, tuple[object, ...]] = {
        "train.py": ("-c", "toy.yml", "--save_dir", "run"),
        "qat_train.py": (
            "-c",
            "toy.yml",
            "-o",
            "model.pretrained=run/best_model",
            "--save_dir",
            "q",
        ),
        "data.py": ("inspect", "own", "--save_dir", "look"),
        "eval.py": ("--weights", "run/best_model"),
        "sensitivity.py": ("--weights", "run/best_model", "--print_groups"),
        "export_model.py": ("--weights", "run/best_model", "--save_dir", "float", "--format"),
        "benchmark.py": ("--model_dir", "float", "--runs", 1, "--warmup", 0),
        "processors.py": ("float",),
        "reproduce.py": ("--list", "--scale", "smoke"),
        "predict.py": ("--model_dir", "float", "--image_path", "pictures", "--save_dir", "drawn"),
        "ptq.py": ("--weights", "run/best_model", *short, "ptq"),
        "qat_export.py": ("--weights", "ptq/model", *short, "int8"),
        "act.py": ("--config_path", "act.yml", *short, "act"),
    }
    calls["export_model.py"] += ("paddle,onnx",)
    for tool in ("train.py", "benchmark.py", "ptq.py", "qat_export.py", "act.py"):
        calls[tool] += ("--targets", "max_size_mb=1")
    for tool in PLUGGED:
        calls[tool] += ("--plugin", "outside.toy")
    for tool, words in calls.items():
        done = python(ROOT / "tools" / tool, *words, cwd=folder)
        assert done.returncode == 0, (tool, done.stderr)
        said[tool] = done.stdout + done.stderr
    return said


@pytest.mark.chain
@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool not in APART])
def test_no_noise_in_a_run(runs: dict[str, str], tool: str) -> None:
    assert_quiet(runs[tool])


@pytest.mark.parametrize(
    ("tool", "file"),
    [
        ("train.py", "best_model"),
        ("benchmark.py", "float in onnxruntime"),
        ("ptq.py", "int8, paddle"),
        ("qat_export.py", "int8, paddle"),
        ("act.py", "int8, paddle"),
    ],
)
def test_targets_are_judged(runs: dict[str, str], tool: str, file: str) -> None:
    lines = runs[tool].splitlines()
    assert any(line.startswith(f"pass  {file}: size 0.00") for line in lines)
    assert any(line.startswith("best: ") for line in lines)


def test_no_noise_of_processes_that_tools_start(tmp_path: Path) -> None:
    done = python("-m", "core.runtimes.memory", "absent", "paddle", 1, "[]", cwd=tmp_path)
    assert done.stderr.splitlines()[-1].endswith("absent: no such folder of an exported model")
    assert_quiet(done.stdout, done.stderr)
    done = python("-m", "core.act.worker", 99, cwd=tmp_path)
    assert done.returncode == 1
    assert_quiet(done.stdout, done.stderr)


def test_other_errors_of_the_system_are_none_of_it() -> None:
    def main() -> None:
        raise OSError("(External) out of something")

    with pytest.raises(OSError, match="out of something"):
        cli.run(main)


@pytest.mark.parametrize("words", [*((tool,) for tool in TOOLS), ("sensitivity.py", "--quant")])
def test_each_option_is_explained(words: tuple[str, ...], tmp_path: Path) -> None:
    done = python(ROOT / "tools" / words[0], *words[1:], "--help", cwd=tmp_path, COLUMNS="200")
    lines = [*done.stdout.splitlines(), ""]
    explained = {}
    for line, below in itertools.pairwise(lines):
        if re.match(r"  -{1,2}\w", line):
            option, _, text = line.strip().partition("  ")
            explained[option] = text.strip() or below.strip() * below.startswith(" " * 20)
    assert "-h, --help" in explained
    assert [option for option, text in explained.items() if len(text.split()) < 2] == []
