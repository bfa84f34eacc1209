"""Settings of the loss terms between a student and a teacher, told apart by `kind`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import paddle.nn.functional as F
from paddle import Tensor

from core.distill import feature_losses, losses
from core.errors import ConfigError
from core.settings.ranges import check_range
from core.task import Batch

# settings of single terms that must be above 0
POSITIVE = ("temperature", "student_temperature", "teacher_temperature", "delta", "power")
SMALLEST, LARGEST = 0.001, 1000
Tensors = Sequence[Tensor]  # one of each layer that a term looks at


@dataclass(frozen=True)
class Term:
    """Base of all terms: the weight, and the layers that are compared.

    Attributes:
        weight: Factor on the loss.
        student: Glob on layer paths of the student; null takes the task's own point. A glob that
            matches several layers makes as many terms, paired in order with the teacher's.
        teacher: Glob on layer paths of the teacher; null takes the teacher's own point, or
            `student` if that is given.
        key: Compare a named output of the task (`logits`, `heatmaps`) in place of layers.
        adapter: Train a 1x1 convolution and resize where shapes differ; false refuses that.
    """

    kind: ClassVar[str] = ""
    points: ClassVar[tuple[str, ...]] = ()  # kinds of the task's points it takes, best first
    fits: ClassVar[Literal["adapt", "resize", "classes"]] = "adapt"  # where shapes differ
    maps_only: ClassVar[bool] = False

    weight: float = 1.0
    student: str | None = None
    teacher: str | None = None
    key: str | None = None
    adapter: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight: expected 0 or more, got {self.weight}")
        check_range(self, 0, 1e6, "weight")
        for name in POSITIVE:
            value = getattr(self, name, 1.0)
            if not 0 < value < math.inf:
                raise ValueError(f"{name}: expected > 0, got {value}")
            if not SMALLEST <= value <= LARGEST:
                raise ValueError(f"{name}: expected {SMALLEST} to {LARGEST:,}, got {value}")
        if self.key is not None and (self.student is not None or self.teacher is not None):
            raise ValueError("key: names an output in place of layers; leave out student, teacher")

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        """Return the loss of outputs [N, C, H, W] or [N, C], a scalar without its weight."""
        raise NotImplementedError


@dataclass(frozen=True)
class SoftLabel(Term):
    """Softened probabilities; `cross_entropy` is SoftLabelDistiller of PaddleSlim 1.x."""

    kind: ClassVar[str] = "soft_label"
    points: ClassVar[tuple[str, ...]] = ("class_logits",)
    fits = "classes"
    form: Literal["kl", "cross_entropy"] = "kl"
    student_temperature: float = 1.0
    teacher_temperature: float = 1.0

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        temperatures = self.student_temperature, self.teacher_temperature
        return losses.soft_label(student[0], teacher[0], self.form, *temperatures)


@dataclass(frozen=True)
class Dml(Term):
    """Both divergences, as the Paddle family's DMLLoss."""

    kind: ClassVar[str] = "dml"
    points: ClassVar[tuple[str, ...]] = ("class_logits",)
    fits = "classes"

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        return losses.dml(student[0], teacher[0])


@dataclass(frozen=True)
class JsDiv(Term):
    """The Jensen-Shannon divergence of class probabilities."""

    kind: ClassVar[str] = "js_div"
    points: ClassVar[tuple[str, ...]] = ("class_logits",)
    fits = "classes"

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        return losses.js_div(student[0], teacher[0])


@dataclass(frozen=True)
class Dkd(Term):
    """Decoupled distillation; needs the batch's labels of classes."""

    kind: ClassVar[str] = "dkd"
    points: ClassVar[tuple[str, ...]] = ("class_logits",)
    fits = "classes"
    alpha: float = 1.0
    beta: float = 8.0
    temperature: float = 4.0
    label_key: str = "label"  # key of the batch: integers [N], [N, H, W], or shares [N, C] of mixup

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 0, 1e6, "alpha", "beta")

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        label = _of_batch(batch, self.label_key, f"{self.kind}.label_key")
        if label.is_floating_point():
            label = label.argmax(axis=1)
        elif label.ndim == 3:
            label = _nearest(label, student[0].shape[2:])
        return losses.dkd(student[0], teacher[0], label, self.alpha, self.beta, self.temperature)


@dataclass(frozen=True)
class Dist(Term):
    """Relations between classes and between samples."""

    kind: ClassVar[str] = "dist"
    points: ClassVar[tuple[str, ...]] = ("class_logits",)
    fits = "classes"
    inter_weight: float = 1.0
    intra_weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 0, 1e6, "inter_weight", "intra_weight")

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        weights = self.inter_weight, self.intra_weight
        return losses.dist(student[0], teacher[0], *weights, self.temperature)


