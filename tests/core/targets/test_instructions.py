"""What is known of runtimes that compute int8 otherwise on some processors than files say."""

from __future__ import annotations

import importlib.metadata
import logging
from pathlib import Path

import pytest

from core.export.package import export
from core.runtimes.overflow_report import warn_of_overflow
from core.targets import instructions
from core.targets.instructions import why_not_as_written
from core.targets.names import BACKENDS
from core.task import build_task
from tests.networks.residual import network, quantized

AMX = ["avx2", "avx512_vnni", "amx_int8"]


@pytest.mark.parametrize("flags", [AMX, AMX[:2]], ids=["AMX", "no AMX"])
@pytest.mark.parametrize(
    ("version", "wrong"),
    [("1.20.1", False), ("1.21.0", True), ("1.24.4", True), ("1.25.0", False), ("", False)],
)
def test_which_versions_of_onnxruntime_are_wrong_with_amx(
    monkeypatch: pytest.MonkeyPatch, version: str, wrong: bool, flags: list[str]
) -> None:
    def installed(name: str) -> str:
        if not version:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    monkeypatch.setattr(instructions, "processor", lambda: ("a processor", flags))
    found = why_not_as_written("onnxruntime", "any")
    assert bool(found) == (wrong and flags == AMX)
    assert not found or found.startswith(f"ONNX Runtime {version} has wrong kernels for int8")
    assert why_not_as_written("openvino", "any") == why_not_as_written("paddle", "any") == ""


def test_what_a_wrong_runtime_answers_is_told_and_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.23.2")
    monkeypatch.setattr(instructions, "processor", lambda: ("a processor", AMX))
    task = build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})
    model = quantized(task)
    made = export(task, model, tmp_path / "int8", ("paddle", "onnx"), target="onnxruntime")
    assert {each.runtime for each in made.differences} == set(BACKENDS)
    assert "onnxruntime: ONNX Runtime 1.23.2 has wrong kernels for int8" in caplog.text

    export(task, network(), tmp_path / "float", ("paddle", "onnx"))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_of_overflow(
            (tmp_path / name, backend) for name in ("int8", "float") for backend in BACKENDS
        )
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith(f"{tmp_path / 'int8'}: ONNX Runtime 1.23.2 has wrong kernels for int8")
