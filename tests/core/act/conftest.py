"""An exported float model for PaddleSlim, with data."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from core.act.config import OP_TYPES
from core.act.source import Source
from core.export.package import export
from core.task import build_task


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float model of the toy task: conv, ReLU, mean, linear layer."""
    folder = tmp_path_factory.mktemp("toy")
    paddle.seed(0)
    settings = {"data": {"root": str(folder / "data")}, "model": {"width": 8, "dropout": 0.3}}
    task = build_task("outside.toy", settings)
    model = task.build_model()
    model.norm._mean.set_value(paddle.rand([8]))  # so that folding shows
    export(task, model, folder / "float")
    return folder / "float"


def images(count: int = 4, size: int = 4, scale: float = 1.0) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return [[rng.random((size, 3, 8, 8)).astype("float32") * scale] for _ in range(count)]


def places(source: Source, never: tuple[str, ...] = ()) -> Any:
    return source.choose(OP_TYPES, never, True, "never_quantize")


@pytest.fixture
def unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check that nothing of PaddleSlim leaks into this process, its folder or its temporary one."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    before = paddle.get_flags(["FLAGS_enable_pir_api"]), {n: getattr(F, n) for n in F.__all__}
    yield
    assert paddle.in_dynamic_mode()
    assert (paddle.get_flags(["FLAGS_enable_pir_api"]), {n: getattr(F, n) for n in F.__all__}) == (
        before
    )
    assert not list((tmp_path / "temporary").iterdir())
    assert not list((tmp_path / "here").iterdir())


def alive(number: int) -> bool:
    return os.path.exists(f"/proc/{number}")
