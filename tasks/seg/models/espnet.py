"""Make PaddleSeg's ESPNetV1 work for any number of classes."""

from __future__ import annotations

from paddle.nn import Layer

STEM_CHANNELS = 16


def keep_stem_width(network: Layer) -> None:
    """Give the projection of the first level the width that the decoder expects of it.

    The decoder takes that level with 16 + 3 channels, as the paper has it, but
    PaddleSeg's projection gives one per class: only 19 classes of RGB images ever fit. With 19
    nothing changes, and for other numbers the weights published for 19 still fit this layer.
    """
    from paddleseg.models import layers

    width = STEM_CHANNELS + 3
    network.encoder.proj1 = layers.ConvBNPReLU(width, width, 1)
