"""The toy task, and its network in float and in int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import paddle
import pytest
from paddle.nn import Layer

from core.export.files import FILES
from core.quant.apply import apply_quantization
from core.quant.grid_plan import plan_grids, trace_float
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.targets.names import Format
from core.task import Task, build_task


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})


@pytest.fixture
def no_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Paddle Inference fail, whatever it is asked to load."""

    def fail(config: object) -> None:
        raise RuntimeError("no such instruction")

    for place in ("paddle.inference", "core.graph.cost"):
        monkeypatch.setattr(f"{place}.create_predictor", fail)


def build(task: Task, kind: str) -> Layer:
    """Return the toy network, quantized if that is the kind."""
    paddle.seed(0)
    model = task.build_model()
    if kind == "int8":
        rounding = Rounding(processors="any")  # files are right wherever the tests run
        choice = select_layers(model, rounding, ("Conv2D", "Linear"), ())
        batches = [[paddle.rand([8, 3, 8, 8])] for _ in range(4)]
        layout = plan_grids(trace_float(task, model), model, "openvino")
        apply_quantization(model, choice, rounding, batches, "abs_max", layout)
    return model


def named(chosen: Sequence[Format]) -> set[str]:
    return {name for kind in chosen for name in FILES[kind]}
