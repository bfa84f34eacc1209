"""The way of a weight from quantization to its int8 files: few files, and downwards only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import CO_GENERATOR
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import paddle
import pytest
from importlinter import api

import core
from core.export.package import export
from core.export.traced_model import TracedModel
from core.quant.post_training import PtqConfig, quantize_after_training
from core.settings.plugins import load_plugin
from core.task import Task, build_task

CORE = Path(core.__file__).parent
ROOT = CORE.parent
WIDTH = 7  # so that no other array has the shape of the weight
SHAPE = (WIDTH, 3, 3, 3)
MOST_FILES = 12
Watch = Callable[[FrameType, str, Any], None]


def layers() -> list[str]:
    """Return the packages of core from the top down, as import-linter is told."""
    contracts = api.read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    (found,) = (each["layers"] for each in contracts if each.get("containers") == ["core"])
    return [name.strip(" ()") for layer in found for name in layer.split("|")]


def module(frame: FrameType) -> Path | None:
    path = Path(frame.f_code.co_filename)
    return path.relative_to(CORE) if path.is_relative_to(CORE) else None


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)


@pytest.fixture(params=["paddle", "onnx"])
def walk(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], None]:
    """Return what quantizes the toy model after training, and exports it."""
    load_plugin("outside.toy")
    settings = {"data": {"root": str(tmp_path / "data")}, "model": {"width": WIDTH}}
    task: Task = build_task("outside.toy", settings)
    paddle.seed(0)
    model = task.build_model()
    model.eval()
    batches = [[paddle.rand([4, 3, 8, 8])]]

    def run() -> None:
        quantize_after_training(task, model, lambda: batches, PtqConfig(target="openvino"))
        export(task, model, tmp_path / "out", (request.param,), target="openvino")

    return run


def test_the_arrays_of_a_weight_pass_few_files(walk: Callable[[], None]) -> None:
    passed: set[Path | None] = set()

    def is_weight(value: Any) -> bool:
        return isinstance(value, (np.ndarray, paddle.Tensor)) and tuple(value.shape) == SHAPE

    def watch(frame: FrameType, event: str, value: Any) -> None:
        if frame.f_code is TracedModel.compare.__code__:
            sys.setprofile(None)  # the file is written; what comparing reads is no way to it
        elif event == "return" and any(map(is_weight, (*frame.f_locals.values(), value))):
            passed.add(module(frame))

    with watching(watch):
        walk()
    files = {where for where in passed if where}
    assert {where.parts[0] for where in files} >= {"graph", "quant", "export"}
    assert len(files) <= MOST_FILES, sorted(files)


def test_a_border_between_packages_is_crossed_downwards_only(walk: Callable[[], None]) -> None:
    height = {name: -place for place, name in enumerate(layers())}
    crossed: set[tuple[str, str]] = set()
    upwards: set[tuple[str, str]] = set()

    def watch(frame: FrameType, event: str, value: Any) -> None:
        if event != "call" or not (here := module(frame)) or frame.f_code.co_flags & CO_GENERATOR:
            return  # a generator is resumed by whoever asks for its next value
        caller, through = frame.f_back, []
        while caller is not None and not module(caller):
            through.append(caller.f_globals.get("__name__", ""))
            caller = caller.f_back
        if caller is None:
            return
        there = module(caller)
        assert there is not None
        pair = tuple(path.parts[0].removesuffix(".py") for path in (there, here))
        crossed.add((pair[0], pair[1]))
        forward = frame.f_code.co_name == "forward" and "paddle.nn.layer.layers" in through
        if height[pair[1]] > height[pair[0]] and not forward:  # Paddle runs the model
            upwards.add((f"{there}: {caller.f_code.co_name}", f"{here}: {frame.f_code.co_name}"))

    with watching(watch):
        walk()
    assert ("export", "quant") in crossed
    assert not upwards
