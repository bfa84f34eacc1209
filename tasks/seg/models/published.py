"""Where PaddleSeg publishes trained weights of the networks in `configs/seg`."""

from __future__ import annotations

from types import MappingProxyType

from core.errors import ConfigError
from tasks.seg.config import ModelConfig

SERVER = "https://bj.bcebos.com/paddleseg/dygraph"


FOLDERS = MappingProxyType(
    {
        ("BiSeNetV2", "", 19): "cityscapes/bisenet_cityscapes_1024x1024_160k",
        ("BiSeNetV2", "", 2): "optic_disc/bisenet_optic_disc_512x512_1k",
        (
            "DeepLabV3",
            "ResNet50_vd",
            19,
        ): "cityscapes/deeplabv3_resnet50_os8_cityscapes_1024x512_80k",
        (
            "DeepLabV3P",
            "ResNet50_vd",
            19,
        ): "cityscapes/deeplabv3p_resnet50_os8_cityscapes_1024x512_80k",
        ("GCNet", "ResNet50_vd", 19): "cityscapes/gcnet_resnet50_os8_cityscapes_1024x512_80k",
        ("PSPNet", "ResNet50_vd", 19): "cityscapes/pspnet_resnet50_os8_cityscapes_1024x512_80k",
        (
            "PPLiteSeg",
            "STDC1",
            19,
        ): "cityscapes/pp_liteseg_stdc1_cityscapes_1024x512_scale0.5_160k",
        ("STDCSeg", "STDC1", 19): "cityscapes/stdc1_seg_cityscapes_1024x512_80k",
    }
)


def published_url(config: ModelConfig) -> str:
    """Return the address of the published weights.

    Raises:
        ConfigError: None are known for this network, backbone and number of classes.
    """
    backbone = config.backbone.name if config.backbone is not None else ""
    folder = FOLDERS.get((config.name, backbone, config.num_classes))
    if folder is None:
        on = f" on {backbone}" if backbone else ""
        raise ConfigError(
            f"model.pretrained: no published weights are known of {config.name}{on} with "
            f"{config.num_classes} classes; give a path or URL"
        )
    return f"{SERVER}/{folder}/model.pdparams"
