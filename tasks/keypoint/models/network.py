"""A keypoint network: features at a quarter of the image's size, and a heatmap per joint."""

from __future__ import annotations

from paddle import Tensor
from paddle.nn import Layer

from core.errors import ConfigError
from core.settings.config import suggest
from tasks.keypoint.models.config import ModelConfig
from tasks.keypoint.models.conv_norm import conv2d
from tasks.keypoint.models.hrnet import WIDTHS, HRNet
from tasks.keypoint.models.lite_hrnet import NETWORKS, LiteHRNet
from tasks.keypoint.models.upsampling import Decoder, Pyramid


class HeatmapNetwork(Layer):
    """Backbone and a 1x1 convolution: image [N, 3, H, W] to heatmaps [N, K, H/4, W/4].

    Args:
        backbone: Returns one map at stride 4, or the maps that `decoder` takes.
        decoder: Brings them to stride 4.
        channels: Channels of the map at stride 4.
        num_joints: K.
    """

    def __init__(
        self, backbone: Layer, channels: int, num_joints: int, decoder: Layer | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.final_conv = conv2d(channels, num_joints, bias=True)

    def forward(self, image: Tensor) -> Tensor:
        features = self.backbone(image)
        if self.decoder is not None:
            features = self.decoder(features)
        return self.final_conv(features)


def build_network(config: ModelConfig) -> HeatmapNetwork:
    """Build a keypoint network with fresh weights.

    Raises:
        ConfigError: Unknown network or backbone, or stages to freeze that it does not have.
    """
    network = _build(config)
    if config.freeze_at is not None:
        _freeze_stages(network, config.freeze_at)
    if config.freeze_norm:
        _freeze_norms(network)
    return network


def _build(config: ModelConfig) -> HeatmapNetwork:
    if config.name in NETWORKS:
        backbone: Layer = LiteHRNet(NETWORKS[config.name])
    elif config.name in WIDTHS:
        backbone = HRNet(config.name)
    elif config.name == "upsampling" and config.backbone is not None:
        pyramid = Pyramid(config.backbone)
        decoder = Decoder(pyramid.channels, config.decoder_widths)
        return HeatmapNetwork(pyramid, config.decoder_widths[-1], config.num_joints, decoder)
    else:
        known = [*NETWORKS, *WIDTHS, "upsampling"]
        raise ConfigError(f"model.name: no network {config.name!r}{suggest(config.name, known)}")
    return HeatmapNetwork(backbone, backbone.out_channels, config.num_joints)


def _freeze_stages(network: HeatmapNetwork, last: int) -> None:
    stages = network.backbone.stages()
    if last >= len(stages):
        raise ConfigError(
            f"model.freeze_at: the network has the stages 0 to {len(stages) - 1}, got {last}"
        )
    for layers in stages[: last + 1]:
        for layer in layers:
            for parameter in layer.parameters():
                parameter.stop_gradient = True
            _freeze_norms(layer)


def _freeze_norms(network: Layer) -> None:
    for layer in network.sublayers(include_self=True):
        if hasattr(layer, "_use_global_stats"):
            # unlike eval(), this survives the next train()
            layer._use_global_stats = True
            for parameter in layer.parameters():
                parameter.stop_gradient = True
