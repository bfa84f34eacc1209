"""Signals: a tool ends with one word and its status, and leaves no process and no half file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import psutil
import pytest
import yaml

from core import cli
from core.export.package import export
from core.settings.signals import Terminated
from core.task import build_task
from core.training import checkpoint
from core.training.loader import SHARED_MEMORY
from core.training.run import read_run
from tests.alone import run_alone
from tests.robustness.conftest import PLUGINS, ROOT

TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py"))
ARGUMENTS = {
    "act.py": ("--config_path", "x", "--save_dir", "y"),
    "benchmark.py": ("--model_dir", "x"),
    "data.py": ("inspect", "x"),
    "demo.py": (),
    "eval.py": ("--weights", "x"),
    "export_model.py": ("--weights", "x", "--save_dir", "y"),
    "predict.py": ("--model_dir", "x", "--image_path", "y", "--save_dir", "z"),
    "processors.py": ("x",),
    "ptq.py": ("--weights", "x", "--save_dir", "y"),
    "qat_export.py": ("--weights", "x", "--save_dir", "y"),
    "reproduce.py": ("--scale", "smoke"),
    "sensitivity.py": ("--weights", "x"),
    "qat_train.py": ("-c", "x"),
    "train.py": ("-c", "x"),
}
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a tool in a session of its own; all of its processes end with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(tool: str, *words: object, **more: str) -> subprocess.Popen[str]:
        paths = os.pathsep.join([str(ROOT), str(PLUGINS)])
        variables = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")}
        (tmp_path / "tmp").mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tools" / tool), *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, **variables, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def wait_for(process: subprocess.Popen[str], what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120
    while not (found := what()):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(process.communicate()[0])
        time.sleep(0.02)
    return found


def gone(processes: list[psutil.Process], seconds: float = 10.0) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def shared_memory_of(processes: list[psutil.Process]) -> list[str]:
    pids = {str(process.pid) for process in processes}
    return [name for name in os.listdir(SHARED_MEMORY) if set(name.split("_")[1:2]) & pids]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_that_is_terminated_says_one_word(start: Start, tmp_path: Path, tool: str) -> None:
    # while libraries are loaded, which is where all of them can be met alike
    (tmp_path / "paddle.py").write_text(
        "import ctypes, os, signal\n"
        "ctypes.CDLL(None).signal(signal.SIGTERM, 0)\n"  # as Paddle: behind Python's back
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "disable_signal_handler = lambda: None\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    process = start(tool, *ARGUMENTS[tool], PYTHONPATH=paths)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (143, "terminated\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["paddle.py", "tmp"]


def test_ctrl_c_while_libraries_are_loaded(start: Start, tmp_path: Path) -> None:
    (tmp_path / "paddle.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may ignore it
        "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    process = start("eval.py", "--weights", "x", PYTHONPATH=paths)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "interrupted\n")


SIGNALS = {  # what is sent, and if to all processes of the job, as terminals and systemd do
    "Ctrl-C": (signal.SIGINT, True, 130, "interrupted"),
    "kill": (signal.SIGTERM, True, 143, "terminated"),
    "kill -9": (signal.SIGKILL, False, -signal.SIGKILL, ""),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_training_ends_with_all_its_processes(
    start: Start, toy_settings: Any, tmp_path: Path, name: str
) -> None:
    sent, to_all, status, word = SIGNALS[name]
    settings = toy_settings(epochs=100000)
    settings["data"]["num_workers"] = 2
    (tmp_path / "long.yml").write_text(yaml.safe_dump(settings))
    process = start("train.py", "-c", "long.yml", "--save_dir", "out")
    wait_for(process, (tmp_path / "out/latest").exists)
    readers = wait_for(process, psutil.Process(process.pid).children)
    (os.killpg if to_all else os.kill)(process.pid, sent)
    said, _ = process.communicate(timeout=60)  # until the readers have ended as well
    assert process.returncode == status, said
    assert "Traceback" not in said
    assert "C++" not in said
    assert gone(readers)
    assert shared_memory_of(readers) == []
    if word:
        assert said.splitlines()[-1] == word
        assert said.count(word) == 1
        assert said.count("stopping after this step") <= 1
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            *("best_model", "config.yml", "curves.png", "latest", "results.csv", "train.log")
        ]
    assert checkpoint.restore(tmp_path / "out/latest", read_run(settings).task)


class Stopped(paddle.autograd.PyLayer):
    """As when a signal meets the backward pass of a rounded layer."""

    raised: BaseException

    @staticmethod
    def forward(context: object, x: paddle.Tensor) -> paddle.Tensor:
        return x * 1

    @staticmethod
    def backward(context: object, gradient: paddle.Tensor) -> paddle.Tensor:
        raise Stopped.raised


@pytest.mark.parametrize(
    ("raised", "status", "word"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(signal.SIGTERM), 143, "terminated"),
        (Terminated(signal.SIGHUP), 129, "hung up"),
    ],
)
def test_a_signal_in_a_backward_pass_is_one_word(
    capsys: pytest.CaptureFixture[str], raised: BaseException, status: int, word: str
) -> None:
    def main() -> None:
        x = paddle.to_tensor(np.ones(1, np.float32), stop_gradient=False)
        Stopped.apply(x).backward()

    Stopped.raised = raised
    with pytest.raises(OSError, match=r"\(External\) "):
        main()
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == status
    assert capsys.readouterr().err == f"{word}\n"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The toy task; temporary files go into a folder of the test."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "absent")}})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_signals_that_are_raised_here_in_a_process_of_their_own() -> None:
    run_alone("tests/robustness/signals_alone.py")


def test_an_export_that_is_killed_leaves_nothing_for_long(
    start: Start, toy: Any, tmp_path: Path
) -> None:
    model = toy.build_model()
    checkpoint.save(tmp_path / "run", checkpoint.describe(toy), model.state_dict())
    words = ("--weights", "run", "--plugin", "outside.toy", "--format", "paddle,onnx")
    process = start("export_model.py", *words, "--save_dir", "out")

    wait_for(process, (tmp_path / ".out.trislim-partial").exists)
    process.kill()
    process.communicate(timeout=60)
    assert names(tmp_path) == [".out.trislim-lock", ".out.trislim-partial", "run", "tmp"]
    export(toy, model, tmp_path / "other", ("onnx",))  # the next one sweeps up
    left = [tmp_path / "tmp" / name for name in names(tmp_path / "tmp")]
    # by a file of these letters Python's tempfile tries the folder, and may be killed at that
    assert [each for each in left if each.is_dir() or each.read_bytes() not in (b"", b"blat")] == []
    assert names(tmp_path) == ["other", "run", "tmp"]
