"""`make test-gpu`: where there is a GPU its tests run, elsewhere one line says why they do not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests import on_gpu


def gpus(monkeypatch: pytest.MonkeyPatch, cuda: bool, count: int) -> list[list[str]]:
    """Let Paddle have so many GPUs; note what would be run."""
    ran: list[list[str]] = []

    def run(command: list[str], **others: Any) -> subprocess.CompletedProcess[str]:
        assert others["env"]["TRISLIM_TEST_DEVICE"] == "gpu"
        ran.append(command)
        return subprocess.CompletedProcess(command, 5)

    monkeypatch.setattr(on_gpu.paddle, "is_compiled_with_cuda", lambda: cuda)
    monkeypatch.setattr(on_gpu.paddle.device.cuda, "device_count", lambda: count)
    monkeypatch.setattr(on_gpu.subprocess, "run", run)
    return ran


@pytest.mark.parametrize(
    ("cuda", "count", "reason"),
    [(False, 1, "was built without CUDA: install"), (True, 0, "Paddle sees no GPU: look at")],
)
def test_without_a_gpu_one_line_says_why(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cuda: bool,
    count: int,
    reason: str,
) -> None:
    ran = gpus(monkeypatch, cuda, count)
    assert on_gpu.main([]) == 0
    assert ran == []
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("nothing was tested on a GPU: ")
    assert reason in line


@pytest.mark.parametrize(("count", "marks"), [(1, "gpu"), (2, "gpu or two_gpus")])
def test_with_a_gpu_its_tests_are_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    count: int,
    marks: str,
) -> None:
    ran = gpus(monkeypatch, True, count)
    assert on_gpu.main(["-x"]) == 5
    assert ran == [[sys.executable, "-m", "pytest", "-m", marks, "-x"]]
    assert ("there is one" in capsys.readouterr().out) == (count == 1)


def test_contracts_precision_and_two_processes_are_among_them() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-m", "gpu or two_gpus"]
    places = ["tests/contracts", "tests/core/training"]
    done = subprocess.run(
        [*command, *places], cwd=on_gpu.ROOT, capture_output=True, text=True, check=True
    )
    for name in (
        "test_tasks.py::",
        "test_precision.py::",
        "test_two_processes_equal_one_with_the_same_global_batch[plain]",
        "test_sync_batch_norm_alone_is_batch_norm",
    ):
        assert name in done.stdout, name
    assert "test_engine.py" not in done.stdout
