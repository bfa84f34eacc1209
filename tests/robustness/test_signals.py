"""Signals: a tool ends with one word and its status, and leaves no process and no half file."""

from __future__ import annotations

import os
import re
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
from core.export.onnx import convert
from core.export.package import export
from core.settings.signals import Terminated, raising
from core.task import build_task
from core.training import checkpoint
from core.training.engine import Engine
from core.training.hooks import Checkpoints, Hook, Interruptible
from core.training.recipe import read_recipe
from core.training.run import read_run
from tests.robustness.conftest import PLUGINS, ROOT

TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py"))
SHARED_MEMORY = Path("/dev/shm")
ARGUMENTS = {
    "act.py": ("--config_path", "x", "--save_dir", "y"),
    "benchmark.py": ("--model_dir", "x"),
    "demo.py": (),
    "eval.py": ("--weights", "x"),
    "export_model.py": ("--weights", "x", "--save_dir", "y"),
    "predict.py": ("--model_dir", "x", "--image_path", "y", "--save_dir", "z"),
    "processors.py": ("x",),
    "ptq.py": ("--weights", "x", "--save_dir", "y"),
    "qat_export.py": ("--weights", "x", "--save_dir", "y"),
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
            *("best_model", "config.yml", "latest", "train.log")
        ]
    assert checkpoint.restore(tmp_path / "out/latest", read_run(settings).task)


@pytest.mark.parametrize("when", ["step", "epoch"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_stops_at_the_end_of_what_it_is_at(
    toy_settings: Any, tmp_path: Path, when: str, number: signal.Signals
) -> None:
    steps = []

    class Kill(Hook):
        def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
            steps.append(engine.step)
            if when == "step" and engine.step == 6:
                signal.raise_signal(number)
                signal.raise_signal(signal.SIGTERM)  # a launcher repeats itself

        def after_epoch(self, engine: Engine) -> None:
            if when == "epoch" and engine.epoch == 1:
                signal.raise_signal(number)

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    settings = toy_settings()
    run = read_run(settings)
    (tmp_path / "out").mkdir()
    hooks = [Kill(), Checkpoints(), Interruptible()]
    engine = Engine(run, read_recipe({}, run.train.epochs, False), tmp_path / "out", hooks)
    kind = KeyboardInterrupt if number == signal.SIGINT else Terminated
    with pytest.raises(KeyboardInterrupt) as caught:
        engine.train()
    assert type(caught.value) is kind
    assert steps[-1] == (6 if when == "step" else 4)  # of 4 in an epoch
    about = checkpoint.load_description(tmp_path / "out" / "latest")
    assert about is not None
    assert about.epoch == 1
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


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


def test_an_export_that_is_terminated_leaves_nothing(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*_: object) -> None:
        assert names(tmp_path / "tmp")
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(convert, "run_module", terminated)

    def run() -> None:
        with raising():
            export(toy, toy.build_model(), tmp_path / "out", ("paddle", "onnx"))

    with pytest.raises(Terminated):
        run()
    assert names(tmp_path) == ["tmp"]
    assert names(tmp_path / "tmp") == []


def test_an_export_that_is_killed_leaves_nothing_for_long(
    start: Start, toy: Any, tmp_path: Path
) -> None:
    model = toy.build_model()
    checkpoint.save(tmp_path / "run", checkpoint.describe(toy), model.state_dict())
    words = ("--weights", "run", "--plugin", "outside.toy", "--format", "paddle,onnx")
    process = start("export_model.py", *words, "--save_dir", "out")

    def converters() -> list[psutil.Process]:
        found = psutil.Process(process.pid).children()
        return [each for each in found if "core.export.onnx.converter_process" in each.cmdline()]

    children = wait_for(process, converters)
    process.kill()
    process.communicate(timeout=60)
    assert gone(children)
    left = names(tmp_path / "tmp")
    assert left
    assert all(re.fullmatch(r"\.trislim-scratch-\w+", name) for name in left)
    assert names(tmp_path) == [".out.trislim-lock", ".out.trislim-partial", "run", "tmp"]
    export(toy, model, tmp_path / "other", ("onnx",))  # the next one sweeps up
    assert names(tmp_path / "tmp") == []
    assert names(tmp_path) == ["other", "run", "tmp"]
