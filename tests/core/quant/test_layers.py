"""Quantized layers compute what Paddle's own do, from rounded inputs and weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from core.quant.apply import apply_quantization
from core.quant.grid_plan import GridPlan
from core.quant.quantizers import Rounding
from core.quant.selection import LayerSelection


def test_the_layers_compute_what_the_formula_says() -> None:
    """Every kind, with the weights and activations rounded in numpy."""
    paddle.seed(0)
    layers = [
        nn.Conv2D(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2D(4, 6, 3, padding="SAME", bias_attr=False),
        nn.Conv2D(4, 6, 3, padding=1, padding_mode="reflect", dilation=1),
        nn.Conv2DTranspose(4, 6, 3, stride=2, padding=1, output_padding=1),
        nn.Linear(8, 6),
    ]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 8, 8)).astype(np.float32)
    for layer in layers:
        if layer.bias is not None:
            layer.bias.set_value(rng.normal(size=layer.bias.shape).astype(np.float32))
        holder = nn.LayerList([layer])
        given, choice = paddle.to_tensor(x), LayerSelection(("0.0",), {})
        apply_quantization(_Call(holder), choice, Rounding(), [[given]], "abs_max", GridPlan())
        absmax = np.abs(x).max()
        rounded = np.clip(np.rint(x * np.float32(127) / absmax), -128, 127) * absmax / 127
        weight = layer.weight.numpy()
        axis = 0 if isinstance(layer, nn.Conv2D) else 1
        other = tuple(i for i in range(weight.ndim) if i != axis)
        top = np.abs(weight).max(axis=other, keepdims=True)
        weight = np.rint(weight * np.float32(127) / top) * top / 127
        wanted = _float(layer, rounded.astype(np.float32), weight.astype(np.float32))
        found = layer(given).numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


class _Call(nn.Layer):
    """A list of one layer, to be called."""

    def __init__(self, layers: nn.LayerList) -> None:
        super().__init__()
        self.add_sublayer("0", layers)

    def forward(self, x: paddle.Tensor) -> Any:
        return self._sub_layers["0"][0](x)


def _float(layer: Any, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    x, weight = paddle.to_tensor(x), paddle.to_tensor(weight)
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, layer.bias).numpy()
    if isinstance(layer, nn.Conv2DTranspose):
        return F.conv2d_transpose(x, weight, layer.bias, 2, 1, 1).numpy()
    if layer._padding_mode == "reflect":
        x = F.pad(x, [1, 1, 1, 1], mode="reflect")
        return F.conv2d(x, weight, layer.bias).numpy()
    return F.conv2d(x, weight, layer.bias, layer._stride, layer._padding, 1, layer._groups).numpy()
