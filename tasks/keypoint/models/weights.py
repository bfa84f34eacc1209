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
    }
)


def published_url(config: ModelConfig, height: int = 256) -> str:
    """Return where the published weights of a network are: COCO's, or ImageNet's of a backbone.

    Args:
        config: The network.
        height: Height of the input; weights trained at 384x288 are taken from 384 on.

    Raises:
        ConfigError: None are known.
    """
    if config.backbone is not None:
        return imagenet_url(config.backbone)
    url = PUBLISHED.get((config.name, 384 if height >= 384 else 256))
    if url is None:
        known = ", ".join(sorted({name for name, _ in PUBLISHED}))
        raise ConfigError(
            f"model.pretrained: no published weights are known for {config.name!r} "
            f"(known: {known}); give the path of a file instead"
        )
    return url
