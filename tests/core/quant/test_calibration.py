"""Calibration with gradients, against the Jacobian of the network."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from core.errors import ConfigError, DataError
from core.quant import calibration
from core.quant.calibration import run_back


class Two(nn.Layer):
    """A layer of two outputs, the second of which is an index without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        made = self.last(nn.functional.tanh(self.first(x)))
        return made, made.argmax(-1)


def test_squared_gradients_are_those_of_all_outputs_in_the_mean() -> None:
    paddle.seed(0)
    model, rng = Two(), np.random.default_rng(0)
    model.train()
    model.first.bias.stop_gradient = True
    image = rng.normal(size=[1, 4]).astype("float32")
    found = []

    def listen(_layer: nn.Layer, inputs: tuple[paddle.Tensor]) -> None:
        inputs[0].register_hook(lambda gradient: found.append(gradient.numpy()))

    handle = model.last.register_forward_pre_hook(listen)
    count = 4000
    run_back(model, [[paddle.to_tensor(np.repeat(image, count, 0))]])
    handle.remove()
    [gradients] = found
    exact = np.square(model.last.weight.numpy()).sum(1)  # d output / d input, [inputs, outputs]
    np.testing.assert_allclose(np.square(gradients).mean(0), exact, rtol=0.15)
    assert model.training
    assert [p.stop_gradient for p in model.parameters()] == [False, True, False, False]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_large_images_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    paddle.seed(0)
    model, sizes = Two(), []
    model.first.register_forward_pre_hook(lambda _l, inputs: sizes.append(inputs[0].shape[0]))
    for values, wanted in ((8, [2, 2, 1]), (3, [1] * 5), (100, [5])):
        monkeypatch.setattr(calibration, "VALUES_BACK", values)
        sizes.clear()
        run_back(model, [[paddle.rand([5, 4])]])
        assert sizes == wanted


def test_what_cannot_be_run_back_is_told() -> None:
    class Index(nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return x.argmax(-1)

    with pytest.raises(ConfigError, match="observer: output_mse wants gradients"):
        run_back(Index(), [[paddle.rand([5, 4])]])
    with pytest.raises(DataError, match="calibration: no data"):
        run_back(Two(), [])
