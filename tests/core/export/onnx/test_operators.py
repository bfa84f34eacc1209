"""Each operator in an ONNX file of our own answers as Paddle's executor does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from tests.networks.converted import (
    answers_of_file,
    answers_of_program,
    assert_same,
    graph_of,
    own_file,
)

Function = Callable[..., Any]


def random(*shape: int, low: float = -3.0, high: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(sum(shape) + len(shape))
    return rng.uniform(low, high, shape).astype(np.float32)


def integers(*shape: int, low: int = -9, high: int = 9, dtype: str = "int64") -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, shape).astype(dtype)


def check(
    function: Function | nn.Layer,
    *arrays: np.ndarray,
    free: Sequence[int] = (0,),
    kinds: Sequence[str] = (),
    opset: int = 13,
) -> None:
    """Compare both, for the batch that is given and for another one.

    Args:
        function: To trace.
        arrays: Its inputs.
        free: Axes of free sizes.
        kinds: Operators of Paddle that must be among those that are tested.
        opset: Of the file.
    """
    graph = graph_of(function, arrays, free)
    assert set(kinds) <= {op.type for op in graph.operators}
    file = own_file(graph, opset)
    batches = [arrays]
    if 0 in free:
        batches.append(
            [np.concatenate([each, each[::-1]]) if each.ndim else each for each in arrays]
        )
    for batch in batches:
        assert_same(answers_of_file(file, graph, batch), answers_of_program(graph, batch))


X = random(2, 4, 5, 6)
POSITIVE = random(2, 4, 5, 6, low=0.1, high=4.0)

ACTIVATIONS: dict[str, Function] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 0.7),
    "celu": lambda x: F.celu(x, 0.7),
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu approximate": lambda x: F.gelu(x, approximate=True),
    "mish": F.mish,
    "silu": F.silu,
    "swish": F.swish,
    "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid,
    "hard_sigmoid told": lambda x: F.hardsigmoid(x, slope=0.3, offset=0.4),
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "brelu": lambda x: F.hardtanh(x, -1.5, 2.0),
    "softplus": lambda x: F.softplus(x * 20, beta=2.0, threshold=15),
    "softsign": F.softsign,
    "tanh_shrink": F.tanhshrink,
    "hard_shrink": lambda x: F.hardshrink(x, 0.8),
    "softshrink": lambda x: F.softshrink(x, 0.8),
    "thresholded_relu": lambda x: F.thresholded_relu(x, 0.8),
    "log_softmax": lambda x: F.log_softmax(x, axis=1),
    "softmax": lambda x: F.softmax(x, axis=-2),
    "softmax last": F.softmax,
    "exp": paddle.exp,
    "abs": paddle.abs,
    "floor": paddle.floor,
    "ceil": paddle.ceil,
    "sign": paddle.sign,
    "sin": paddle.sin,
    "cos": paddle.cos,
    "erf": paddle.erf,
    "square": paddle.square,
    "round": lambda x: paddle.round(paddle.round(x * 2) / 2),  # halves are among them
    "atan": paddle.atan,
    "sinh": paddle.sinh,
    "cosh": paddle.cosh,
    "dropout": lambda x: F.dropout(x, 0.3, training=False),
    "dropout downscaled": lambda x: F.dropout(x, 0.3, training=False, mode="downscale_in_infer"),
    "clip": lambda x: paddle.clip(x, -0.5, 1.5),
    "clip low": lambda x: paddle.clip(x, min=-0.5),
    "scale": lambda x: paddle.scale(x, 2.5, 1.5),
    "scale before": lambda x: paddle.scale(x, 2.5, 1.5, bias_after_scale=False),
    "scale nothing": lambda x: paddle.scale(x, 1.0, 0.0),
    "prelu one": lambda x: F.prelu(x, paddle.full([1], 0.3)),
    "prelu channels": lambda x: F.prelu(x, paddle.to_tensor([0.1, 0.2, 0.3, 0.4])),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    check(ACTIVATIONS[name], X)


POSITIVES: dict[str, Function] = {
    "log": paddle.log,
    "log2": paddle.log2,
    "log10": paddle.log10,
    "log1p": paddle.log1p,
    "sqrt": paddle.sqrt,
    "rsqrt": paddle.rsqrt,
    "reciprocal": paddle.reciprocal,
    "pow": lambda x: paddle.pow(x, 1.7),
    "pow tensors": lambda x: paddle.pow(x, paddle.abs(x)),
}


@pytest.mark.parametrize("name", POSITIVES)
def test_functions_of_positive_numbers(name: str) -> None:
    check(POSITIVES[name], POSITIVE)


@pytest.mark.parametrize("opset", [13, 14, 17, 18])
def test_newer_opsets(opset: int) -> None:
    check(lambda x: F.hardswish(x).mean([2, 3]), X, opset=opset)
    check(lambda x: paddle.split(x, 2, axis=1)[0].max(-1), X, opset=opset)
    check(nn.LayerNorm([6]), X, opset=opset)


COMBINATIONS: dict[str, Function] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "max": paddle.maximum,
    "min": paddle.minimum,
    "mod": lambda x, y: x % y,
    "floordiv": lambda x, y: x // y,
    "equal": lambda x, y: paddle.equal(paddle.round(x), paddle.round(y)),
    "not_equal": lambda x, y: paddle.not_equal(paddle.round(x), paddle.round(y)),
    "less": paddle.less_than,
    "less_equal": paddle.less_equal,
    "greater": paddle.greater_than,
    "greater_equal": paddle.greater_equal,
    "logical": lambda x, y: paddle.logical_or(
        paddle.logical_and(x > 0, y > 0), paddle.logical_not(paddle.logical_xor(x > 1, y > 1))
    ),
    "where": lambda x, y: paddle.where(x > y, x, y),
    "sum": lambda x, y: paddle.add_n([x, y, x]),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combinations(name: str) -> None:
    y = random(2, 4, 5, 6, low=0.5, high=3.0) * np.sign(random(2, 4, 5, 6, low=-1, high=2))
    check(COMBINATIONS[name], X, y)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "max", "mod", "floordiv", "equal"])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_combinations_of_integers(name: str, dtype: str) -> None:
    plain = {**COMBINATIONS, "equal": paddle.equal}
    y = integers(3, 4, low=1, dtype=dtype) * np.array([1, -1, 1, -1], dtype)
    check(plain[name], integers(3, 4, dtype=dtype), y)


def randomized(layer: nn.Layer) -> nn.Layer:
    """Give a layer weights, biases, means and positive variances that all matter."""
    rng = np.random.default_rng(0)
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        values = rng.uniform(-1, 1, tensor.shape)
        tensor.set_value((np.abs(values) + 0.5 if "variance" in name else values).astype("float32"))
    return layer


LAYERS: dict[str, tuple[Callable[[], nn.Layer], np.ndarray]] = {
    "conv": (lambda: nn.Conv2D(4, 6, 3, padding=1), X),
    "conv strides": (lambda: nn.Conv2D(4, 6, (2, 3), stride=(2, 1), dilation=(1, 2)), X),
    "conv sides": (lambda: nn.Conv2D(4, 6, 3, padding=[0, 2, 1, 1]), X),
    "conv same": (lambda: nn.Conv2D(4, 6, (2, 3), stride=2, padding="SAME"), X),
    "conv valid": (lambda: nn.Conv2D(4, 6, 3, padding="VALID"), X),
    "conv groups": (lambda: nn.Conv2D(4, 6, 3, groups=2, bias_attr=False), X),
    "conv last": (lambda: nn.Conv2D(6, 4, 3, padding=1, data_format="NHWC"), X),
    "depthwise": (lambda: nn.Conv2D(4, 8, 3, groups=4), X),
    "conv 1": (lambda: nn.Conv1D(4, 6, 3, padding=1), random(2, 4, 9)),
    "conv 3": (lambda: nn.Conv3D(2, 3, 2, padding=1), random(2, 2, 4, 5, 6)),
    "transposed": (lambda: nn.Conv2DTranspose(4, 6, 3, stride=2, padding=1), X),
    "transposed more": (
        lambda: nn.Conv2DTranspose(4, 6, 3, stride=2, padding=1, output_padding=1),
        X,
    ),
    "transposed groups": (lambda: nn.Conv2DTranspose(4, 6, 2, groups=2, dilation=2), X),
    "transposed depthwise": (lambda: nn.Conv2DTranspose(4, 4, 4, stride=2, groups=4), X),
    "batch norm": (lambda: nn.BatchNorm2D(4, epsilon=1e-3), X),
    "batch norm of vectors": (lambda: nn.BatchNorm1D(7), random(5, 7)),
    "batch norm last": (lambda: nn.BatchNorm2D(6, data_format="NHWC"), X),
    "layer norm": (lambda: nn.LayerNorm([6]), X),
    "layer norm of maps": (lambda: nn.LayerNorm([4, 5, 6], epsilon=1e-3), X),
    "layer norm alone": (lambda: nn.LayerNorm([6], weight_attr=False, bias_attr=False), X),
    "instance norm": (lambda: nn.InstanceNorm2D(4), X),
    "instance norm alone": (lambda: nn.InstanceNorm2D(4, weight_attr=False, bias_attr=False), X),
    "group norm": (lambda: nn.GroupNorm(2, 4), X),
    "linear": (lambda: nn.Linear(6, 3), X),
    "embedding": (lambda: nn.Embedding(9, 5), integers(2, 3, low=0)),
    "prelu": (lambda: nn.PReLU(4), X),
    "flatten": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(120, 3)), X),
    "bilinear upsampling": (lambda: nn.UpsamplingBilinear2D(scale_factor=2), X),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    build, array = LAYERS[name]
    check(randomized(build()), array)


FREE_LAYERS = [
    *("conv", "conv strides", "conv same", "depthwise", "transposed", "transposed more"),
    *("batch norm", "instance norm", "group norm", "prelu", "conv last", "bilinear upsampling"),
]


@pytest.mark.parametrize("name", FREE_LAYERS)
def test_layers_of_maps_of_any_size(name: str) -> None:
    build, array = LAYERS[name]
    free = (0, 1, 2) if "last" in name else (0, 2, 3)
    check(randomized(build()), array, free=free)


POOLS: dict[str, Function] = {
    "max": lambda x: F.max_pool2d(x, 2),
    "max padded": lambda x: F.max_pool2d(x, 3, 2, padding=1),
    "max sides": lambda x: F.max_pool2d(x, (2, 3), 1, padding=[1, 0, 1, 2]),
    "max ceil": lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    "max ceil padded": lambda x: F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True),
    "max same": lambda x: F.max_pool2d(x, (2, 3), 2, padding="SAME"),
    "max last": lambda x: F.max_pool2d(x, 2, 2, data_format="NHWC"),
    "mean": lambda x: F.avg_pool2d(x, 2),
    "mean padded": lambda x: F.avg_pool2d(x, 3, 2, padding=1),
    "mean inclusive": lambda x: F.avg_pool2d(x, 3, 2, padding=1, exclusive=False),
    "mean ceil": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    "mean ceil padded": lambda x: F.avg_pool2d(x, 3, 2, padding=1, ceil_mode=True),
    "mean ceil inclusive": lambda x: F.avg_pool2d(
        x, 3, 2, padding=1, ceil_mode=True, exclusive=False
    ),
    "mean same": lambda x: F.avg_pool2d(x, (2, 3), 2, padding="SAME"),
    "mean valid": lambda x: F.avg_pool2d(x, 2, 2, padding="VALID"),
    "global": lambda x: F.adaptive_avg_pool2d(x, 1),
    "global max": lambda x: F.adaptive_max_pool2d(x, 1),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (5, 3)),
    "adaptive uneven": lambda x: F.adaptive_avg_pool2d(x, (2, 4)),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, (5, 2)),
    "adaptive max uneven": lambda x: F.adaptive_max_pool2d(x, (3, 4)),
    "one axis": lambda x: F.avg_pool1d(x.flatten(2), 3, 2),
    "one axis max": lambda x: F.max_pool1d(x.flatten(2), 3, 2, padding=1),
}


@pytest.mark.parametrize("name", POOLS)
def test_pooling(name: str) -> None:
    check(POOLS[name], X)


@pytest.mark.parametrize(
    "name",
    [
        "max padded",
        "mean padded",
        "mean inclusive",
        "max ceil",
        "mean ceil padded",
        "global",
        "adaptive",
        "adaptive uneven",
        "max last",
    ],
)
def test_pooling_of_maps_of_any_size(name: str) -> None:
    check(POOLS[name], X, free=(0, 1, 2) if "last" in name else (0, 2, 3))


SHAPES: dict[str, Function] = {
    "reshape": lambda x: x.reshape([-1, 20, 6]),
    "reshape copies": lambda x: x.reshape([0, 0, 30]),
    "flatten": lambda x: x.flatten(1),
    "flatten middle": lambda x: x.flatten(1, 2),
    "flatten all": lambda x: x.flatten(),
    "transpose": lambda x: x.transpose([0, 3, 1, 2]),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "squeeze nothing": lambda x: x.squeeze([2]),
    "unsqueeze": lambda x: x.unsqueeze([1, -1]),
    "expand": lambda x: x[:, :1].expand([-1, 3, 5, 6]),
    "expand wider": lambda x: paddle.mean(x, 0).expand([2, 3, 4, 5, 6]),
    "expand as": lambda x: x[:, :1].expand_as(x),
    "tile": lambda x: paddle.tile(x, [1, 2, 1, 3]),
    "tile short": lambda x: paddle.tile(x, [2]),
    "tile long": lambda x: paddle.tile(x, [2, 1, 1, 1, 2]),
    "concat": lambda x: paddle.concat([x, x * 2], axis=-1),
    "split": lambda x: paddle.split(x, 2, axis=1)[1],
    "split sections": lambda x: paddle.split(x, [2, -1, 1], axis=2),
    "chunk": lambda x: paddle.chunk(x, 3, axis=-1),
    "stack": lambda x: paddle.stack([x, x + 1], axis=-1),
    "unstack": lambda x: paddle.unstack(x, axis=1),
    "unbind": lambda x: paddle.unbind(x, axis=2),
    "slice": lambda x: x[:, 1:3, -2:],
    "slice one": lambda x: x[:, 2],
    "slice to scalar": lambda x: x.mean(0)[1, 2, 3],
    "strided": lambda x: x[:, ::2, 1::3],
    "backward": lambda x: x[:, ::-1, 3:0:-2],
    "assigned": lambda x: assigned(x, (slice(None), slice(1, 3)), 2.0),
    "assigned tensor": lambda x: assigned(x, (slice(None), 1), x[:, 0] * 2),
    "assigned steps": lambda x: assigned(x, (slice(None), slice(0, 4, 2)), x[:, 1:3] * 2),
    "assigned corner": lambda x: assigned(
        x, (slice(None), slice(None), slice(-2, None), slice(None, 3)), x[:, :, :2, 3:]
    ),
    "roll": lambda x: paddle.roll(x, [1, -2], [2, 3]),
    "roll flat": lambda x: paddle.roll(x, 3),
    "flip": lambda x: paddle.flip(x, [1, 3]),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x[:, :, :4], 2),
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "unfold": lambda x: F.unfold(x, [2, 3], strides=2, paddings=1),
    "fold": lambda x: F.fold(F.unfold(x, 2, strides=1), [5, 6], 2, strides=1),
    "fold apart": lambda x: F.fold(F.unfold(x, 2, strides=2), [5, 6], 2, strides=2),
    "shape": lambda x: x * paddle.shape(x)[0].astype("float32"),
    "zeros like": lambda x: x + paddle.full_like(x, 2.5),
    "cast": lambda x: x.astype("int32"),
    "cast bool": lambda x: (x > 0).astype("float32"),
    "gather": lambda x: paddle.gather(x, paddle.to_tensor([3, 0]), axis=1),
    "index select": lambda x: paddle.index_select(x, paddle.to_tensor([3, 0]), axis=2),
    "take along": lambda x: paddle.take_along_axis(x, paddle.argsort(x, -1), -1),
    "nonzero rows": lambda x: paddle.where(x > 1, x, paddle.zeros_like(x)),
    "meshgrid": lambda x: paddle.meshgrid(x.mean([0, 2, 3]), x.mean([0, 1, 2])),
    "one hot": lambda x: F.one_hot(x.argmax(-1), 6),
    "tril": lambda x: paddle.tril(x, -1),
    "triu": lambda x: paddle.triu(x, 1),
    "arange": lambda x: x + paddle.arange(6).astype("float32"),
}


def assigned(x: paddle.Tensor, place: Any, value: Any) -> paddle.Tensor:
    made = x * 1.0
    made[place] = value
    return made


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    check(SHAPES[name], X)


REDUCTIONS: dict[str, Function] = {
    "mean": lambda x: x.mean([2, 3]),
    "mean kept": lambda x: x.mean([-1], keepdim=True),
    "mean all": paddle.mean,
    "sum": lambda x: x.sum(1),
    "max": lambda x: x.max([1, 2]),
    "min": lambda x: x.min(-1, keepdim=True),
    "amax": lambda x: paddle.amax(x, 1),
    "prod": lambda x: x.prod(3),
    "any": lambda x: paddle.any(x > 2.8, axis=1),
    "all": lambda x: paddle.all(x > -2, axis=1),
    "logsumexp": lambda x: paddle.logsumexp(x, axis=1),
    "std": lambda x: x.std(1),
    "argmax": lambda x: x.argmax(1),
    "argmax kept": lambda x: x.argmax(1, keepdim=True, dtype="int32"),
    "argmax all": lambda x: x.argmax(),
    "argmin": lambda x: x.argmin(-1),
    "topk": lambda x: paddle.topk(x, 2, axis=1),
    "argsort": lambda x: paddle.argsort(x, axis=1, descending=True),
    "cumsum": lambda x: paddle.cumsum(x, axis=1),
    "norm": lambda x: F.normalize(x, axis=1),
    "norm 1": lambda x: paddle.norm(x, p=1, axis=1),
    "norm 3": lambda x: paddle.norm(x, p=3, axis=1, keepdim=True),
    "norm inf": lambda x: paddle.norm(x, p=np.inf, axis=1),
    "norm all": paddle.norm,
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str) -> None:
    check(REDUCTIONS[name], X)


PRODUCTS: dict[str, Function] = {
    "matmul": lambda x, y: paddle.matmul(x, y, transpose_y=True),
    "matmul x": lambda x, y: paddle.matmul(x, y, transpose_x=True),
    "matmul both": lambda x, y: paddle.matmul(x.transpose([0, 1, 3, 2]), y, True, True),
    "bmm": lambda x, y: paddle.bmm(x[:, 0], y[:, 1].transpose([0, 2, 1])),
    "vector": lambda x, y: paddle.matmul(x, y.mean([0, 1, 2])),
    "mv": lambda x, y: paddle.mv(x[0, 0], y.mean([0, 1, 2])),
    "einsum": lambda x, y: paddle.einsum("bchw,bdhw->bcd", x, y),
    "addmm": lambda x, y: paddle.addmm(x[0, 0, :, :5], x[0, 0], y[0, 0].t(), 0.5, 2.0),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    check(PRODUCTS[name], X, random(2, 4, 5, 6)[:, ::-1] + 0)


PADS: dict[str, Function] = {
    "constant": lambda x: F.pad(x, [1, 2, 0, 3], value=1.5),
    "reflect": lambda x: F.pad(x, [1, 2, 3, 1], mode="reflect"),
    "replicate": lambda x: F.pad(x, [1, 2, 3, 0], mode="replicate"),
    "circular": lambda x: F.pad(x, [1, 2, 3, 0], mode="circular"),
    "last": lambda x: F.pad(x, [1, 2, 3, 0], data_format="NHWC"),
    "every axis": lambda x: F.pad(x, [0, 0, 1, 0, 0, 2, 1, 1], value=2.0),
    "zero": lambda x: F.zeropad2d(x, [1, 0, 2, 1]),
}


@pytest.mark.parametrize("name", PADS)
def test_padding(name: str) -> None:
    check(PADS[name], X)
    if name != "every axis":
        check(PADS[name], X, free=(0, 1, 2) if name == "last" else (0, 2, 3))


RESIZING: dict[str, dict[str, Any]] = {
    "nearest": {"scale_factor": 2},
    "nearest sizes": {"size": [7, 9]},
    "nearest smaller": {"size": [3, 4]},
    "bilinear": {"size": [7, 9], "mode": "bilinear"},
    "bilinear whole": {"size": [10, 18], "mode": "bilinear"},
    "bilinear scale": {"scale_factor": 1.5, "mode": "bilinear"},
    "bilinear aligned": {"size": [7, 9], "mode": "bilinear", "align_corners": True},
    "bilinear corner": {"size": [7, 9], "mode": "bilinear", "align_mode": 1},
    "bilinear smaller": {"size": [2, 3], "mode": "bilinear"},
    "bilinear one": {"size": [1, 1], "mode": "bilinear", "align_corners": True},
    "bicubic": {"size": [7, 9], "mode": "bicubic"},
    "bicubic scale": {"scale_factor": 2, "mode": "bicubic"},
    "bicubic aligned": {"size": [7, 9], "mode": "bicubic", "align_corners": True},
    "last": {"size": [8, 10], "mode": "bilinear", "data_format": "NHWC"},
}


@pytest.mark.parametrize("name", RESIZING)
def test_resizing(name: str) -> None:
    check(lambda x: F.interpolate(x, **RESIZING[name]), X)
    if not name.startswith("nearest s"):
        free = (0, 1, 2) if name == "last" else (0, 2, 3)
        check(lambda x: F.interpolate(x, **RESIZING[name]), X, free=free)


def test_nearest_resizing_between_the_corners() -> None:
    """Older versions of Paddle wrote it."""
    graph = graph_of(lambda x: F.interpolate(x, [10, 12]), [X])
    (resizing,) = (op for op in graph.operators if op.type == "nearest_interp_v2")
    (aligned,) = (each for each in resizing.attrs if each.name == "align_corners")
    aligned.b = True
    found = answers_of_file(own_file(graph), graph, [X])
    assert_same(found, answers_of_program(graph, [X]))


def test_resizing_to_the_size_of_another_map() -> None:
    def function(x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
        return F.interpolate(x, paddle.shape(y)[2:], mode="bilinear")

    check(function, X, random(2, 1, 9, 7), free=(0, 2, 3))
    check(function, X, random(2, 1, 9, 7))


def test_resizing_of_other_ranks() -> None:
    check(lambda x: F.interpolate(x, [7], mode="linear", data_format="NCW"), random(2, 3, 5))
    check(
        lambda x: F.interpolate(x, [4, 5, 7], mode="trilinear", data_format="NCDHW"),
        random(2, 3, 2, 3, 4),
    )


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("mode", ["zeros", "border", "reflection"])
def test_sampling_on_a_grid(mode: str, aligned: bool) -> None:
    options = {"padding_mode": mode, "align_corners": aligned}
    grid = random(2, 3, 4, 2, low=-1.2, high=1.2)
    check(lambda x, y: F.grid_sample(x, y, **options), X, grid)
