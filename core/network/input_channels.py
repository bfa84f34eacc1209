"""Let a network that was built for RGB images take images of one channel, or four."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.nn import Layer

from core.errors import ConfigError
from core.network.modes import evaluation_mode

RGB = 3
PROBE = 128  # pixels of a side


def take_channels(model: Layer, channels: int, name: str, size: tuple[int, int]) -> Layer:
    """Give the convolutions that read the image weights for as many channels; in place.

    The weights of one channel are the sum of those for red, green and blue, so that grey images
    have the outputs that they had as RGB; the fourth channel gets the mean of the three.

    Args:
        model: The network.
        channels: Channels of the images; 3 changes nothing.
        name: Name of the network, for the message.
        size: Height and width of an image to try it on.

    Raises:
        ConfigError: The network reads images in another way too.
    """
    if channels == RGB:
        return model
    for layer in model.sublayers():
        if isinstance(layer, nn.Conv2D) and layer._groups == 1 and layer.weight.shape[1] == RGB:
            _widen(layer, channels)
    try:
        with evaluation_mode(model), paddle.no_grad():
            model(paddle.zeros([1, channels, *size]))
    except (ValueError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"data.channels: {name} cannot take images of {channels} channels, it reads them in "
            f"more places than convolutions ({reason}); choose another network, or 3"
        ) from error
    return model


def _widen(layer: nn.Conv2D, channels: int) -> None:
    weight = layer.weight.numpy()
    if channels < RGB:
        values = weight.sum(axis=1, keepdims=True)
    else:
        values = np.concatenate([weight, weight.mean(axis=1, keepdims=True)], axis=1)
    trained = not layer.weight.stop_gradient
    layer.weight = layer.create_parameter(list(values.shape), dtype=layer.weight.dtype)
    layer.weight.set_value(values)
    layer.weight.stop_gradient = not trained
    layer._in_channels = channels
