"""Quantize a checkpoint after training, and write it as a checkpoint and as int8 files.

Each setting is tried on the float weights; the one with the best metric is written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from paddle.nn import Layer

from core.errors import ConfigError
from core.export import files as export_files
from core.export.files import WAYS_OUT
from core.export.package import Exported, write_export
from core.export.traced_model import ExportSettings
from core.quant.apply import record_of
from core.quant.calibration import CalibrationBatches
from core.quant.choices import OBSERVERS
from core.quant.post_training import PtqConfig, quantize_after_training
from core.settings.config import read
from core.settings.metric_order import best_of
from core.targets.names import DEFAULT_TARGET, Target
from core.targets.presets import PRESETS
from core.task import Task
from core.training import checkpoint
from core.workflows.comparison_table import ComparisonRow, Validation, check_metrics, runtime_rows
from core.workflows.float_fallback import QualityLimits, apply_float_fallback
from core.workflows.int8_speed import latency_beside_float

T = TypeVar("T")
MODEL, INT8 = "model", "int8"  # folders that `tools/ptq.py` makes
_log = logging.getLogger(__name__)


def compress(
    folder: Path,
    weights: str,
    model: Layer,
    batches: CalibrationBatches,
    configs: Sequence[PtqConfig],
    files: ExportSettings,
    validation: Validation,
    limits: QualityLimits,
) -> tuple[list[ComparisonRow], PtqConfig]:
    """Quantize a checkpoint with each setting, and write the best as a checkpoint and as files.

    Args:
        folder: Existing folder; `MODEL` and `INT8` are made in it.
        weights: Checkpoint of the float model.
        model: The float model.
        batches: Calibration data [N, C, H, W], see `quantize_after_training`.
        configs: Settings to try, at least one.
        files: Files to write; their target is replaced by that of the setting.
        validation: Data to measure the metric on.
        limits: Limits that the best must keep to.

    Returns:
        The float model, each try and each file, with their metrics; and the best setting.

    Raises:
        ConfigError: The model cannot keep to the limits.
        ExportError: A runtime answers differently, or has a worse metric than the model.
    """
    limits.check(configs[0].target, validation)
    task, first = validation.task, ComparisonRow("float", validation.measure(model))
    configs = [config.completed(task.slim_hints(model).ptq) for config in configs]
    tried, metric, config, model = quantize_best(weights, batches, configs, validation)
    metric, changed = apply_float_fallback(
        model, limits, config.target, validation, first.metric, metric
    )
    known = {validation.metric: metric} if metric is not None and validation.share == 1 else {}
    files = replace(files, target=onnx_target(config.target))
    made, seconds = write(folder, task, model, weights, known, files)
    remedy = limits.remedy_for_speed
    latencies = latency_beside_float(task, model, folder / INT8, made, files, remedy)
    measured = runtime_rows(folder / INT8, made, seconds, validation.measures, latencies)
    check_metrics(metric, measured, validation.measured, files.target, config.processors)
    return [first, *tried, *changed, *measured], config


def quantize_best(
    weights: str,
    batches: CalibrationBatches,
    configs: Sequence[PtqConfig],
    validation: Validation,
) -> tuple[list[ComparisonRow], float | None, PtqConfig, Layer]:
    """Quantize with each setting; return a row for each; metric, setting and model of the best.

    Args:
        weights: Checkpoint of the float model, read anew for each setting.
        batches: Calibration data [N, C, H, W], see `quantize_after_training`.
        configs: Settings to try, at least one.
        validation: Data to measure the metric on.
    """
    rows: list[ComparisonRow] = []
    models: list[Layer] = []
    best = 0
    for config in configs:
        _, model = checkpoint.restore(weights, validation.task)
        begin = time.monotonic()
        quantize_after_training(validation.task, model, batches, config, progress=True)
        seconds = time.monotonic() - begin
        metric = validation.measure(model)
        rows.append(ComparisonRow(f"quantized, {config.observer}", metric, seconds))
        best = best_of([row.metric for row in rows], validation.higher_is_better)
        models = [model] if best == len(rows) - 1 else models  # no more than the best is kept
    return rows, rows[best].metric, configs[best], models[0]


def check_comparison(configs: Sequence[object], validation: Validation) -> None:
    """Refuse to compare settings without data to measure them on.

    Raises:
        ConfigError: There are several, and no validation data.
    """
    if len(configs) > 1 and validation.loader is None:
        raise ConfigError("observer: all compares by the metric, which cannot be measured")


def read_each(
    kind: type[T],
    settings: Mapping[str, Any],
    observer: str | None,
    known: Sequence[str] = OBSERVERS,
) -> list[T]:
    """Read settings with an observer, or with each known one for `all`; None: as the task hints.

    Raises:
        ConfigError: A value is wrong.
    """
    wanted = known if observer == "all" else [observer]
    return [read(kind, {**settings, "observer": each}) for each in wanted]


def check_folder(folder: Path, weights: str | Path, overwrite: bool = False) -> None:
    """Refuse a folder whose content `tools/ptq.py` must not replace.

    Args:
        folder: Folder to make.
        weights: Checkpoint or model that is quantized.
        overwrite: Whether to replace what an earlier run made.

    Raises:
        ConfigError: It is a file, or holds other things than such a run makes, or the weights, or
            what an earlier run made.
    """
    foreign = sorted(path.name for path in folder.glob("*") if path.name not in (MODEL, INT8))
    if foreign or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"save_dir: {folder} is no folder of this tool: {foreign or 'a file'}")
    checkpoint.check_folder(folder / MODEL)
    export_files.check_folder(folder / INT8, overwrite=True)
    source = Path(weights).resolve()
    if folder.resolve() in (source, *source.parents):
        raise ConfigError(f"save_dir: {folder} holds the weights themselves; name another folder")
    if not overwrite and any(folder.glob("*")):
        raise ConfigError(f"save_dir: {folder} holds what an earlier run made; {WAYS_OUT}")


def write(
    folder: Path,
    task: Task,
    model: Layer,
    weights: str,
    metrics: Mapping[str, float],
    files: ExportSettings,
) -> tuple[Exported, float]:
    """Write a quantized model as a checkpoint and as int8 files; a pruned one stays pruned.

    Args:
        folder: Existing folder; `MODEL` and `INT8` are made in it.
        task: Task of the model.
        model: The quantized model.
        weights: Checkpoint of the float model, whose edits and epoch are kept.
        metrics: Metrics of the quantized model.
        files: Files to write.

    Returns:
        The export, and the seconds it took.

    Raises:
        ExportError: A runtime answers differently.
    """
    source = checkpoint.load_description(weights)
    edits = [*(source.edits if source else ()), ("qat", record_of(model))]
    about = checkpoint.describe(task, edits, source.epoch if source else 0, metrics)
    checkpoint.save(folder / MODEL, about, model.state_dict())
    begin = time.monotonic()
    (folder / INT8).mkdir()
    made = write_export(task, model, folder / INT8, files)
    return made, time.monotonic() - begin


def onnx_target(target: Target) -> str:
    """Return the runtime that ONNX files are laid out for, of a model quantized for a target."""
    return target if target in PRESETS else DEFAULT_TARGET
