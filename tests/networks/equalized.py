"""Networks with random statistics."""

from __future__ import annotations

import numpy as np
from paddle import nn


def randomize(model, seed=0, spread=1.5):
    """Give channels very different ranges, on both axes of weights, and norms that do something."""
    rng = np.random.default_rng(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        shape = tensor.shape
        if "variance" in name:
            value = rng.uniform(0.3, 3, shape)
        elif len(shape) > 1:
            fan = np.prod(shape) / shape[0]
            value = rng.normal(0, 1 / np.sqrt(fan), shape)
            value *= np.exp(rng.normal(0, spread, [shape[0], *[1] * (len(shape) - 1)]))
            value *= np.exp(rng.normal(0, spread, [1, shape[1], *[1] * (len(shape) - 2)]))
        else:
            value = rng.normal(0.2, 1, shape)
        tensor.set_value(value.astype(np.float32))
    model.eval()
    return model


class Depthwise(nn.Layer):
    """An inverted residual with ReLU, as in MobileNetV2, and what is around it."""

    def __init__(self, norm=True):
        super().__init__()
        self.stem = self.block(nn.Conv2D(3, 6, 3, padding=1, bias_attr=not norm), norm)
        self.expand = self.block(nn.Conv2D(6, 12, 1, bias_attr=not norm), norm)
        self.depthwise = self.block(
            nn.Conv2D(12, 12, 3, padding=1, groups=12, bias_attr=not norm), norm
        )
        self.project = nn.Conv2D(12, 6, 1)
        self.head = nn.Conv2D(6, 4, 1)

    @staticmethod
    def block(conv, norm):
        channels = conv.weight.shape[0]
        return nn.Sequential(conv, nn.BatchNorm2D(channels) if norm else nn.Identity(), nn.ReLU())

    def forward(self, image):
        x = self.stem(image)
        x = x + self.project(self.depthwise(self.expand(x)))
        return self.head(x)
