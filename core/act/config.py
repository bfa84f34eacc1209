"""Settings of compressing exported models; the sections and names of ACT are PaddleSlim's."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from core.act.refused import refuse, without_idle
from core.errors import ConfigError
from core.quant.choices import WeightType
from core.runtimes.formats import find_files
from core.settings.config import load_yaml, read
from core.settings.optimizer_config import (
    MOST_DECAY,
    MOST_MOMENTUM,
    AdamW,
    Momentum,
    OptimizerConfig,
    Sgd,
)
from core.settings.ranges import check_range
from core.targets.names import Processors

OpType = Literal["conv2d", "depthwise_conv2d", "conv2d_transpose", "matmul_v2", "matmul", "mul"]
OP_TYPES: tuple[OpType, ...] = ("conv2d", "depthwise_conv2d", "conv2d_transpose", "matmul_v2")
# operators of linear layers in programs of Paddle before 2.1; files name both
LINEAR: Mapping[str, str] = MappingProxyType({"matmul": "matmul_v2", "mul": "matmul_v2"})
LossKind = Literal["l2", "soft_label"]
# those that PaddleSlim has
StaticObserver = Literal["abs_max", "avg", "percentile", "kl", "mse", "emd"]
STATIC_OBSERVERS: tuple[StaticObserver, ...] = get_args(StaticObserver)
RATE, BATCH = 0.015, 32  # a rate that fits this batch; both grow and shrink together
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OperatorChoice:
    """Settings that choose the operators to quantize, with and without training.

    Attributes:
        quantize_op_types: Types of operators to quantize.
        never_quantize: Globs on layers that stay in float.
        processors: Processors on which the files must be right, see `QatConfig`.
        weight_quantize_type: A grid for each output channel, or one for the weight.
    """

    quantize_op_types: tuple[OpType, ...] = OP_TYPES
    never_quantize: tuple[str, ...] = ()
    processors: Processors = "any"
    weight_quantize_type: WeightType = "channel_wise_abs_max"

    def __post_init__(self) -> None:
        if not self.quantize_op_types:
            raise ValueError("quantize_op_types: names no operator")

    @property
    def operators(self) -> list[str]:
        """Return the types of operators to quantize, as programs have them."""
        return operators_of(self.quantize_op_types)

    @property
    def per_channel(self) -> bool:
        """Tell whether each output channel of a weight has a grid."""
        return self.weight_quantize_type == "channel_wise_abs_max"


@dataclass(frozen=True)
class StaticPtqConfig(OperatorChoice):
    """Settings of `quant_post_static`.

    Attributes:
        observer: Observer that sets the ends of grids: PaddleSlim's `algo`, by our names.
        percentile: Share of the values within, of `percentile` (its `hist`).
    """

    observer: StaticObserver = "mse"
    percentile: float = 0.9999

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.percentile <= 1:
            raise ValueError(f"percentile: expected above 0, up to 1, got {self.percentile}")

    @property
    def algo(self) -> str:
        """Return PaddleSlim's name of the observer."""
        return {"kl": "KL", "percentile": "hist"}.get(self.observer, self.observer)


