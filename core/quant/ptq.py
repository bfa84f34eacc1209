"""Post-training quantization: a trained model on grids, from images alone, without training.

Images are only run through the model; nothing needs labels or gradients. The order is: even out
channels, estimate batch norms anew, choose layers, calibrate, correct biases, all but the middle
two if asked for. What comes out is the model with quantized layers whose grids are fixed, which is
saved, restored and exported like one from quantization-aware training.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import paddle
from paddle import Tensor
from paddle.nn import Layer
from tqdm import tqdm

from core import checkpoint
from core.config import read
from core.data import Loader
from core.deploy.formats import TARGET, Format
from core.errors import CheckpointError, ConfigError
from core.export.package import Exported, export
from core.export.qdq import PRESETS
from core.export.side_by_side import Measure, Row, runtime_rows
from core.norms import reestimate
from core.quant import insert
from core.quant.bias_correction import bias_places, correct_biases, output_means
from core.quant.choices import (
    OBSERVER,
    OBSERVERS,
    LayerType,
    ObserverKind,
    Outputs,
    Processors,
    Target,
    WeightType,
)
from core.quant.control import Control, hold
from core.quant.equalize import equalize
from core.quant.layers import quantized_layers
from core.quant.layout import layout_of
from core.quant.parts import float_parts
from core.quant.quantizers import Rounding
from core.quant.table import BITS
from core.task import Task

ENOUGH = 100  # images of a calibration; with fewer, rare large activations are missed
# The means in float and on grids are of the same images, so their difference is known well from
# few; they are kept in memory, since each layer runs them anew.
IMAGES_TO_CORRECT = 64
Batches = Callable[[], Iterable[Sequence[Tensor]]]
T = TypeVar("T")
MODEL, INT8 = "model", "int8"  # folders that `tools/ptq.py` makes
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PtqConfig:
    """How to quantize without training.

    Attributes:
        observer: How calibration sets the grids of activations.
        weight_quantize_type: A grid for each output channel, or one for the weight.
        weight_bits: 2 to 8. Files hold 8.
        activation_bits: 2 to 8. Files hold 8.
        quantizable_layer_type: Classes of layers to quantize.
        never_quantize: Globs of layers that stay in float, beside those of the task.
        target: Runtime on whose grids the eager model rounds. For onnxruntime and openvino
            activations that are never negative have grids without a sign.
        processors: On which the files must be right. `any`: all x86-64 and ARM processors, at the
            price of a fraction of a bit of the weights. `vnni`: those with instructions for dot
            products of bytes only (x86 with VNNI, ARM with dotprod); elsewhere the files answer
            wrongly.
        quantize_outputs: See `core.quant.config.QatConfig`.
        equalize: Even out the ranges of channels between layers first.
        bias_correction: Give the layers' outputs the means they had in float, at the end.
        reestimate_bn: Estimate the statistics of batch norms on the calibration images first.
    """

    observer: ObserverKind = OBSERVER
    weight_quantize_type: WeightType = "channel_wise_abs_max"
    weight_bits: int = 8
    activation_bits: int = 8
    quantizable_layer_type: tuple[LayerType, ...] = ("Conv2D", "Conv2DTranspose", "Linear")
    never_quantize: tuple[str, ...] = ()
    target: Target = "paddle"
    processors: Processors = "any"
    quantize_outputs: Outputs | None = None
    equalize: bool = False
    bias_correction: bool = False
    reestimate_bn: bool = False

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits"):
            if getattr(self, name) not in BITS:
                raise ValueError(f"{name}: expected {BITS[0]} to {BITS[-1]}")
        if not self.quantizable_layer_type:
            raise ValueError("quantizable_layer_type: names no layer")

    @property
    def rounding(self) -> Rounding:
        """Return how each layer is rounded."""
        return Rounding(
            weight_type=self.weight_quantize_type,
            activation_type="fixed",
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            processors=self.processors,
        )


def quantize_after_training(
    task: Task, model: Layer, batches: Batches, config: PtqConfig, progress: bool = False
) -> insert.Choice:
    """Quantize a trained model in place.

    The edit for a checkpoint is `("qat", insert.record_of(model))`, behind those
    that the model had.

    Args:
        task: Hints at layers that stay in float, and says what the inputs are.
        model: In float. After an error its layers are in float again, but weights may have been
            evened out and batch norms estimated anew.
        batches: Starts anew through the calibration data, the model's inputs without labels.
        config: How.
        progress: Show how far the correction of biases is.

    Returns:
        What was quantized, and why the rest was not.

    Raises:
        CheckpointError: The model holds weights that are not finite; names the weight.
        ConfigError: The model is quantized already, or nothing is left to quantize.
        DataError: No batches, or activations that are not finite; names the layer.
    """
    if quantized_layers(model):
        raise ConfigError("weights: the model is quantized already; start from one in float")
    _check_finite(model)
    choice = insert.choose_with_hints(
        model,
        config.rounding,
        config.quantizable_layer_type,
        config.never_quantize,
        task.slim_hints(model).never_quantize,
    )
    layout = layout_of(
        task,
        model,
        config.target,
        choice.layers,
        config.quantize_outputs,
        choice.spared,
        config.processors,
    )
    if config.equalize:
        pairs = equalize(model, task.input_spec())
        _log.info("ptq: evened out the channels between %d pairs of layers", len(pairs))
    if config.reestimate_bn:
        _log.info("ptq: estimated %d batch norms anew", reestimate(model, batches()))
    count = _Count()
    made = insert.insert(
        model,
        choice,
        config.rounding,
        count.through(batches()),
        config.observer,
        layout,
    )
    if count.images < ENOUGH:
        _log.warning(
            "ptq: calibrated on %d images; 100 to 500 that look like those of later use are wanted",
            count.images,
        )
    _log.info("%s", "\n".join(insert.summary(made)))
    if config.bias_correction:
        _correct_biases(model, made.layers, layout.norms, batches, progress)
    return made


def _check_finite(model: Layer) -> None:
    for name, tensor in model.state_dict().items():
        if not bool(paddle.isfinite(tensor).all()):
            raise CheckpointError(
                f"{name}: holds values that are not finite; the weights cannot be quantized"
            )


def _correct_biases(
    model: Layer, paths: Sequence[str], norms: Mapping[str, str], batches: Batches, progress: bool
) -> None:
    few, count = [], _Count()
    for inputs in count.through(batches()):
        few.append(list(inputs))
        if count.images >= IMAGES_TO_CORRECT:
            break
    places = bias_places(model, paths, norms)
    with float_parts(model):
        wanted = output_means(model, places, few)
    # one call for each, in the order in which they run, is the same as one for all
    steps = tqdm(wanted, desc="correct biases", leave=False, disable=None if progress else True)
    for path in steps:
        correct_biases(model, {path: wanted[path]}, few)
    _log.info("ptq: corrected the biases of %d layers on %d images", len(wanted), count.images)


class _Count:
    """Counts the images of batches that pass."""

    def __init__(self) -> None:
        self.images = 0

    def through(self, batches: Iterable[Sequence[Tensor]]) -> Iterator[Sequence[Tensor]]:
        for inputs in batches:
            self.images += int(inputs[0].shape[0])
            yield inputs


def compress(
    folder: Path,
    task: Task,
    model: Layer,
    batches: Batches,
    configs: Sequence[PtqConfig],
    measure: Measure,
    formats: Sequence[Format],
    *,
    weights: str,
    control: Control,
    validation: Loader | None,
    whole: bool,
) -> tuple[list[Row], PtqConfig]:
    """Quantize a checkpoint with each setting, and write the best as a checkpoint and as files.

    Args:
        folder: There already; `MODEL` and `INT8` are made in it.
        task: Whose model it is.
        model: In float.
        batches: See `quantize_after_training`.
        configs: At least one.
        measure: The task's metric of a model, None if it cannot be measured.
        formats: Of the files.
        weights: Of the float model.
        control: Which layers of the best go back to float.
        validation: Data of `measure`, None if there is none.
        whole: Whether it is measured on all of the validation data.

    Returns:
        The float model, each try and each file, with their metrics; and the best setting.

    Raises:
        ConfigError: What `control` wants cannot be had.
        ExportError: A runtime answers differently.
    """
    control.check(configs[0].target, validation)
    source, key = checkpoint.load_description(weights), task.build_metric().primary
    first = Row("float", measure(model))
    tried, metric, config, model = quantize_best(task, weights, batches, configs, measure)
    rest = validation, measure, first.metric, metric
    metric, changed = hold(task, model, control, config.target, *rest)
    known = {} if metric is None or not whole else {key: metric}
    made, seconds = write(folder, task, model, source, known, formats, config)
    files = runtime_rows(folder / INT8, made, seconds, measure)
    return [first, *tried, *changed, *files], config


def quantize_best(
    task: Task,
    weights: str,
    batches: Batches,
    configs: Sequence[PtqConfig],
    measure: Measure,
) -> tuple[list[Row], float | None, PtqConfig, Layer]:
    """Quantize with each setting; return a row for each; metric, setting and model of the best.

    Args:
        task: Whose model it is.
        weights: Of the float model, read anew for each setting.
        batches: See `quantize_after_training`.
        configs: At least one.
        measure: The task's metric of a model, None if it cannot be measured.
    """
    sign = 1.0 if task.build_metric().higher_is_better else -1.0
    rows: list[Row] = []
    best: tuple[float | None, PtqConfig, Layer] | None = None
    for config in configs:
        _, model = checkpoint.restore(weights, task)
        begin = time.monotonic()
        quantize_after_training(task, model, batches, config, progress=True)
        seconds = time.monotonic() - begin
        metric = measure(model)
        rows.append(Row(f"quantized, {config.observer}", metric, seconds))
        if best is None or sign * (metric or 0.0) > sign * (best[0] or 0.0):
            best = metric, config, model
    assert best is not None
    return rows, *best


def check_comparison(configs: Sequence[object], validation: Loader | None) -> None:
    """Refuse to compare settings without data to measure them on.

    Raises:
        ConfigError: There are several, and no validation data.
    """
    if len(configs) > 1 and validation is None:
        raise ConfigError("observer: all compares by the metric, which cannot be measured")


def read_each(kind: type[T], settings: Mapping[str, Any], observer: str) -> list[T]:
    """Read settings with an observer, or with each of them for `all`.

    Raises:
        ConfigError: A value is wrong.
    """
    wanted = OBSERVERS if observer == "all" else [observer]
    return [read(kind, {**settings, "observer": each}) for each in wanted]


def check_folder(folder: Path, weights: str | Path) -> None:
    """Refuse a folder whose content `tools/ptq.py` must not replace.

    Raises:
        ConfigError: It is a file, or holds other things than such a run makes, or the weights.
    """
    foreign = sorted(path.name for path in folder.glob("*") if path.name not in (MODEL, INT8))
    if foreign or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"save_dir: {folder} is no folder of this tool: {foreign or 'a file'}")
    source = Path(weights).resolve()
    if folder.resolve() in (source, *source.parents):
        raise ConfigError(f"save_dir: {folder} holds the weights themselves; name another folder")


def write(
    folder: Path,
    task: Task,
    model: Layer,
    source: checkpoint.Description | None,
    metrics: Mapping[str, float],
    formats: Sequence[Format],
    config: PtqConfig,
) -> tuple[Exported, float]:
    """Write a quantized model as a checkpoint and as int8 files; a pruned one stays pruned.

    Args:
        folder: There already; `MODEL` and `INT8` are made in it.
        task: Whose model it is.
        model: Quantized.
        source: Description of the float checkpoint; None if it had none.
        metrics: Of the quantized model.
        formats: Of the files.
        config: How it was quantized.

    Returns:
        The export, and the seconds it took.

    Raises:
        ExportError: A runtime answers differently.
    """
    edits = [*(source.edits if source else ()), ("qat", insert.record_of(model))]
    about = checkpoint.describe(task, edits, source.epoch if source else 0, metrics)
    checkpoint.save(folder / MODEL, about, model.state_dict())
    begin = time.monotonic()
    target = config.target if config.target in PRESETS else TARGET
    made = export(task, model, folder / INT8, formats, target=target)
    return made, time.monotonic() - begin
