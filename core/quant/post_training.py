"""Post-training quantization: quantize a trained model from images alone, without training.

Images are only run through the model; neither labels nor gradients are needed. The order is: choose
layers, equalize channels, re-estimate batch norms, calibrate, reconstruct layers or correct biases;
all but the first and calibration are optional. The result has quantized layers with fixed grids. It
is saved, restored and exported like a model from quantization-aware training.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import paddle
from paddle import Tensor
from paddle.nn import Layer

from core.errors import CheckpointError, ConfigError
from core.graph.program import Graph
from core.network.batch_norms import reestimate
from core.network.bias_correction import bias_places, correct_biases, output_means
from core.network.layer_fitting import few_of_one_size
from core.quant.apply import apply_quantization
from core.quant.balance import balance
from core.quant.calibration import CalibrationBatches, few_of, first_batches
from core.quant.choices import LayerType, WeightType
from core.quant.equalize import equalize
from core.quant.grid_plan import choose_layers_and_grids
from core.quant.hinted import check_reconstruct, settings_of
from core.quant.layers import quantized_layers
from core.quant.observers import OBSERVERS
from core.quant.quantizers import Rounding
from core.quant.reconstruction import noting_while_calibrated, reconstruct
from core.quant.scales import BITS
from core.quant.selection import LayerSelection, summary
from core.quant.sites import float_sites
from core.settings.hints import ObserverKind
from core.targets.names import Processors, RoundedOutputs, Target
from core.targets.presets import check_zero_points
from core.task import QuantHints, Task

_log = logging.getLogger(__name__)


ENOUGH = 100  # images of a calibration; with fewer, rare large activations are missed


@dataclass(frozen=True)
class PtqConfig:
    """Settings of post-training quantization.

    Settings that are None follow the hints of the task (`SlimHints.ptq`) for its network.

    Attributes:
        observer: Observer that sets the grids of activations.
        weight_quantize_type: A grid for each output channel, or one for the weight.
        weight_bits: 2 to 8. Files hold 8.
        activation_bits: 2 to 8. Files hold 8.
        quantizable_layer_type: Classes of layers to quantize.
        never_quantize: Globs of layers that stay in float, beside those of the task.
        target: Runtime on whose grids the eager model rounds. For onnxruntime and openvino
            activations that are never negative have grids without a sign.
        processors: Processors on which the files must be right. `any`: all x86-64 and ARM
            processors; this costs a fraction of a bit of the weights. `vnni`: only those with
            instructions for dot products of bytes (x86 with VNNI, ARM with dotprod); on others the
            files give wrong answers.
        quantize_outputs: See `core.quant.config.QatConfig`.
        zero_points: See `core.quant.config.QatConfig`. The hint holds for targets that know them.
        equalize: Equalize the ranges of channels between layers before calibration.
        balance: Equalize the ranges of the channels of activations before calibration, see
            `core.quant.balance`.
        reconstruct: After calibration, fit weights, roundings and biases layer by layer to what the
            layers made in float, see `core.quant.reconstruction`; for `channel_wise_abs_max`.
        bias_correction: Correct the biases after calibration, so that outputs of layers have the
            means that they had in float. Reconstruction does that, too.
        reestimate_bn: Re-estimate the statistics of batch norms on the calibration images
            before calibration.
    """

    observer: ObserverKind | None = None
    weight_quantize_type: WeightType = "channel_wise_abs_max"
    weight_bits: int = 8
    activation_bits: int = 8
    quantizable_layer_type: tuple[LayerType, ...] = ("Conv2D", "Conv2DTranspose", "Linear")
    never_quantize: tuple[str, ...] = ()
    target: Target = "paddle"
    processors: Processors = "any"
    quantize_outputs: RoundedOutputs | None = None
    zero_points: bool | None = None
    equalize: bool = False
    balance: bool | None = None
    reconstruct: bool | None = None
    bias_correction: bool = False
    reestimate_bn: bool = False

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits"):
            if getattr(self, name) not in BITS:
                raise ValueError(f"{name}: expected {BITS[0]} to {BITS[-1]}")
        if not self.quantizable_layer_type:
            raise ValueError("quantizable_layer_type: names no layer")
        check_zero_points(bool(self.zero_points), self.target)
        check_reconstruct(self.reconstruct, self.weight_quantize_type)

    def completed(self, hints: QuantHints) -> PtqConfig:
        """Return the settings with the hints of a task in place of None."""
        return replace(self, **settings_of(self, hints))

    @property
    def reads_gradients(self) -> bool:
        """Tell whether the observer wants gradients, which a few images are enough for."""
        return self.observer is not None and OBSERVERS[self.observer].reads_gradients

    @property
    def rounding(self) -> Rounding:
        """Return how each layer is rounded."""
        return Rounding(
            weight_type=self.weight_quantize_type,
            activation_type="fixed",
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            processors=self.processors,
            zero_points=bool(self.zero_points),
        )


def quantize_after_training(
    task: Task,
    model: Layer,
    batches: CalibrationBatches,
    config: PtqConfig,
    progress: bool = False,
) -> LayerSelection:
    """Quantize a trained model in place.

    The edit for a checkpoint is `("qat", apply.record_of(model))`, behind those of the model.

    Args:
        task: Defines the inputs, and hints at layers that stay in float.
        model: In float. After an error its layers are in float again, but weights may have been
            rescaled and batch norms re-estimated.
        batches: Returns inputs of the model, [N, C, H, W] for images, from the first one on.
        config: Settings of the quantization.
        progress: Show how far the reconstruction is.

    Returns:
        The quantized layers, and why the others were not quantized.

    Raises:
        CheckpointError: The model holds weights that are not finite; names the weight.
        ConfigError: The model is quantized already, or nothing is left to quantize.
        DataError: No batches, or activations that are not finite; names the layer.
    """
    if quantized_layers(model):
        raise ConfigError("weights: the model is quantized already; start from one in float")
    _check_finite(model)
    config = config.completed(task.slim_hints(model).ptq)
    assert config.observer is not None
    choice, plan, graph = choose_layers_and_grids(task, model, config)
    if config.reads_gradients:
        batches = first_batches(batches)
    _prepare(task, model, graph, batches, config)
    del graph  # it holds a copy of all weights
    count = _Count()
    seen = count.through(batches())
    together = config.reconstruct and config.reads_gradients
    noting = noting_while_calibrated(model, choice, plan, batches) if together else nullcontext()
    with noting as noted:
        made = apply_quantization(model, choice, config.rounding, seen, config.observer, plan)
    wanted = f"{count.few} or more" if config.reads_gradients else f"{ENOUGH} to 500"
    if count.images < (count.few if config.reads_gradients else ENOUGH):
        _log.warning(
            "ptq: calibrated on %d images; %s that look like those of later use are wanted",
            *(count.images, wanted),
        )
    _log.info("%s", "\n".join(summary(made)))
    if config.reconstruct:
        few = few_of_one_size(batches())
        fitted = reconstruct(model, made.layers, plan.norms, few, progress, noted)
        _log.info("ptq: fitted %d layers to what they made in float", fitted)
    elif config.bias_correction:
        _correct_biases(model, made.layers, plan.norms, batches)
    return made


def _prepare(
    task: Task, model: Layer, graph: Graph, batches: CalibrationBatches, config: PtqConfig
) -> None:
    """Equalize, balance and re-estimate batch norms of the float model, as asked for."""
    if config.equalize:
        pairs = equalize(model, task.input_spec())
        _log.info("ptq: evened out the channels between %d pairs of layers", len(pairs))
    if config.balance:
        count = balance(model, graph, task.input_spec(), batches())
        _log.info("ptq: evened out activations, %d groups of channels were rescaled", count)
    if config.reestimate_bn:
        _log.info("ptq: estimated %d batch norms anew", reestimate(model, batches()))


def _check_finite(model: Layer) -> None:
    for name, tensor in model.state_dict().items():
        if not bool(paddle.isfinite(tensor).all()):
            raise CheckpointError(
                f"{name}: holds values that are not finite; the weights cannot be quantized"
            )


def _correct_biases(
    model: Layer,
    paths: Sequence[str],
    norms: Mapping[str, str],
    batches: CalibrationBatches,
) -> None:
    few = few_of_one_size(batches())
    places = bias_places(model, paths, norms)
    with float_sites(model):
        wanted = output_means(model, places, few)
    correct_biases(model, wanted, few)
    count = sum(int(inputs[0].shape[0]) for inputs in few)
    _log.info("ptq: corrected the biases of %d layers on %d images", len(wanted), count)


class _Count:
    """Counts the images of batches that pass, and how many would do, see `few_of`."""

    def __init__(self) -> None:
        self.images = self.few = 0

    def through(self, batches: Iterable[Sequence[Tensor]]) -> Iterator[Sequence[Tensor]]:
        for inputs in batches:
            self.images += int(inputs[0].shape[0])
            self.few = few_of(inputs)
            yield inputs
