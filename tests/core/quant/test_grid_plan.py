"""Which outputs a target rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle.nn.functional as F
import pytest
from paddle import Tensor, nn
from paddle.nn import Layer

from core.quant.grid_plan import plan_grids, trace_float
from core.quant.post_training import PtqConfig, quantize_after_training
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.quant.sites import sites_of
from core.targets.names import PROCESSORS, TARGETS, Processors, RoundedOutputs, Target
from core.task import Task, build_task
from tests.networks.residual import ALL, RESIDUAL, batches, network


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})


@pytest.mark.parametrize(
    ("outputs", "wanted"), [("none", {}), ("residual", RESIDUAL), ("all", ALL)], ids=str
)
def test_which_outputs_are_rounded(task: Task, outputs: RoundedOutputs, wanted: Any) -> None:
    model = network()
    layers = select_layers(model, Rounding(), ("Conv2D", "Linear"), ()).layers
    assert (
        plan_grids(trace_float(task, model), model, "onnxruntime", layers, outputs).outputs
        == wanted
    )


def test_the_target_decides_by_default(task: Task) -> None:
    model = network()
    layers = select_layers(model, Rounding(), ("Conv2D", "Linear"), ()).layers
    found = {
        target: plan_grids(
            trace_float(task, model), model, target, layers, None, processors="vnni"
        ).outputs
        for target in ("onnxruntime", "tensorrt", "openvino", "paddle", "lite")
    }
    assert found == {
        "onnxruntime": ALL,
        "tensorrt": RESIDUAL,
        "openvino": RESIDUAL,
        # what the first addition reads has a sign, what it makes has none
        "paddle": {path: RESIDUAL[path] for path in ("blocks.0", "blocks.1")},
        "lite": {},
    }
    # where files are right on any processor, all that Paddle Inference reads has a sign
    assert plan_grids(trace_float(task, model), model, "paddle", layers, None).outputs == RESIDUAL


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("processors", PROCESSORS)
def test_layers_without_a_fast_kernel_stay_in_float(
    task: Task, target: Target, processors: Processors
) -> None:
    """Of the runtimes that compute by oneDNN, where files are for processors without VNNI, too."""

    class Groups(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.depthwise = nn.Conv2D(3, 8, 1), nn.Conv2D(8, 8, 3, groups=8)
            self.multiplied = nn.Conv2D(8, 16, 3, groups=8)
            self.fours = nn.Conv2D(16, 8, 1, groups=2)

        def forward(self, image: Tensor) -> Tensor:
            return self.fours(self.multiplied(F.relu(self.depthwise(self.stem(image)))))

    model = Groups()
    layers = ("stem", "depthwise", "multiplied", "fours")
    found = plan_grids(
        trace_float(task, model), model, target, layers, "none", processors=processors
    ).in_float
    if processors == "any" and target in ("paddle", "openvino"):
        assert found.keys() == {"multiplied"}
        assert found["multiplied"].startswith("groups of 1 to 2 channels are slow in int8")
    else:
        assert found == {}


class Patches(Layer):
    """Kernels of even sizes on few channels, and neighbours of those."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.patches = nn.Conv2D(3, 32, 4), nn.Conv2D(32, 32, 4, padding=4)
        self.long, self.wide = nn.Conv2D(32, 64, (1, 8)), nn.Conv2D(64, 32, 4, padding=2)
        self.odd = nn.Conv2D(32, 16, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.odd(self.wide(self.long(F.relu(self.patches(self.stem(image))))))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("processors", PROCESSORS)
def test_what_is_wrong_with_amx_stays_in_float(
    task: Task, target: Target, processors: Processors
) -> None:
    model, layers = Patches(), ("stem", "patches", "long", "wide", "odd")
    found = plan_grids(
        trace_float(task, model), model, target, layers, "none", processors=processors
    ).in_float
    if target == "lite":
        assert found == {}
    else:
        assert found.keys() == {"patches", "long"}
        assert found["patches"].startswith("oneDNN computes kernels of 4x4 on 32 channels wrongly")


class Groups(Layer):
    """Grouped convolutions, of which oneDNN computes two wrongly on processors with AMX."""

    def __init__(self) -> None:
        super().__init__()
        self.right = nn.Conv2D(3, 144, 1)
        self.wrong, self.wide = nn.Conv2D(144, 256, 1, groups=2), nn.Conv2D(256, 64, 1, groups=2)
        self.few, self.kernels = nn.Conv2D(64, 144, 1, groups=2), nn.Conv2D(144, 48, 3, groups=2)
        self.signed, self.small = nn.Conv2D(48, 8, 3, groups=2), nn.Conv2D(8, 48, 3, groups=2)
        self.clipped, self.depthwise = nn.Conv2D(48, 4, 3, groups=2), nn.Conv2D(4, 4, 4, groups=4)

    def forward(self, image: Tensor) -> Tensor:
        x = self.kernels(self.few(self.wide(self.wrong(self.right(image)))))
        return self.depthwise(self.clipped(F.relu(self.small(self.signed(x)))))


@pytest.mark.parametrize("target", ["paddle", "openvino", "onnxruntime"])
def test_groups_that_are_wrong_with_amx_stay_in_float(task: Task, target: Target) -> None:
    model = Groups()
    layers = [name for name, _ in model.named_sublayers()]
    found = plan_grids(
        trace_float(task, model), model, target, layers, "none", processors="vnni"
    ).in_float
    told = "oneDNN computes groups with kernels of 1x1 on 72 channels wrongly in int8 on"
    assert found.keys() == {"wrong", "signed"}
    assert found["wrong"].startswith(told)


def test_of_two_branches_the_last_is_computed_with_the_addition(task: Task) -> None:
    class Shortcut(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.main = nn.Conv2D(3, 8, 3, padding=1)
            self.short = nn.Conv2D(3, 8, 1)
            self.pool = nn.AdaptiveAvgPool2D(1)
            self.head = nn.Conv2D(8, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pool(self.main(x) + self.short(x))).flatten(1)

    model, layers = Shortcut(), ("main", "short", "head")
    found = plan_grids(trace_float(task, model), model, "tensorrt", layers, "residual").outputs
    assert found == {"main": ()}
    found = plan_grids(trace_float(task, model), model, "tensorrt", layers, "all").outputs
    assert found == {"main": (), "short": (), "head": ()}


def test_what_stays_in_float_rounds_no_output(task: Task) -> None:
    config = PtqConfig(target="onnxruntime", never_quantize=("blocks.1*", "stem"))
    model = network()
    made = quantize_after_training(task, model, batches, config)
    assert set(made.outputs) == {"act", "blocks.0.norm2", "blocks.0", "gate"}
    assert not any(path.startswith("blocks.1") for path in sites_of(model))


def test_an_addition_of_a_bias_is_no_residual_and_a_container_rounds_nothing(task: Task) -> None:
    class Plain(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2D(3, 8, 3), nn.ReLU())
            self.twice = nn.Conv2D(8, 8, 1)
            self.head = nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            y = F.sigmoid(self.twice(self.twice(y) + 1.0))
            return self.head(y.mean([2, 3]))

    model = Plain()
    layers = ("inner.0", "twice", "head")
    assert (
        plan_grids(trace_float(task, model), model, "onnxruntime", layers, "residual").outputs == {}
    )
    # what a layer that runs twice puts out has no one name
    assert plan_grids(trace_float(task, model), model, "onnxruntime", layers, "all").outputs == {}
