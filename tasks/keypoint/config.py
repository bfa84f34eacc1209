"""Settings of the keypoint task, as the sections of its YAML files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from core.settings.ranges import check_range, check_weights
from core.training.image_settings import MOST_SEED, MOST_SIDE, check_input, check_split
from core.training.loader import OnError
from tasks.keypoint.joints import JointsConfig, JointSet, resolve_joints
from tasks.keypoint.models.config import ModelConfig

BoxEnds = Literal["edge", "last_pixel"]


@dataclass(frozen=True)
class DataConfig:
    """Where the images and COCO keypoint annotations are, and how a person is cut out.

    Attributes:
        root: Folder of the data set; the other paths are relative to it.
        train_annotations: COCO keypoint JSON of the training split, or the data.yaml of YOLO pose.
        val_annotations: Likewise of the validation split.
        train_images: Folder of the training images.
        val_images: Folder of the validation images.
        val_share: Share of the images for validation, where one annotation file holds all; null:
            each split has its own file.
        split_seed: Another seed draws another such split.
        category: Name or id of the category whose annotations are persons; null takes the first
            category that has keypoints.
        input_size: Height and width that a person is cut to, multiples of 32.
        padding: How much larger than its box a person is cut out.
        box_ends: An annotated box ends at the edge of its last pixel, or at its last pixel's
            centre: a pixel smaller, as PaddleDetection and HRNet's authors cut persons out.
        detections: JSON of detected boxes to evaluate on; null takes the annotated boxes.
        detection_score: Detections below this score are left out.
        mean: Mean of the RGB channels that the network expects, for values in [0, 1].
        std: Standard deviation likewise.
        on_error: Stop at a broken image, or leave it out and count it.
        num_workers: Processes that read ahead.
    """

    root: str
    train_annotations: str = "annotations/person_keypoints_train2017.json"
    val_annotations: str = "annotations/person_keypoints_val2017.json"
    train_images: str = "train2017"
    val_images: str = "val2017"
    val_share: float | None = None
    split_seed: int = 0
    category: str | int | None = None
    input_size: tuple[int, int] = (256, 192)
    padding: float = 1.25
    box_ends: BoxEnds = "edge"
    detections: str | None = None
    detection_score: float = 0.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    on_error: OnError = "fail"
    num_workers: int = 2

    def __post_init__(self) -> None:
        if any(size <= 0 or size % 32 for size in self.input_size):
            got = list(self.input_size)
            raise ValueError(f"input_size: expected height and width in multiples of 32, got {got}")
        if self.padding <= 0:
            raise ValueError(f"padding: expected > 0, got {self.padding}")
        if min(self.std) <= 0:
            raise ValueError(f"std: expected numbers > 0, got {list(self.std)}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers: expected 0 or more, got {self.num_workers}")
        check_range(self, 32, MOST_SIDE, "input_size")
        check_range(self, 0.1, 100, "padding")
        check_range(self, -1e6, 1e6, "detection_score")
        check_input(self)
        check_split(self)


@dataclass(frozen=True)
class CodecConfig:
    """How points become heatmaps and come back.

    Attributes:
        udp: Unbiased data processing (Huang et al., CVPR 2020): a picture of n pixels is n - 1
            long, so flipping and scaling agree. False is the affine of the first HRNet.
        target: `rounded` centres a cut-off Gaussian on a pixel, `subpixel` on the point itself.
        sigma: Deviation of the Gaussian in pixels of the heatmap.
        decoding: `argmax`, `quarter` (a quarter pixel towards the higher neighbour) or `dark`
            (Zhang et al., CVPR 2020: a Taylor step on the logarithm of the smoothed heatmap).
        blur_kernel: Odd size of the kernel that smooths for `dark`; null fits it to sigma.
    """

    udp: bool = True
    target: Literal["rounded", "subpixel"] = "subpixel"
    sigma: float = 2.0
    decoding: Literal["argmax", "quarter", "dark"] = "dark"
    blur_kernel: int | None = None

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ValueError(f"sigma: expected > 0, got {self.sigma}")
        check_range(self, 0.1, 100, "sigma")
        check_range(self, 3, 101, "blur_kernel")
        if self.blur_kernel is not None and (self.blur_kernel < 3 or self.blur_kernel % 2 == 0):
            raise ValueError(f"blur_kernel: expected an odd number > 1, got {self.blur_kernel}")


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of a person in training; all but erasing goes into one affine map.

    Attributes:
        flip: Probability of a mirror image.
        half_body: Probability of cutting out the upper or lower body alone.
        half_body_joints: Labelled joints a person must exceed for that.
        scale: The box grows by a factor drawn from N(1, scale), clipped to 1 -+ scale.
        rotation: Degrees, drawn from N(0, rotation), clipped to twice that.
        rotate: Probability of a rotation.
        erase: Probability of erasing a random rectangle of the cut-out.
        erase_area: Smallest and largest share of the cut-out that is erased.
    """

    flip: float = 0.5
    half_body: float = 0.3
    half_body_joints: int = 8
    scale: float = 0.5
    rotation: float = 40.0
    rotate: float = 0.6
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.2)

    def __post_init__(self) -> None:
        for name in ("flip", "half_body", "rotate", "erase"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a probability from 0 to 1, got {value}")
        if not 0 <= self.scale < 1:
            raise ValueError(f"scale: expected 0 <= scale < 1, got {self.scale}")
        if self.rotation < 0:
            raise ValueError(f"rotation: expected 0 or more degrees, got {self.rotation}")
        check_range(self, 0, 180, "rotation")
        check_range(self, 0, 10_000, "half_body_joints")
        low, high = self.erase_area
        if not 0 < low <= high < 1:
            raise ValueError(f"erase_area: expected 0 < low <= high < 1, got [{low}, {high}]")


@dataclass(frozen=True)
class MseLoss:
    """Mean squared error of the heatmaps, averaged over all joints (KeyPointMSELoss).

    Attributes:
        loss_scale: Factor on the loss.
        use_target_weight: Leave unlabelled joints out.
        joint_weights: Weight per joint; null weighs all alike.
    """

    kind: ClassVar[str] = "mse"
    loss_scale: float = 0.5
    use_target_weight: bool = True
    joint_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_range(self, 1e-6, 1e6, "loss_scale")
        check_weights("joint_weights", self.joint_weights or ())


@dataclass(frozen=True)
class OhkmLoss:
    """The same error, of the `top_k` joints of each person that are worst (Chen et al., 2018).

    Attributes:
        top_k: How many joints count.
        loss_scale: Factor on the loss.
        use_target_weight: Leave unlabelled joints out.
        joint_weights: Weight per joint; null weighs all alike.
    """

    kind: ClassVar[str] = "ohkm"
    top_k: int = 8
    loss_scale: float = 0.5
    use_target_weight: bool = True
    joint_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k: expected 1 or more, got {self.top_k}")
        check_range(self, 1e-6, 1e6, "loss_scale")
        check_weights("joint_weights", self.joint_weights or ())


@dataclass(frozen=True)
class EvaluationConfig:
    """How predictions are made and scored.

    Attributes:
        flip_test: Average the heatmaps of the image and of its mirror image.
        shift_heatmap: Move the mirrored heatmaps by one pixel before that; null does so for
            networks trained without UDP, whose mirror images are displaced.
        oks_nms: If the OKS of two persons in an image is above this, only the better one counts;
            null keeps all.
        joint_score: Joints scored below this do not count in a person's score, and are not drawn.
        pck_unit: The unit of PCK: the larger side of the person's box, or the torso's length.
        pck_threshold: A joint closer than this many units is correct.
    """

    flip_test: bool = True
    shift_heatmap: bool | None = None
    oks_nms: float | None = 0.9
    joint_score: float = 0.2
    pck_unit: Literal["box", "torso"] = "box"
    pck_threshold: float = 0.2

    def __post_init__(self) -> None:
        if self.oks_nms is not None and not 0 < self.oks_nms <= 1:
            raise ValueError(f"oks_nms: expected 0 < oks_nms <= 1 or null, got {self.oks_nms}")
        if self.pck_threshold <= 0:
            raise ValueError(f"pck_threshold: expected > 0, got {self.pck_threshold}")
        check_range(self, 1e-6, 1e6, "pck_threshold")


@dataclass(frozen=True)
class SyntheticConfig:
    """Stick figures that are drawn when data.root holds no annotations yet.

    Attributes:
        train_images: Images of the training split.
        val_images: Images of the validation split.
        size: Height and width of an image.
        seed: Another seed draws other figures.
    """

    train_images: int = 256
    val_images: int = 64
    size: tuple[int, int] = (128, 128)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train_images", "val_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if min(self.size) < 64:
            raise ValueError(f"size: expected at least 64 pixels, got {list(self.size)}")
        check_range(self, 1, 1_000_000, "train_images", "val_images")
        check_range(self, 64, 4096, "size")
        check_range(self, 0, MOST_SEED, "seed")


@dataclass(frozen=True)
class Config:
    """All settings of the keypoint task.

    Attributes:
        model: The network.
        data: Images and annotations.
        codec: Points to heatmaps and back.
        joints: Set of joints; COCO's 17 need no settings.
        augment: Random changes in training.
        loss: `kind: mse` or `kind: ohkm`.
        evaluation: How predictions are made and scored.
        synthetic: Draw the data if there are none; null for real data.
    """

    model: ModelConfig
    data: DataConfig
    codec: CodecConfig = field(default_factory=CodecConfig)
    joints: JointsConfig = field(default_factory=JointsConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: MseLoss | OhkmLoss = field(default_factory=MseLoss)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    synthetic: SyntheticConfig | None = None

    def __post_init__(self) -> None:
        joints = self.joint_set
        count = self.model.num_joints
        if joints.flip_pairs is None and (self.augment.flip > 0 or self.evaluation.flip_test):
            raise ValueError(
                "joints.flip_pairs: needed for augment.flip and evaluation.flip_test; "
                "give the pairs, [] if the joints have no sides"
            )
        if joints.upper_body is None and self.augment.half_body > 0:
            raise ValueError("joints.upper_body: needed for augment.half_body (0 turns it off)")
        if joints.torso is None and self.evaluation.pck_unit == "torso":
            raise ValueError("joints.torso: needed for evaluation.pck_unit: torso")
        weights = self.loss.joint_weights
        if weights is not None and len(weights) != count:
            raise ValueError(f"loss.joint_weights: expected {count} values, got {len(weights)}")
        if isinstance(self.loss, OhkmLoss) and self.loss.top_k > count:
            raise ValueError(f"loss.top_k: expected at most {count}, got {self.loss.top_k}")
        if self.synthetic is not None and count != 17:
            raise ValueError(f"synthetic: draws 17 joints, but model.num_joints is {count}")

    @property
    def joint_set(self) -> JointSet:
        """The joints with all gaps filled."""
        return resolve_joints(self.joints, self.model.num_joints)
