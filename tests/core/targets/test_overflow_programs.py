"""Layers of Paddle programs: what Paddle Inference makes of their data and weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from paddle import nn
from paddle.static import InputSpec

from core.errors import ExportError
from core.export.int8.paddle_writer import quantize_program
from core.graph.batch_norm_folding import fold_batch_norms
from core.graph.program import Graph
from core.graph.trace import trace
from core.quant.scales import Grid, LayerScales
from core.targets.overflow import check_files, check_program
from core.targets.pair_sums import HALVED, LARGEST, LayerCheck, Verdict
from tests.core.targets.run_capped import CAPPED, run_capped
from tests.networks.one_program import Builder

SHAPE = (4, 3, 3)
ONE = np.ones((2, 4, 1, 1), np.int8)


def filters(first: int, second: int, third: int = 0) -> np.ndarray:
    """Return weights of two channels that are alike: 1x1, four inputs."""
    steps = np.zeros((2, 4, 1, 1), np.int8)
    steps[:, :3, 0, 0] = first, second, third
    return steps


def behind(make: Builder, data: str, steps: np.ndarray, absmax: float = 6.0) -> LayerCheck:
    """Check the convolution that reads a tensor on a grid."""
    out = make.convolution(make.rounded(data, absmax), make.weight(steps))
    return check_program(make.graph(out))[-1]


@pytest.mark.parametrize(
    ("steps", "verdict", "total"),
    [
        (filters(127, 1), Verdict.EXACT, 255 * 128),
        (filters(127, 2), Verdict.OVERFLOW, 255 * 129),
        (filters(-127, -1, 100), Verdict.EXACT, -255 * 128),
        (filters(64, 64), Verdict.OVERFLOW, 255 * 254),  # its largest magnitude becomes 127
        (filters(64, -64), Verdict.EXACT, 32385),
        (filters(100, 0, -3), Verdict.ROUNDED, 32385),
        (filters(0, 0), Verdict.EXACT, 0),
    ],
)
def test_weights_behind_a_relu_fill_the_grid(
    steps: np.ndarray, verdict: Verdict, total: int
) -> None:
    make = Builder(*SHAPE)
    check = behind(make, make.unary("relu"), steps)
    assert (check.layer, check.kind, check.patch) == ("w", "conv2d", (4, 1, 1))
    assert (check.lowest, check.highest) == (0, 255)
    assert (check.pair.total, check.verdict) == (total, verdict)


@pytest.mark.parametrize(
    ("steps", "verdict", "total", "reason"),
    [
        (filters(127, 127), Verdict.ROUNDED, 255 * 128, LARGEST),
        (filters(-127, -127), Verdict.ROUNDED, -255 * 128, LARGEST),
        (filters(127, -60, 2), Verdict.ROUNDED, 255 * 65, LARGEST),
        (filters(127, -61, 2), Verdict.ROUNDED, 255 * 65, HALVED),
        (filters(126, 2), Verdict.ROUNDED, 255 * 65, HALVED),  # 63.5 becomes 64 in any case
        (filters(0, 0), Verdict.EXACT, 0, ""),
    ],
)
def test_weights_of_signed_data_are_halved(
    steps: np.ndarray, verdict: Verdict, total: int, reason: str
) -> None:
    check = behind(Builder(*SHAPE), "x", steps)
    assert (check.pair.total, check.verdict, check.reason) == (total, verdict, reason)


def conv(make: Builder, source: str) -> str:
    return make.convolution(
        make.rounded(source, 10.0), make.weight(np.ones((4, 4, 1, 1), np.int8), name="v")
    )


def biased(make: Builder, source: str) -> str:
    bias = make.constant("bias", np.zeros(4, np.float32))
    return make.add("elementwise_add", {"X": conv(make, source), "Y": bias}, SHAPE, axis=1)


def pooled(make: Builder, source: str) -> str:
    sizes = {"ksize": [1, 1], "strides": [1, 1], "paddings": [0, 0]}
    return make.unary("pool2d", source, pooling_type="max", **sizes)


def on_grid(make: Builder, source: str) -> str:
    make.rounded(source, 10.0)
    return source


SIGNS: dict[str, tuple[Callable[[Builder], str], bool]] = {
    "image": (lambda make: "x", False),
    "relu": (lambda make: make.unary("relu"), True),
    "relu6 alone": (lambda make: make.unary("relu6"), False),
    "relu6 of a convolution": (lambda make: make.unary("relu6", conv(make, "x")), True),
    "relu6 of a bias": (lambda make: make.unary("relu6", biased(make, "x")), True),
    "relu6 of a convolution on a grid": (
        lambda make: make.unary("relu6", make.rounded(conv(make, "x"), 10.0)),
        True,
    ),
    "relu6 of a sum": (
        lambda make: make.unary(
            "relu6", make.add("elementwise_add", {"X": conv(make, "x"), "Y": "x"}, SHAPE)
        ),
        False,
    ),
    "hard_swish of a convolution": (lambda make: make.unary("hard_swish", conv(make, "x")), False),
    "sigmoid": (lambda make: make.unary("sigmoid"), False),
    "pool of a relu": (lambda make: pooled(make, make.unary("relu")), False),
    "pool of a relu on a grid": (
        lambda make: pooled(make, on_grid(make, make.unary("relu"))),
        True,
    ),
    "pool of what is dequantized": (
        lambda make: pooled(make, make.rounded(make.unary("relu"), 10.0)),
        True,
    ),
    "pool, on a grid, of a sigmoid": (
        lambda make: pooled(make, on_grid(make, make.unary("sigmoid"))),
        False,
    ),
    "scale of a relu on a grid": (
        lambda make: make.unary("scale", on_grid(make, make.unary("relu")), scale=1.0, bias=0.0),
        False,
    ),
    "dropout of a relu": (
        lambda make: make.unary(
            "dropout",
            make.unary("relu"),
            dropout_prob=0.5,
            is_test=True,
            dropout_implementation="upscale_in_train",
        ),
        True,
    ),
}


@pytest.mark.parametrize("name", SIGNS)
def test_who_takes_the_sign_away(name: str) -> None:
    """Unsigned data overflows with 127 and 2; of signed data the weights halved."""
    build, unsigned = SIGNS[name]
    make = Builder(*SHAPE)
    check = behind(make, build(make), filters(127, 2))
    assert check.verdict is (Verdict.OVERFLOW if unsigned else Verdict.ROUNDED)


def test_a_relu6_bounds_the_steps() -> None:
    make = Builder(*SHAPE)
    check = behind(make, make.unary("relu6", conv(make, "x"), threshold=6.0), filters(127, 3), 12.0)
    assert (check.highest, check.verdict) == (128, Verdict.EXACT)


@pytest.mark.parametrize(
    ("shape", "groups", "reason"),
    [((4, 1, 3, 3), 4, "depthwise"), ((8, 1, 3, 3), 4, ""), ((4, 2, 3, 3), 2, "")],
)
def test_depthwise_convolutions_alone_are_exempt(
    shape: tuple[int, ...], groups: int, reason: str
) -> None:
    for relu in (True, False):
        make = Builder(*SHAPE)
        data = make.rounded(make.unary("relu") if relu else "x", 10.0)
        weight = make.weight(np.full(shape, 127, np.int8))
        out = make.convolution(data, weight, groups, "depthwise_conv2d")
        (check,) = check_program(make.graph(out))
        verdict = Verdict.ROUNDED if not relu else Verdict.EXACT if reason else Verdict.OVERFLOW
        assert check.verdict is verdict
        assert check.reason == (reason if relu else LARGEST)


def test_scales_count_where_a_channel_has_several() -> None:
    """One scale of all, one of each input channel, and weights that are rounded when loaded."""
    make = Builder(*SHAPE)
    data = make.rounded(make.unary("relu"), 10.0)
    one = make.linear(
        "dequantize_linear", make.constant("a", filters(126, 1)), [3.0], -1, "float32"
    )
    first = make.convolution(data, one)
    ends = [127.0, 254.0, 127.0, 127.0]
    inputs = make.linear(
        "dequantize_linear", make.constant("b", filters(100, 50)), ends, 1, "float32"
    )
    second = make.convolution(data, inputs)
    stored = make.constant("c", filters(127, 1).astype(np.float32) / 127)
    steps = make.linear("quantize_linear", stored, [1.0, 1.0], 0, "int8")
    third = make.convolution(
        data, make.linear("dequantize_linear", steps, [1.0, 1.0], 0, "float32")
    )
    graph = make.graph(third)
    graph.outputs += [first, second]
    checks = check_program(graph)
    assert [check.layer for check in checks] == ["a", "b", "c"]
    assert [check.pair.total // 255 for check in checks] == [128, 254, 128]
    assert [check.verdict for check in checks] == [Verdict.ROUNDED, Verdict.OVERFLOW, Verdict.EXACT]


class Net(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 3)
        self.depth = nn.Conv2D(8, 8, 3, groups=8)
        self.up = nn.Conv2DTranspose(8, 4, 2, stride=2)
        self.pool = nn.AdaptiveAvgPool2D(1)
        self.fc = nn.Linear(4, 5)

    def forward(self, image):
        x = nn.functional.relu(self.stem(image))
        return {"out": self.fc(self.pool(self.up(self.depth(x))).flatten(1))}


def test_layers_of_our_own_files(tmp_path: Path) -> None:
    graph = Graph.from_trace(trace(Net(), [InputSpec([None, 3, 16, 16], "float32", "image")]))
    fold_batch_norms(graph)
    float_files = tmp_path / "float.pdmodel", tmp_path / "float.pdiparams"
    graph.write(*float_files)
    assert check_files(float_files) == ()
    names = ("stem.weight", "depth.weight", "up.weight", "fc.weight")
    table = [LayerScales(name, Grid(2.0, signed=name != "depth.weight")) for name in names]
    quantize_program(graph, table).write(tmp_path / "model.pdmodel", tmp_path / "model.pdiparams")
    checks = check_files((tmp_path / "model.pdmodel", tmp_path / "model.pdiparams"))
    found = {check.layer: (check.verdict, check.reason) for check in checks}
    assert list(found) == list(names)
    assert found["stem.weight"] == (Verdict.ROUNDED, HALVED)
    assert found["depth.weight"] == (Verdict.EXACT, "depthwise")
    assert found["up.weight"] == (Verdict.EXACT, "computed in float")
    assert found["fc.weight"] == (Verdict.ROUNDED, HALVED)


def test_broken_programs_are_named(tmp_path: Path) -> None:
    files = tmp_path / "model.pdmodel", tmp_path / "model.pdiparams"
    make = Builder(*SHAPE)
    make.graph(make.convolution(make.rounded("x", 1.0), make.weight(ONE))).write(*files)
    files[1].write_bytes(files[1].read_bytes()[:-3])
    with pytest.raises(ExportError, match=r"model\.pdiparams: does not hold the weights"):
        check_files(files)
    files[0].write_bytes(b"no program")
    with pytest.raises(ExportError, match=r"model\.pdmodel: not a program"):
        check_files(files)


# What Paddle Inference does


def drawn(rng: np.random.Generator) -> tuple[np.ndarray, int, bool, bool]:
    """Draw a convolution.

    Returns:
        Weights; the number of groups; whether a ReLU is in front; whether the data to feed is that
        of the largest pair, which then is of neighbouring inputs, or shows all weights.
    """
    groups, shape = [(1, (8, 8)), (8, (8, 1)), (2, (8, 4))][int(rng.integers(3))]
    size = int(rng.choice((1, 3)))
    relu, paired = bool(rng.integers(2)), bool(rng.integers(2))
    # ties are decided by the last bit of a float: with 127 there is none, nor in 101 stretched
    largest = int(rng.choice((127, 101))) if relu else 127
    sign = int(rng.choice((-1, 1)))
    steps = np.zeros((*shape, size, size), np.int64)
    if not paired and rng.integers(2):
        steps = rng.integers(-largest, largest + 1, steps.shape)
    elif shape[1] > 1:
        steps[:, 1, 0, 0] = sign * rng.integers(0, 5, len(steps))
    steps[:, 0, 0, 0] = sign * largest
    return steps.astype(np.int8), groups, relu, paired


def again(steps: np.ndarray, highest: float) -> np.ndarray:
    """Round weights as the runtime does, half to even, on a grid that ends at their largest."""
    largest = np.abs(steps.astype(np.float64)).max(axis=(1, 2, 3), keepdims=True)
    return np.rint(steps * (highest / largest)) * largest / highest


def test_paddle_inference_does_what_the_verdict_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = []
    for number in range(48):
        steps, groups, relu, paired = drawn(rng)
        make = Builder(groups * steps.shape[1], *steps.shape[2:])
        absmax = 255.0 if relu else 127.0
        data = make.rounded(make.unary("relu") if relu else "x", absmax)
        graph = make.graph(make.convolution(data, make.weight(steps), groups))
        (check,) = check_program(graph)
        patch = check.witness().astype(np.int64)
        if not paired:
            patch = rng.integers(check.lowest, check.highest + 1, patch.shape)
        patch = np.broadcast_to(patch, (groups, *patch.shape)) - (0 if relu else 128)
        stem = tmp_path / f"{number:02d}"
        stem.mkdir()
        graph.write(stem / "model.pdmodel", stem / "model.pdiparams")
        values = patch.reshape(1, -1, *patch.shape[2:]).astype(np.float32)
        np.save(stem.with_suffix(".npy"), values)
        rows = [
            np.einsum("gn,gon->go", patch.reshape(groups, -1), w.reshape(groups, -1, patch[0].size))
            for w in (steps.astype(np.float64), again(steps, 127 if relu else 63.5))
        ]
        cases.append((check, paired, rows[0].ravel(), rows[1].ravel()))
    assert run_capped("paddle", tmp_path) == ("saturating" if CAPPED else "exact")
    seen = Counter(check.verdict for check, *_ in cases)
    assert min(seen.values()) > 5
    assert len(seen) == 3
    for number, (check, paired, stored, computed) in enumerate(cases):
        found = np.load(tmp_path / f"{number:02d}.out.npy").ravel()
        fits = np.abs(found - computed).max() <= 1e-5 * np.abs(computed).max()
        if CAPPED and check.verdict is not Verdict.OVERFLOW:
            assert fits, check
        elif CAPPED and paired:
            assert not fits, check
        if check.verdict is Verdict.EXACT:
            assert np.abs(stored - computed).max() <= 1e-9 * np.abs(stored).max()
        if check.verdict is Verdict.ROUNDED and not paired:
            assert np.abs(stored - computed).max() > 1e-5 * np.abs(stored).max()
