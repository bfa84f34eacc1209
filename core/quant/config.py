"""Settings of quantization-aware training; the names are those of the seeds' `quant_config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from core.quant.choices import LayerType, WeightType
from core.quant.hinted import check_reconstruct, settings_of
from core.quant.observers import OBSERVERS
from core.quant.quantizers import Rounding
from core.quant.scales import BITS
from core.settings.hints import ObserverKind, QuantHints
from core.settings.ranges import check_range
from core.strategy import StrategyConfig
from core.targets.names import Processors, RoundedOutputs, Target
from core.targets.presets import check_zero_points


@dataclass(frozen=True)
class QatConfig(StrategyConfig):
    """Settings of quantization-aware training.

    Attributes:
        weight_quantize_type: A grid for each output channel, or one for the weight.
        activation_quantize_type: See `core.quant.quantizers.Rounding`.
        activation_preprocess_type: PACT learns where activations are clipped.
        weight_bits: 2 to 8. Files hold 8.
        activation_bits: 2 to 8. Files hold 8.
        dtype: Type of the files; only int8 exists.
        window_size: Batches that `range_abs_max` looks back on.
        moving_rate: Share of a moving average that stays with each batch.
        quantizable_layer_type: Classes of layers to quantize.
        never_quantize: Globs of layers that stay in float, beside those of the task.
        target: Runtime on whose grids training rounds. Activations that are never negative have
            grids from zero on for onnxruntime and openvino, and behind a ReLU for paddle.
        processors: Processors on which the files must be right. `any`: all x86-64 and ARM
            processors; this costs a fraction of a bit of the weights. `vnni`: only those with
            instructions for dot products of bytes (x86 with VNNI, ARM with dotprod); on others the
            files give wrong answers.
        quantize_outputs: Activations that are rounded beside the inputs of layers. `none`: no
            others. `residual`: operands of residual additions that come from further back, and
            sums that layers read. `all`: all outputs of quantized layers too (full
            quantization). null: what makes the files of the target fastest.
        zero_points: Whether activations that may be negative have grids with a zero point. Only for
            onnxruntime and openvino; files of other targets have none. null: as the task suggests,
            where the target knows them and nothing clips both ends alike.
        balance: Whether to equalize the ranges of the channels of activations before calibration,
            see `core.quant.balance`; null: as the task suggests.
        reconstruct: Whether to fit weights and biases layer by layer after calibration, see
            `core.quant.reconstruction`; null: as the task suggests, for `channel_wise_abs_max`.
        observer: Observer that sets the grids of activations; null: as the task suggests.
        calibration_samples: Training images of the calibration.
        warmup_epochs: Epochs over which the learning rate rises; null: as the task suggests.
        freeze_bn_after: Epochs after which batch norms keep their statistics; null: never, but at
            once where grids stay, as they are for activations in evaluation.
        observer_off_after: Epochs after which grids keep their ends; null: never, but at once where
            `keeps_grids`.
    """

    BEFORE: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"processors": "vnni", "balance": False, "reconstruct": False}
    )
    OPEN: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"observer": "avg", "zero_points": False, "balance": False, "reconstruct": False}
    )

    weight_quantize_type: WeightType = "channel_wise_abs_max"
    activation_quantize_type: Literal[
        "moving_average_abs_max", "range_abs_max", "abs_max", "lsq"
    ] = "moving_average_abs_max"
    activation_preprocess_type: Literal["PACT"] | None = None
    weight_bits: int = 8
    activation_bits: int = 8
    dtype: Literal["int8"] = "int8"
    window_size: int = 10000
    moving_rate: float = 0.9
    quantizable_layer_type: tuple[LayerType, ...] = ("Conv2D", "Conv2DTranspose", "Linear")
    never_quantize: tuple[str, ...] = ()
    target: Target = "paddle"
    processors: Processors = "any"
    quantize_outputs: RoundedOutputs | None = None
    zero_points: bool | None = None
    balance: bool | None = None
    reconstruct: bool | None = None
    observer: ObserverKind | None = None
    calibration_samples: int = 128
    warmup_epochs: float | None = None
    freeze_bn_after: int | None = None
    observer_off_after: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("weight_bits", "activation_bits"):
            if getattr(self, name) not in BITS:
                raise ValueError(f"{name}: expected {BITS[0]} to {BITS[-1]}")
        if not 0 <= self.moving_rate < 1:
            raise ValueError(f"moving_rate: expected 0 or more and below 1, got {self.moving_rate}")
        for name in ("window_size", "calibration_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        check_range(self, 1, 1_000_000, "window_size")
        for name in ("warmup_epochs", "freeze_bn_after", "observer_off_after"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}: expected 0 or more, got {value}")
        check_range(self, 0, 1_000_000, "warmup_epochs")
        if not self.quantizable_layer_type:
            raise ValueError("quantizable_layer_type: names no layer")
        check_zero_points(bool(self.zero_points), self.target)
        check_reconstruct(self.reconstruct, self.weight_quantize_type)
        if self.zero_points and self.activation_preprocess_type:
            raise ValueError("zero_points: PACT clips both ends alike; give one of them")
        if self.activation_preprocess_type and self.activation_quantize_type == "lsq":
            raise ValueError("activation_preprocess_type: lsq learns its grid itself; give one")

    def completed(self, hints: QuantHints) -> QatConfig:
        """Return the settings with the hints of a task in place of None."""
        found = settings_of(self, hints)
        if self.zero_points is None and self.activation_preprocess_type:
            found["zero_points"] = False  # PACT clips both ends alike
        return replace(self, **found)

    @property
    def keeps_grids(self) -> bool:
        """Return whether grids stay as the observer found them in evaluation; it must be known.

        A moving average of the largest magnitudes would undo what it clips.
        """
        assert self.observer is not None
        averages = self.activation_quantize_type == "moving_average_abs_max"
        free = self.observer_off_after is None and self.activation_preprocess_type is None
        return free and averages and OBSERVERS[self.observer].clips

    @property
    def rounding(self) -> Rounding:
        """Return how each layer is rounded."""
        return Rounding(
            weight_type=self.weight_quantize_type,
            activation_type=self.activation_quantize_type,
            pact=self.activation_preprocess_type is not None,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            processors=self.processors,
            zero_points=bool(self.zero_points),
            moving_rate=self.moving_rate,
            window_size=self.window_size,
        )
