"""Settings of the segmentation task; sizes are [width, height], as in the names of the configs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from core.settings.ranges import check_range, check_weights
from core.training.image_settings import (
    MOST_SEED,
    MOST_SIDE,
    check_input,
    check_split,
    for_channels,
)
from core.training.loader import OnError

Size = tuple[int, int]
Color = tuple[int, int, int]  # red, green, blue


@dataclass(frozen=True)
class BackboneConfig:
    """A backbone of PaddleSeg, for networks that take one; always built with fresh weights."""

    name: str = "ResNet50_vd"
    arguments: dict[str, Any] = field(
        default_factory=dict
    )  # for its constructor: output_stride ...


@dataclass(frozen=True)
class ModelConfig:
    """A network of `paddleseg.models`, and the weights it starts from."""

    name: str = "BiSeNetV2"
    num_classes: int = 19
    backbone: BackboneConfig | None = None
    arguments: dict[str, Any] = field(
        default_factory=dict
    )  # for the constructor: align_corners ...
    pretrained: bool | str | None = None  # true: the published weights; or a path or URL
    reinit: tuple[str, ...] = ()  # globs of weights that stay as initialised

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(f"num_classes: expected at least 2, got {self.num_classes}")
        check_range(self, 2, 65536, "num_classes")


@dataclass(frozen=True)
class DataConfig:
    """Images and label maps, listed as PaddleSeg lists them: `image label` on every line.

    Without lists they are found by their names, in `images/` and `masks/`, in VOC's folders and
    others, see `tasks/seg/layouts.py`; where there is no validation split, one is drawn.
    """

    root: str = "data/cityscapes"  # paths in the lists are relative to it
    train_list: str = "train.txt"  # relative to root
    val_list: str = "val.txt"
    separator: str = " "
    classes: tuple[str, ...] = ()  # their names, in label order; numbers if left out
    # RGB of each class in the masks, in label order; none: masks hold the numbers of the classes
    colors: tuple[Color, ...] = ()
    ignored_colors: tuple[Color, ...] = ()  # read as ignore_index
    # other colours, of masks that were saved as JPEG or made smaller, count as the nearest of these
    nearest_color: bool = False
    val_share: float = 0.2  # share of the images, where there is no validation split
    split_seed: int = 0  # another seed draws another such split
    ignore_index: int = 255  # label value of pixels that count nowhere
    size: Size | None = None  # evaluation, prediction and export resize to it; null: images as is
    channels: Literal[1, 3, 4] = 3  # of images: grey, RGB, or RGB with a fourth
    # of each channel, of values in 0..1; of three for RGB, one channel has the average
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    download: str | None = None  # URL of a zip or tar of the folder `root`, fetched if it is absent
    num_workers: int = 2
    on_error: OnError = "fail"

    def __post_init__(self) -> None:
        if not self.separator:
            raise ValueError("separator: expected at least one character, got ''")
        if not 0 <= self.ignore_index <= 65535:
            raise ValueError(f"ignore_index: expected 0..65535, got {self.ignore_index}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers: expected 0 or more, got {self.num_workers}")
        if min(self.std) <= 0:
            raise ValueError(f"std: expected positive numbers, got {list(self.std)}")
        for name in ("mean", "std"):
            values = for_channels(name, getattr(self, name), self.channels)
            object.__setattr__(self, name, values)
        check_input(self)
        check_split(self)
        _check_size("size", self.size)
        _check_colors(self.colors, self.ignored_colors)


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of a training image, in this order: resize, scale, crop, flip, distort."""

    resize: Size | None = None
    scale_min: float = 1.0
    scale_max: float = 1.0
    scale_step: float = 0.0  # the scales are scale_min, + step, + 2 step ...; 0: any in between
    crop: Size | None = None  # at a random place; what is missing is filled with mean and ignore
    flip: float = 0.5  # probability of a mirror image
    distort: float = 0.0  # probability of each of the four below
    brightness: float = 0.5  # factors in 1 - x .. 1 + x
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 25.0  # degrees, either way

    def __post_init__(self) -> None:
        _check_size("resize", self.resize)
        _check_size("crop", self.crop)
        if not 0 < self.scale_min <= self.scale_max:
            raise ValueError(
                f"scale_min: expected 0 < scale_min <= scale_max, got {self.scale_min} and "
                f"{self.scale_max}"
            )
        check_range(self, 0.01, 100, "scale_min", "scale_max")
        if self.scale_step < 0:
            raise ValueError(f"scale_step: expected 0 or more, got {self.scale_step}")
        if self.scale_step:
            check_range(self, 0.001, 100, "scale_step")
        for name in ("flip", "distort"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a probability, got {getattr(self, name)}")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0..1, got {getattr(self, name)}")
        if not 0 <= self.hue <= 180:
            raise ValueError(f"hue: expected 0..180, got {self.hue}")
        if self.scale_max != self.scale_min and self.crop is None:
            raise ValueError("crop: needed where images are scaled, as batches have one size")


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross entropy over the pixels that count, weighted by class."""

    kind: ClassVar[str] = "cross_entropy"
    class_weights: tuple[float, ...] = ()  # one for each class; none: all 1

    def __post_init__(self) -> None:
        check_weights("class_weights", self.class_weights)


@dataclass(frozen=True)
class Ohem:
    """Cross entropy over the hard pixels: those whose class got less than `threshold`.

    If fewer than `min_kept` pixels are that hard, about the `min_kept` hardest count instead.
    """

    kind: ClassVar[str] = "ohem"
    threshold: float = 0.7
    min_kept: int = 10000  # pixels of a batch

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold: expected 0 < threshold <= 1, got {self.threshold}")
        if self.min_kept < 1:
            raise ValueError(f"min_kept: expected at least 1, got {self.min_kept}")


@dataclass(frozen=True)
class Dice:
    """One minus the Dice coefficient of each class and image, averaged."""

    kind: ClassVar[str] = "dice"
    class_weights: tuple[float, ...] = ()
    smooth: float = 1.0

    def __post_init__(self) -> None:
        check_weights("class_weights", self.class_weights)
        check_range(self, 0, 1e6, "smooth")


@dataclass(frozen=True)
class Detail:
    """Edges between classes at three scales, against a head with one channel (STDC)."""

    kind: ClassVar[str] = "detail"


@dataclass(frozen=True)
class Mixed:
    """A weighted sum of losses."""

    kind: ClassVar[str] = "mixed"
    losses: tuple[CrossEntropy | Ohem | Dice, ...]
    coef: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.losses or len(self.coef) != len(self.losses):
            raise ValueError(
                f"coef: expected one number for each of {len(self.losses)} losses, "
                f"got {len(self.coef)}"
            )
        check_weights("coef", self.coef)


Loss = CrossEntropy | Ohem | Dice | Detail | Mixed


@dataclass(frozen=True)
class LossConfig:
    """The loss of every head; the first is the main one, the others exist in training only."""

    function: Loss = CrossEntropy()
    heads: tuple[Loss, ...] = ()  # one for each head, where they differ; `function` is then unused
    coef: tuple[float, ...] = ()  # one for each head; none: all 1

    def __post_init__(self) -> None:
        if self.heads and self.coef and len(self.heads) != len(self.coef):
            raise ValueError(
                f"coef: expected one number for each of {len(self.heads)} entries of heads, "
                f"got {len(self.coef)}"
            )
        check_weights("coef", self.coef)


@dataclass(frozen=True)
class SlidingWindowConfig:
    """Look at the image through windows and average where they overlap."""

    crop: Size
    stride: Size

    def __post_init__(self) -> None:
        _check_size("crop", self.crop)
        _check_size("stride", self.stride)
        if self.stride[0] > self.crop[0] or self.stride[1] > self.crop[1]:
            raise ValueError(
                f"stride: expected at most the crop {list(self.crop)}, got {list(self.stride)}"
            )


@dataclass(frozen=True)
class EvaluationConfig:
    """How often and how the network looks at an image of the validation split."""

    scales: tuple[float, ...] = (1.0,)  # several: the class probabilities are averaged
    flip: bool = False  # average with the mirror image
    sliding_window: SlidingWindowConfig | None = None

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales: expected positive numbers, got {list(self.scales)}")
        check_range(self, 0.01, 100, "scales")


@dataclass(frozen=True)
class SyntheticConfig:
    """Drawn on first use: discs, boxes and triangles on a textured ground; labels to match."""

    train_images: int = 96
    val_images: int = 24
    size: Size = (64, 64)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train_images", "val_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if min(self.size) < 32:
            raise ValueError(f"size: expected at least 32, got {list(self.size)}")
        check_range(self, 1, 1_000_000, "train_images", "val_images")
        check_range(self, 32, 4096, "size")
        check_range(self, 0, MOST_SEED, "seed")


@dataclass(frozen=True)
class Config:
    """All of the segmentation task."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    synthetic: SyntheticConfig | None = None

    def __post_init__(self) -> None:
        classes = self.model.num_classes
        names = self.data.classes
        if names and len(names) != classes:
            raise ValueError(
                f"data.classes: expected model.num_classes = {classes} names, got {len(names)}"
            )
        if self.data.colors and len(self.data.colors) != classes:
            raise ValueError(
                f"data.colors: expected model.num_classes = {classes} colours, "
                f"got {len(self.data.colors)}"
            )
        if self.data.channels != 3 and self.augment.distort > 0:
            raise ValueError(
                f"augment.distort: expected 0, as data.channels is {self.data.channels} and it "
                f"needs RGB, got {self.augment.distort}"
            )
        if self.data.channels == 4 and self.synthetic is not None:
            raise ValueError("synthetic: expected null for 4 channels, got settings")
        if self.data.ignore_index < classes:
            raise ValueError(
                f"data.ignore_index: expected a value that is no class (of {classes}), "
                f"got {self.data.ignore_index}"
            )
        functions = list(enumerate(self.loss.heads)) or [(-1, self.loss.function)]
        for number, function in functions:
            path = f"loss.heads.{number}" if number >= 0 else "loss.function"
            _check_class_weights(path, function, classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, numbers if they have none."""
        return self.data.classes or tuple(str(i) for i in range(self.model.num_classes))


def _check_class_weights(path: str, function: Loss, classes: int) -> None:
    if isinstance(function, Mixed):
        for number, part in enumerate(function.losses):
            _check_class_weights(f"{path}.losses.{number}", part, classes)
    weights = getattr(function, "class_weights", ())
    if weights and len(weights) != classes:
        raise ValueError(
            f"{path}.class_weights: expected model.num_classes = {classes} numbers, "
            f"got {len(weights)}"
        )


def _check_colors(colors: tuple[Color, ...], ignored: tuple[Color, ...]) -> None:
    every = (*colors, *ignored)
    if any(not 0 <= value <= 255 for color in every for value in color):
        raise ValueError("colors: expected red, green and blue from 0 to 255")
    if len(set(every)) != len(every):
        raise ValueError("colors: expected each colour once, also among ignored_colors")


def _check_size(name: str, size: Size | None) -> None:
    if size is not None and min(size) < 1:
        raise ValueError(f"{name}: expected positive [width, height], got {list(size)}")
    if size is not None and max(size) > MOST_SIDE:
        raise ValueError(f"{name}: expected up to {MOST_SIDE} pixels, got {list(size)}")
