"""Each operator in an ONNX file of our own answers as Paddle's executor does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from tests.networks.converted import Function, check, integers, random

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
