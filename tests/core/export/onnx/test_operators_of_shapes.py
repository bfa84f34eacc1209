"""Operators that move, sum up, multiply, pad and resize, in an ONNX file of our own."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from core.export.onnx.convert import convert_to_onnx
from tests.networks.converted import (
    Function,
    answers_of_file,
    answers_of_program,
    assert_same,
    check,
    graph_of,
    random,
)

X = random(2, 4, 5, 6)

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
    found = answers_of_file(convert_to_onnx(graph), graph, [X])
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
