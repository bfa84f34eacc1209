"""Additions that Paddle Inference computes together with an int8 convolution, and those apart.

All grids and weights are powers of two apart, so that every sum is exact whatever its order: the
file must answer as the model that was trained on the target's grids, to the last bit or nearly so.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor, nn
from paddle.nn import Layer

from core.export.package import export
from core.graph.program import Graph
from core.quant.apply import apply_quantization
from core.quant.grid_plan import plan_grids, trace_float
from core.quant.layers import quantized_layers
from core.quant.outputs import rounded_outputs
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.quant.sites import sites_of
from core.runtimes.predictor import load_predictor
from core.targets.instructions import multiplies_int8_exactly
from core.targets.names import Processors, RoundedOutputs
from core.targets.processors import largest_of_even
from core.task import Task, build_task

pytestmark = pytest.mark.int8

STEP = 2.0**-5  # of activations
WEIGHT_STEP = 2.0**-7


def conv(channels: int = 8, size: int = 1, **rest: Any) -> nn.Conv2D:
    return nn.Conv2D(channels, 8, size, padding=size // 2, **rest)


class Net(Layer):
    """What stands in front of all: a convolution of the image, with a ReLU."""

    finer = ""  # a layer whose grid has half the step of the others

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = conv(3), nn.ReLU()
        self.first, self.second, self.last = conv(size=3), conv(), conv()

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.block(self.act(self.stem(image))))

    def block(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Basic(Net):
    """A ReLU in front, a ReLU behind."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.end = nn.ReLU(), nn.ReLU()

    def block(self, x: Tensor) -> Tensor:
        return self.end(self.second(self.inner(self.first(x))) + x)


class Six(Basic):
    """The same with ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.inner, self.end = nn.ReLU6(), nn.ReLU6(), nn.ReLU6()


class Bottleneck(Net):
    """Linear: nothing is clipped in front of the addition, nothing behind."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Identity()

    def block(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class Depthwise(Bottleneck):
    """The same with a depthwise convolution in front of the addition."""

    def __init__(self) -> None:
        super().__init__()
        self.second = conv(size=3, groups=8)


class Twice(Basic):
    """Two additions one after another; what the first makes goes on to the second."""

    def __init__(self) -> None:
        super().__init__()
        self.third, self.again = conv(), nn.ReLU()

    def block(self, x: Tensor) -> Tensor:
        y = super().block(x)
        return self.again(self.third(y) + y)


class Pooled(Twice):
    """What the first addition makes is read by pooling, too, which computes in float."""

    def block(self, x: Tensor) -> Tensor:
        y = Basic.block(self, x)
        return self.again(self.third(y) + y) + F.avg_pool2d(y, 3, 1, 1)


class Signed(Basic):
    """What is added has a sign, what comes out has none."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Identity()


class Shortcut(Basic):
    """Both operands are what convolutions make."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut = conv()

    def block(self, x: Tensor) -> Tensor:
        return self.end(self.second(self.inner(self.first(x))) + self.shortcut(x))


class Floats(Basic):
    """What is added is made in float, and read in float, too."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.ReLU()

    def forward(self, image: Tensor) -> Tensor:
        x = self.act(self.stem(image))
        x = self.gate(x * 0.75 + x * x)
        return F.relu(self.last(self.block(x))) + F.avg_pool2d(x, 3, 1, 1)


class Repeated(Basic):
    """What is added is read by a layer that runs twice, so on a grid of its own."""

    finer = "first"

    def block(self, x: Tensor) -> Tensor:
        return self.first(super().block(x))


class Vector(Basic):
    """An addition of a vector to a map."""

    def block(self, x: Tensor) -> Tensor:
        return self.end(self.second(self.inner(self.first(x))) + x.max([2, 3], keepdim=True))


class Ending(Basic):
    """The addition is the last that is computed."""

    def forward(self, image: Tensor) -> Tensor:
        return self.block(self.act(self.stem(image)))


# what is rounded for all, and how many additions are computed apart
CASES = {
    Basic: ({"act"}, 0),
    Six: ({"act"}, 0),
    Bottleneck: ({"stem"}, 0),
    Depthwise: ({"stem"}, 0),
    Twice: ({"act", "end"}, 0),
    Pooled: ({"act", "end"}, 1),
    Signed: (set(), 1),
    Shortcut: (set(), 1),
    Floats: (set(), 1),
    Repeated: (set(), 1),
    Vector: (set(), 0),
    Ending: (set(), 1),
}
# the same where files are right on any processor: with a sign everywhere, no signs differ
SIGNED = CASES | {Signed: ({"stem"}, 0)}


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})


def image() -> np.ndarray:
    return np.random.default_rng(1).random((2, 3, 8, 8), np.float32) * 2 - 1


def exact(
    kind: type[Net],
    task: Task,
    outputs: RoundedOutputs | None = None,
    processors: Processors = "any",
) -> Layer:
    """Quantize a net for Paddle Inference, on grids that make all sums exact."""
    paddle.seed(0)
    rng = np.random.default_rng(0)
    model, how = kind(), Rounding(activation_type="fixed", processors=processors)
    model.eval()
    choice = select_layers(model, how, ("Conv2D",), ())
    layout = plan_grids(
        trace_float(task, model), model, "paddle", choice.layers, outputs, processors=processors
    )
    apply_quantization(model, choice, how, [[paddle.to_tensor(image())]], "abs_max", layout)
    for layer in quantized_layers(model).values():
        steps = 2 * rng.integers(-20, 21, layer.weight.shape)
        # the end of every channel's grid
        steps[:, 0, 0, 0] = 128 if processors == "any" else 127
        layer.largest = largest_of_even(processors)
        layer.weight.set_value((steps * WEIGHT_STEP).astype("float32"))
        layer.bias.set_value((rng.integers(-64, 64, 8) * STEP).astype("float32"))
    for path, part in sites_of(model).items():
        quantizer = getattr(part, "input_quantizer", part)
        step = STEP / 2 if path == kind.finer else STEP
        quantizer.absmax.set_value(np.float32([step * (127 if quantizer.signed else 255)]))
    return model


@pytest.mark.parametrize("processors", ["any", "vnni"])
@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_the_file_answers_as_the_model_was_trained(
    kind: type[Net], processors: Processors, task: Task, tmp_path: Path
) -> None:
    rounded, apart = (SIGNED if processors == "any" else CASES)[kind]
    model = exact(kind, task, processors=processors)
    assert set(rounded_outputs(model)) == rounded
    folder = export(task, model, tmp_path / "out", ("paddle",)).folder
    kinds = Counter(op.type for op in Graph.from_files(*files(folder)).operators)
    assert kinds["sum"] == apart
    if processors == "vnni" and not multiplies_int8_exactly("paddle"):
        return  # the export has compared what the file says; Paddle Inference overflows
    (found,) = load_predictor(folder, own=True).run(image()).values()
    wanted = model(paddle.to_tensor(image())).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def files(folder: Path) -> tuple[Path, Path]:
    return folder / "model.pdmodel", folder / "model.pdiparams"
