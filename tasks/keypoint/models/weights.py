"""Where published weights are."""

from __future__ import annotations

from types import MappingProxyType

from core.errors import ConfigError
from tasks.keypoint.models.config import ModelConfig
from tasks.keypoint.models.upsampling import imagenet_url

# COCO, 17 keypoints; by network and height of the images they were trained on
_MODELS = "https://paddle-model-ecology.bj.bcebos.com/model/hrnet_pose"
_ZOO = "https://bj.bcebos.com/v1/paddledet/models/keypoint"
PUBLISHED = MappingProxyType(
    {
        ("hrnet_w32", 256): f"{_MODELS}/hrnet_w32_256x192.pdparams",
        ("hrnet_w32", 384): "https://paddledet.bj.bcebos.com/models/keypoint/"
        "hrnet_w32_384x288.pdparams",
        ("lite_hrnet_30", 256): f"{_MODELS}/lite_hrnet_30_256x192_coco.pdparams",
        ("lite_hrnet_30", 384): f"{_ZOO}/lite_hrnet_30_384x288_coco.pdparams",
        ("lite_hrnet_18", 256): f"{_ZOO}/lite_hrnet_18_256x192_coco.pdparams",
        ("lite_hrnet_18", 384): f"{_ZOO}/lite_hrnet_18_384x288_coco.pdparams",
        ("lite_hrnet_wider_naive", 256): f"{_ZOO}/tinypose_256x192.pdparams",
        ("lite_hrnet_wider_naive", 128): f"{_ZOO}/tinypose_128x96.pdparams",
    }
)


def published_url(config: ModelConfig, height: int = 256) -> str:
    """Return where the published weights of a network are: COCO's, or ImageNet's of a backbone.

    Args:
        config: The network.
        height: Height of the input. Weights of the largest published size that is no higher are
            taken, or of the smallest size where all are higher.

    Raises:
        ConfigError: None are known.
    """
    if config.backbone is not None:
        return imagenet_url(config.backbone)
    heights = sorted(published for name, published in PUBLISHED if name == config.name)
    if not heights:
        known = ", ".join(sorted({name for name, _ in PUBLISHED}))
        raise ConfigError(
            f"model.pretrained: no published weights are known for {config.name!r} "
            f"(known: {known}); give the path of a file instead"
        )
    fitting = max((each for each in heights if each <= height), default=heights[0])
    return PUBLISHED[config.name, fitting]