@dataclass(frozen=True)
class GlobalConfig:
    """The model and its data.

    Attributes:
        model_dir: Folder of the exported float model.
        model_filename: Name of the program; null finds one of the usual names.
        params_filename: Name of the weights file.
        batch_size: Batch size of each process.
        data_dir: Folder of the data set, instead of the task's `data.root`.
        images: Folder of images to train on, without labels; null: the task's training split.
        input_name: Checked against the model's input.
        seed: Seed of order and augmentation.
        calibration_batches: Number of training batches that set the first grids.
    """

    model_dir: str
    model_filename: str | None = None
    params_filename: str | None = None
    batch_size: int = BATCH
    data_dir: str | None = None
    images: str | None = None
    input_name: str | None = None
    seed: int = 0
    calibration_batches: int = 8

    def __post_init__(self) -> None:
        for name in ("batch_size", "calibration_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        check_range(self, 1, 1_000_000, "batch_size")
        check_range(self, 1, 10_000, "calibration_batches")
        check_range(self, 0, 2**32 - 1, "seed")

    def check_files(self) -> None:
        """Refuse a folder whose files of the names that are given are not those that are opened.

        Raises:
            ExportError: The folder holds no model.
            ConfigError: A name is not that of its file.
        """
        found = [file.name for file in find_files(Path(self.model_dir), "paddle")]
        for key, name in zip(("model_filename", "params_filename"), found):
            given = getattr(self, key)
            if given not in (None, name):
                raise ConfigError(f"Global.{key}: {self.model_dir} has {name!r}, got {given!r}")


@dataclass(frozen=True)
class DistillationConfig:
    """Terms by which the quantized model learns from the float one.

    Attributes:
        loss: One for all nodes, or one for each group of nodes.
        node: Variables of the model, or groups of them; empty: what the outputs are made of.
        alpha: Weight of the loss, or one for each group.
    """

    loss: LossKind | tuple[LossKind, ...] = "l2"
    node: tuple[str, ...] | tuple[tuple[str, ...], ...] = ()
    alpha: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        grouped = bool(self.node) and not isinstance(self.node[0], str)
        if grouped and not all(self.node):
            raise ValueError(f"node: group {self.node.index(())} names no variable")
        count = len(self.node) if grouped else 1
        for name in ("loss", "alpha"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != count:
                wanted = f"one for each of {count} groups of nodes" if grouped else "one"
                raise ValueError(f"{name}: expected {wanted}, got {len(value)}")
        check_range(self, 0, 1e6, "alpha")

    def groups(self, default: list[str]) -> list[tuple[LossKind, float, tuple[str, ...]]]:
        """Return loss, weight and nodes of each group."""
        nodes: list[Any] = list(self.node) or list(default)
        grouped = [tuple(nodes)] if isinstance(nodes[0], str) else nodes
        losses = self.loss if isinstance(self.loss, tuple) else (self.loss,) * len(grouped)
        alphas = self.alpha if isinstance(self.alpha, tuple) else (self.alpha,) * len(grouped)
        return list(zip(losses, alphas, grouped))


@dataclass(frozen=True)
class QuantAwareConfig(OperatorChoice):
    """Settings of rounding in training.

    Attributes:
        activation_quantize_type: Rule that moves the ends of grids: an average of the batches'
            largest magnitudes, or the largest of a window of batches.
        moving_rate: Share of a moving average that stays with each batch.
        window_size: Batches of `range_abs_max`.
        use_pact: Whether training learns a threshold for each tensor that layers read, at which it
            is clipped.
    """

    activation_quantize_type: Literal["moving_average_abs_max", "range_abs_max"] = (
        "moving_average_abs_max"
    )
    moving_rate: float = 0.9
    window_size: int = 10000
    use_pact: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.moving_rate < 1:
            raise ValueError(f"moving_rate: expected 0 or more and below 1, got {self.moving_rate}")
        check_range(self, 1, 100_000, "window_size")


@dataclass(frozen=True)
class Decay:
    """A learning rate that falls.

    Attributes:
        type: Name of one of Paddle's classes.
        learning_rate: At the beginning; of `CosineAnnealingDecay`.
        T_max: Steps of half a cosine, after which the rate rises again; null: all.
        boundaries: Steps at which `PiecewiseDecay` goes on to the next of `values`.
        values: One more than boundaries.
    """

    type: Literal["CosineAnnealingDecay", "PiecewiseDecay"]
    learning_rate: float | Literal["auto"] = "auto"
    T_max: int | None = None
    boundaries: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        piecewise = self.type == "PiecewiseDecay"
        if piecewise and len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"values: expected {len(self.boundaries) + 1}, one more than boundaries, got "
                f"{len(self.values)}"
            )
        if any(first >= last for first, last in itertools.pairwise((0, *self.boundaries))):
            rising = "steps from 1 on, each after the one before"
            raise ValueError(f"boundaries: expected {rising}, got {list(self.boundaries)}")
        if not piecewise and (self.boundaries or self.values):
            raise ValueError("boundaries: only PiecewiseDecay has boundaries and values")
        if self.T_max is not None and self.T_max < 1:
            raise ValueError(f"T_max: expected 1 or more, got {self.T_max}")


@dataclass(frozen=True)
class OptimizerType:
    """One of Paddle's optimizers."""

    type: Literal["SGD", "Momentum", "AdamW"] = "SGD"
    momentum: float = 0.9  # for Momentum
    use_nesterov: bool = False

    def __post_init__(self) -> None:
        check_range(self, 0, MOST_MOMENTUM, "momentum")


@dataclass(frozen=True)
class GradClip:
    """A limit on gradients."""

    type: Literal["ClipGradByGlobalNorm"]
    clip_norm: float

    def __post_init__(self) -> None:
        if not self.clip_norm > 0:
            raise ValueError(f"clip_norm: expected > 0, got {self.clip_norm}")


@dataclass(frozen=True)
class OptimizerBuilder:
    """Settings of the optimizer."""

    optimizer: OptimizerType = field(default_factory=OptimizerType)
    weight_decay: float = 0.0
    grad_clip: GradClip | None = None

    def __post_init__(self) -> None:
        check_range(self, 0, MOST_DECAY, "weight_decay")

    @property
    def config(self) -> OptimizerConfig:
        """Return it in the core's words."""
        given, decay = self.optimizer, self.weight_decay
        if given.type == "Momentum":
            return Momentum(given.momentum, given.use_nesterov, decay)
        return AdamW(weight_decay=decay) if given.type == "AdamW" else Sgd(decay)


@dataclass(frozen=True)
class ActScheduleConfig:
    """Length and learning rate of the training.

    Attributes:
        epochs: Passes over the training data.
        train_iter: Steps; the shorter of both counts.
        learning_rate: A number, `auto` (0.015 for 32 images in a step, in proportion), or a decay.
        optimizer_builder: Settings of the optimizer.
        eval_iter: Steps between measurements.
        logging_iter: Steps between lines of the log.
        origin_metric: Metric that the float model should reach; more than 0.05 off is an error.
        target_metric: Metric at which training may stop.
    """

    epochs: int | None = None
    train_iter: int | None = None
    learning_rate: float | Literal["auto"] | Decay = "auto"
    optimizer_builder: OptimizerBuilder = field(default_factory=OptimizerBuilder)
    eval_iter: int = 1000
    logging_iter: int = 10
    origin_metric: float | None = None
    target_metric: float | None = None

    def __post_init__(self) -> None:
        if self.epochs is None and self.train_iter is None:
            raise ValueError("epochs: required, or train_iter, but neither is given")
        for name in ("epochs", "train_iter", "eval_iter", "logging_iter"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected 1 or more, got {value}")
        rates = [self.learning_rate]
        if isinstance(self.learning_rate, Decay):
            rates = [self.learning_rate.learning_rate, *self.learning_rate.values]
        for rate in rates:
            if not isinstance(rate, str) and not (0 < rate < math.inf):  # type: ignore[operator]
                raise ValueError(f"learning_rate: expected > 0, got {rate}")

    def rate(self, step: int, total: int, images: int) -> float:
        """Return the learning rate of a step.

        Args:
            step: From 0.
            total: Number of steps.
            images: Images in each step, over all processes.
        """
        given = self.learning_rate
        if isinstance(given, Decay) and given.type == "PiecewiseDecay":
            return given.values[sum(step >= boundary for boundary in given.boundaries)]
        if isinstance(given, Decay):
            done = step / (given.T_max or total)  # it rises again after T_max, as Paddle's does
            return _base(given.learning_rate, images) * 0.5 * (1.0 + math.cos(math.pi * done))
        return _base(given, images)

    def warn_of_rate(self, images: int) -> None:
        """Log the rate that the rule gives, if the given rate is another."""
        given, rule = self.rate(0, 1, images), _base("auto", images)
        if not math.isclose(given, rule):
            _log.warning(
                "TrainConfig.learning_rate: %g for %d images in a step; in proportion to %g for "
                "%d, which `auto` follows, it would be %g",
                *(given, images, RATE, BATCH, rule),
            )


@dataclass(frozen=True)
class ActConfig:
    """The whole file."""

    Global: GlobalConfig
    QuantAware: QuantAwareConfig
    TrainConfig: ActScheduleConfig
    Distillation: DistillationConfig | None = None


def operators_of(kinds: Sequence[OpType]) -> list[str]:
    """Return types of operators as programs of today call them."""
    return list(dict.fromkeys(LINEAR.get(kind, kind) for kind in kinds))


def read_act(config: str | Path | dict[str, Any]) -> ActConfig:
    """Read a YAML file, or its content.

    Raises:
        ConfigError: An unknown section or key, or a wrong value.
    """
    content = config if isinstance(config, dict) else load_yaml(config)
    refuse(content)
    acting = without_idle(content)
    return read(ActConfig, {key: value or {} for key, value in acting.items()})


def _base(rate: float | Literal["auto"], images: int) -> float:
    return RATE * images / BATCH if rate == "auto" else float(rate)
