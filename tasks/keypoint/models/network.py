"""A keypoint network: a backbone that keeps the resolution, and one heatmap per joint."""

from __future__ import annotations

from paddle import Tensor
from paddle.nn import Layer

from core.errors import ConfigError
from tasks.keypoint.models.config import ModelConfig
from tasks.keypoint.models.conv_norm import conv2d
from tasks.keypoint.models.hrnet import WIDTHS, HRNet
from tasks.keypoint.models.lite_hrnet import MODULES, LiteHRNet


class HeatmapNetwork(Layer):
    """Backbone and a 1x1 convolution: image [N, 3, H, W] to heatmaps [N, K, H/4, W/4]."""

    def __init__(self, backbone: Layer, num_joints: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.final_conv = conv2d(backbone.out_channels, num_joints, bias=True)

    def forward(self, image: Tensor) -> Tensor:
        return self.final_conv(self.backbone(image))


def build_network(config: ModelConfig) -> HeatmapNetwork:
    """Build a keypoint network with fresh weights."""
    if config.name in MODULES:
        return HeatmapNetwork(LiteHRNet(config.name), config.num_joints)
    if config.name in WIDTHS:
        return HeatmapNetwork(HRNet(config.name), config.num_joints)
    raise ConfigError(f"model.name: {config.name!r} is not there yet")
