"""Settings of the classification task: every key of a YAML file, with its meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.settings.ranges import check_range
from core.training.image_settings import (
    MOST_SEED,
    MOST_SIDE,
    check_input,
    check_split,
    for_channels,
)

MOST_CLASSES = 1_000_000
Interpolation = Literal["bilinear", "bicubic", "area"]


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {got!r}")


@dataclass(frozen=True)
class ModelConfig:
    """The network: any classifier of PaddleClas 2.6.

    Stages are named as in PaddleClas: by number (0 is the first stage), by PaddleClas' own
    pattern (`blocks[2]`), or by the dotted path of any layer (`blocks.2`).
    """

    name: str  # as PaddleClas calls it: MobileNetV3_small_x1_0, PPLCNet_x2_5, ResNet50_vd, ...
    num_classes: int = 1000
    pretrained: bool | str | None = None  # true: PaddleClas' ImageNet weights; or a path or URL
    reinit: tuple[str, ...] = ()  # globs of weights that stay as initialised, for instance fc.*
    return_stages: bool | tuple[int | str, ...] = False  # also return these feature maps
    stop_after: str | None = None  # export only what leads to this layer, for its features
    freeze_at: int | str | None = None  # everything up to this stage or layer stays as it is
    freeze_norm: bool = False  # batch norms keep their statistics, scale and shift
    # further arguments of the PaddleClas class, for instance {dropout_prob: 0.1}
    options: dict[str, bool | int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.num_classes >= 2, "num_classes", "at least 2", self.num_classes)
        check_range(self, 2, MOST_CLASSES, "num_classes")


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures are and how they become the network's input.

    A list file has one `path label` per line, paths relative to `root`. Where neither list exists,
    the pictures are taken from `root/train/<class>` and `root/val/<class>`, or from
    `root/<class>`. Where there is no `val`, a part of each class is drawn for it.
    """

    root: str
    train_list: str = "train_list.txt"  # relative to root
    val_list: str = "val_list.txt"
    labels: str = "labels.txt"  # class names, `index name` or `name` per line; may be absent
    # in place of a labels file; filled in from the data, so that a checkpoint knows its classes
    class_names: tuple[str, ...] = ()
    # side of the square that the network sees, or [height, width]
    image_size: int | tuple[int, int] = 224
    # evaluation: shorter side before the centre crop; null: 8/7 of the square. To [height, width]
    # a picture is stretched, whole
    resize_short: int | None = None
    channels: Literal[1, 3, 4] = 3  # of pictures: grey, RGB, or RGB with a fourth
    interpolation: Interpolation = "bilinear"
    # of each channel, of values in 0..1; of three for RGB, one channel has the average
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    val_share: float = 0.2  # share of each class, where the folders have no validation split
    split_seed: int = 0  # another seed draws another such split
    on_error: Literal["fail", "skip"] = "fail"  # a broken picture ends the run, or is left out
    num_workers: int = 2  # processes that read ahead

    def __post_init__(self) -> None:
        self._check_sizes()
        for name in ("mean", "std"):
            values = for_channels(name, getattr(self, name), self.channels)
            object.__setattr__(self, name, values)
        _require(all(s > 0 for s in self.std), "std", "positive values", self.std)
        _require(self.num_workers >= 0, "num_workers", "0 or more", self.num_workers)
        check_range(self, 8, MOST_SIDE, "image_size", "resize_short")
        check_split(self)
        check_input(self)

    def _check_sizes(self) -> None:
        side, short = self.image_size, self.resize_short
        _require(min(self.input_size) >= 8, "image_size", "at least 8", side)
        if short is None:
            return
        _require(
            isinstance(side, int),
            "resize_short",
            f"null, as pictures are stretched to the image_size {side}",
            short,
        )
        _require(
            short >= max(self.input_size), "resize_short", f"at least image_size ({side})", short
        )

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        side = self.image_size
        return (side, side) if isinstance(side, int) else side

    @property
    def shorter_side(self) -> int | None:
        """Shorter side before the centre crop; None: pictures are stretched."""
        if not isinstance(self.image_size, int):
            return None
        return self.resize_short or round(self.image_size * 8 / 7)


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training pictures, in this order; mixup and cutmix mix whole batches."""

    scale: tuple[float, float] = (0.08, 1.0)  # random crop: its share of the picture's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # random crop: width over height
    flip: float = 0.5  # probability of a horizontal flip
    policy: Literal["none", "autoaugment", "randaugment"] = "none"
    policy_layers: int = 2  # randaugment: operations per picture
    policy_magnitude: float = 5.0  # randaugment: strength, 0..10
    brightness: float = 0.0  # colour jitter: factors are drawn from 1 - x .. 1 + x
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # colour jitter: shift drawn from -x .. x turns of the colour circle, <= 0.5
    erasing: float = 0.0  # probability of random erasing
    erasing_area: tuple[float, float] = (0.02, 0.33)  # share of the picture
    erasing_ratio: tuple[float, float] = (0.3, 3.3)  # height over width
    erasing_fill: Literal["mean", "noise"] = "mean"
    mixup: float = 0.0  # alpha of the Beta distribution; 0 is off
    cutmix: float = 0.0  # alpha of the Beta distribution; 0 is off; with mixup: one of them, evenly
    mix_probability: float = 1.0  # share of batches that are mixed

    def __post_init__(self) -> None:
        for name in ("flip", "erasing", "mix_probability"):
            value = getattr(self, name)
            _require(0 <= value <= 1, name, "a probability", value)
        for name in ("scale", "ratio", "erasing_area", "erasing_ratio"):
            low, high = getattr(self, name)
            _require(0 < low <= high, name, "0 < low <= high", [low, high])
        check_range(self, 0.01, 100, "ratio", "erasing_ratio")
        for name in ("scale", "erasing_area"):
            _require(getattr(self, name)[1] <= 1, name, "shares up to 1", getattr(self, name))
        check_range(self, 1e-4, 1, "scale", "erasing_area")
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            _require(0 <= value <= 1, name, "a value in 0..1", value)
        _require(0 <= self.hue <= 0.5, "hue", "a value in 0..0.5", self.hue)
        for name in ("mixup", "cutmix"):
            _require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
            if getattr(self, name):  # a Beta distribution of less cannot be drawn from
                check_range(self, 0.01, 1000, name)
        _require(self.policy_layers >= 1, "policy_layers", "at least 1", self.policy_layers)
        check_range(self, 1, 100, "policy_layers")
        magnitude = self.policy_magnitude
        _require(0 <= magnitude <= 10, "policy_magnitude", "a value in 0..10", magnitude)


@dataclass(frozen=True)
class LossConfig:
    """Cross entropy."""

    label_smoothing: float = 0.0  # share of the target spread evenly over all classes
    auxiliary_weight: float = 0.3  # of each further output (GoogLeNet)

    def __post_init__(self) -> None:
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "label_smoothing", "a value in 0..1 (less than 1)", smoothing)
        _require(self.auxiliary_weight >= 0, "auxiliary_weight", "0 or more", self.auxiliary_weight)
        check_range(self, 0, 1e6, "auxiliary_weight")


@dataclass(frozen=True)
class EvaluationConfig:
    """How results are counted."""

    topk: tuple[int, ...] = (1, 5)  # capped by the number of classes

    def __post_init__(self) -> None:
        _require(1 in self.topk, "topk", "a list with 1 in it", list(self.topk))
        _require(all(k >= 1 for k in self.topk), "topk", "positive values", list(self.topk))


@dataclass(frozen=True)
class SyntheticConfig:
    """Generated data, drawn under `data.root` when there is none: coloured shapes."""

    train_images: int = 640
    val_images: int = 160
    side: int = 72  # pixels
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train_images", "val_images"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(self.side >= 32, "side", "at least 32", self.side)
        check_range(self, 1, 1_000_000, "train_images", "val_images")
        check_range(self, 32, 4096, "side")
        check_range(self, 0, MOST_SEED, "seed")


@dataclass(frozen=True)
class Config:
    """Classification: network, data, augmentation, loss and evaluation."""

    model: ModelConfig
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    synthetic: SyntheticConfig | None = None

    def __post_init__(self) -> None:
        if self.data.channels == 3:
            return
        for name, off in (("policy", "none"), ("saturation", 0.0), ("hue", 0.0)):
            value = getattr(self.augment, name)
            expected = f"{off}, as data.channels is {self.data.channels} and it needs RGB"
            _require(value == off, f"augment.{name}", expected, value)
        if self.data.channels == 4:
            _require(self.synthetic is None, "synthetic", "null for 4 channels", self.synthetic)
