"""Networks for RGB that take one channel, or four."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from core.errors import ConfigError
from core.network.input_channels import take_channels


class Twice(nn.Layer):
    """Reads the image by a convolution, and perhaps a second time beside its result."""

    def __init__(self, beside: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2D(3, 4, 3, padding=1)
        self.second = nn.Conv2D(7 if beside else 4, 2, 1)
        self.beside = beside

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        features = self.first(image)
        return self.second(paddle.concat([image, features], 1) if self.beside else features)


def test_grey_images_have_the_outputs_they_had_as_rgb() -> None:
    model = Twice()
    grey = paddle.rand([2, 1, 16, 16])
    expected = model(paddle.concat([grey] * 3, 1)).numpy()
    take_channels(model, 1, "Twice", (16, 16))
    assert model.first.weight.shape == [4, 1, 3, 3]
    np.testing.assert_allclose(model(grey).numpy(), expected, atol=1e-5)
    assert dict(model.named_parameters())["first.weight"] is model.first.weight
    assert not model.first.weight.stop_gradient


def test_a_fourth_channel_has_the_mean_of_the_others() -> None:
    model = Twice()
    before = model.first.weight.numpy()
    take_channels(model, 4, "Twice", (16, 16))
    np.testing.assert_array_equal(model.first.weight.numpy()[:, :3], before)
    np.testing.assert_allclose(model.first.weight.numpy()[:, 3], before.mean(axis=1), atol=1e-7)
    assert model(paddle.rand([1, 4, 8, 8])).shape == [1, 2, 8, 8]


def test_three_change_nothing() -> None:
    model = Twice(beside=True)
    weight = model.first.weight
    assert take_channels(model, 3, "Twice", (16, 16)).first.weight is weight


def test_a_network_that_reads_the_image_otherwise_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^data\.channels: Twice cannot take images of 1 chann"):
        take_channels(Twice(beside=True), 1, "Twice", (16, 16))
