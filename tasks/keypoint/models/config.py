"""Settings of a keypoint network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NetworkName = Literal[
    "lite_hrnet_18",
    "lite_hrnet_30",
    "lite_hrnet_naive",
    "lite_hrnet_wider_naive",
    "hrnet_w32",
    "hrnet_w48",
    "upsampling",
]


@dataclass(frozen=True)
class ModelConfig:
    """Settings of the network.

    Attributes:
        name: The network; `lite_hrnet_wider_naive` is PP-TinyPose's, `upsampling` is a PaddleClas
            backbone with a light decoder.
        num_joints: Number of keypoints, that is of heatmaps.
        pretrained: Start from a checkpoint or a published `.pdparams` (path or URL), or `true`
            for the COCO weights of this network (for `upsampling`: the ImageNet weights of its
            backbone).
        reinit: Globs of weights that keep their fresh values instead.
        backbone: For `upsampling` only: a network of PaddleClas by name, such as PPLCNet_x1_0.
        decoder_widths: For `upsampling` only: channels of the decoder at strides 32, 16, 8, 4.
        freeze_at: Everything up to this stage is not trained; stage 0 is the stem (and, for
            `upsampling`, all layers down to stride 4).
        freeze_norm: Keep all batch normalizations as they were loaded.
    """

    name: NetworkName
    num_joints: int = 17
    pretrained: bool | str | None = None
    reinit: tuple[str, ...] = ()
    backbone: str | None = None
    decoder_widths: tuple[int, int, int, int] = (256, 128, 64, 64)
    freeze_at: int | None = None
    freeze_norm: bool = False

    def __post_init__(self) -> None:
        if self.num_joints < 1:
            raise ValueError(f"num_joints: expected 1 or more, got {self.num_joints}")
        if self.name == "upsampling" and self.backbone is None:
            raise ValueError(
                "backbone: 'upsampling' needs the name of a PaddleClas network, "
                "for instance PPLCNet_x1_0, got nothing"
            )
        if self.name != "upsampling" and self.backbone is not None:
            raise ValueError(
                f"backbone: {self.name!r} has its own, only 'upsampling' takes one, "
                f"got {self.backbone!r}"
            )
        if min(self.decoder_widths) < 1:
            raise ValueError(
                f"decoder_widths: expected positive numbers, got {list(self.decoder_widths)}"
            )
        if self.freeze_at is not None and self.freeze_at < 0:
            raise ValueError(f"freeze_at: expected a stage from 0 on, got {self.freeze_at}")