@dataclass(frozen=True)
class L1(Term):
    """Mean absolute difference."""

    kind: ClassVar[str] = "l1"
    points: ClassVar[tuple[str, ...]] = ("heatmap", "feature")

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        return losses.l1(student[0], teacher[0])


@dataclass(frozen=True)
class L2(Term):
    """Mean squared difference; L2Distiller of PaddleSlim 1.x."""

    kind: ClassVar[str] = "l2"
    points: ClassVar[tuple[str, ...]] = ("heatmap", "feature")

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        return losses.l2(student[0], teacher[0])


@dataclass(frozen=True)
class SmoothL1(Term):
    """Squared where the difference is small, absolute where it is large."""

    kind: ClassVar[str] = "smooth_l1"
    points: ClassVar[tuple[str, ...]] = ("heatmap", "feature")
    delta: float = 1.0

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        return losses.smooth_l1(student[0], teacher[0], self.delta)


@dataclass(frozen=True)
class DistMse(Term):
    """Heatmaps, as DistMSELoss; unlabelled joints are left out with `use_target_weight`."""

    kind: ClassVar[str] = "dist_mse"
    points: ClassVar[tuple[str, ...]] = ("heatmap",)
    fits = "classes"
    maps_only = True
    use_target_weight: bool = True
    loss_scale: float = 0.5
    weight_key: str = "target_weight"  # key of the batch, [N, K]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 0, 1e6, "loss_scale")

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        mask = None
        if self.use_target_weight:
            mask = _of_batch(batch, self.weight_key, f"{self.kind}.use_target_weight")
        return losses.dist_mse(student[0], teacher[0], mask, self.loss_scale)


@dataclass(frozen=True)
class Fsp(Term):
    """Flow between two sections; `student` and `teacher` name two layers each."""

    kind: ClassVar[str] = "fsp"
    maps_only = True
    student: tuple[str, str] = ("", "")  # type: ignore[assignment]
    teacher: tuple[str, str] = ("", "")  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name in ("student", "teacher"):
            if not all(getattr(self, name)):
                raise ValueError(f"{name}: expected two layers, the ends of a section")
        check_range(self, 0, 1e6, "weight")
        if self.key is not None:
            raise ValueError("key: a section lies between two layers, not in an output")

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        return feature_losses.fsp((student[0], student[1]), (teacher[0], teacher[1]))


@dataclass(frozen=True)
class Cwd(Term):
    """Spatial distribution of each channel's activation; on class scores or features."""

    kind: ClassVar[str] = "cwd"
    points: ClassVar[tuple[str, ...]] = ("class_logits", "feature")
    maps_only = True
    weight: float = 3.0  # the paper's, on class scores
    temperature: float = 4.0

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        return feature_losses.cwd(student[0], teacher[0], self.temperature)


@dataclass(frozen=True)
class Mgd(Term):
    """Features generated anew from the student's, a share of whose places is masked."""

    kind: ClassVar[str] = "mgd"
    points: ClassVar[tuple[str, ...]] = ("feature",)
    maps_only = True
    weight: float = 2e-5  # the paper's, for a sum over channels and places
    masked: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.masked < 1:
            raise ValueError(f"masked: expected a share in 0..1 (less than 1), got {self.masked}")

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        return feature_losses.mgd(student[0], teacher[0])


@dataclass(frozen=True)
class Pkd(Term):
    """Correlation of each channel."""

    kind: ClassVar[str] = "pkd"
    points: ClassVar[tuple[str, ...]] = ("feature",)
    maps_only = True

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        return feature_losses.pkd(student[0], teacher[0])


@dataclass(frozen=True)
class Attention(Term):
    """Attention transfer; channels may differ without an adapter."""

    kind: ClassVar[str] = "attention"
    points: ClassVar[tuple[str, ...]] = ("feature",)
    fits = "resize"
    maps_only = True
    power: float = 2.0

    def compute(self, student: Tensors, teacher: Tensors, batch: Batch) -> Tensor:
        return feature_losses.attention(student[0], teacher[0], self.power)


AnyTerm = (
    SoftLabel
    | Dml
    | JsDiv
    | Dkd
    | Dist
    | L1
    | L2
    | SmoothL1
    | DistMse
    | Fsp
    | Cwd
    | Mgd
    | Pkd
    | Attention
)


def _of_batch(batch: Batch, key: str, setting: str) -> Tensor:
    if key not in batch:
        raise ConfigError(f"{setting}: the batch has no {key!r}, only {', '.join(batch)}")
    return batch[key]


def _nearest(label: Tensor, size: Sequence[int]) -> Tensor:
    """Shrink label maps [N, H, W] to the size of a map of logits."""
    shrunk = F.interpolate(label.unsqueeze(1).astype("float32"), list(size), mode="nearest")
    return shrunk.squeeze(1).astype("int64")
