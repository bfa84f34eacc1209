"""Quantize a checkpoint after training, and write it as a checkpoint and as int8 files.

Each setting is tried on the float weights; the one with the best metric is written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from paddle.nn import Layer

from core.errors import ConfigError
from core.export.package import Exported, export
from core.quant.apply import record_of
from core.quant.choices import OBSERVERS
from core.quant.post_training import CalibrationBatches, PtqConfig, quantize_after_training
from core.settings.config import read
from core.targets.names import DEFAULT_TARGET, Format
from core.targets.presets import PRESETS
from core.task import Task
from core.training import checkpoint
from core.training.loader import Loader
from core.workflows.comparison_table import ComparisonRow, MeasureMetric, runtime_rows
from core.workflows.float_fallback import QualityLimits, apply_float_fallback

T = TypeVar("T")
MODEL, INT8 = "model", "int8"  # folders that `tools/ptq.py` makes
_log = logging.getLogger(__name__)


def compress(
    folder: Path,
    task: Task,
    model: Layer,
    batches: CalibrationBatches,
    configs: Sequence[PtqConfig],
    measure: MeasureMetric,
    formats: Sequence[Format],
    *,
    weights: str,
    control: QualityLimits,
    validation: Loader | None,
    whole: bool,
) -> tuple[list[ComparisonRow], PtqConfig]:
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
    first = ComparisonRow("float", measure(model))
    tried, metric, config, model = quantize_best(task, weights, batches, configs, measure)
    rest = validation, measure, first.metric, metric
    metric, changed = apply_float_fallback(task, model, control, config.target, *rest)
    known = {} if metric is None or not whole else {key: metric}
    made, seconds = write(folder, task, model, source, known, formats, config)
    files = runtime_rows(folder / INT8, made, seconds, measure)
    return [first, *tried, *changed, *files], config


def quantize_best(
    task: Task,
    weights: str,
    batches: CalibrationBatches,
    configs: Sequence[PtqConfig],
    measure: MeasureMetric,
) -> tuple[list[ComparisonRow], float | None, PtqConfig, Layer]:
    """Quantize with each setting; return a row for each; metric, setting and model of the best.

    Args:
        task: Whose model it is.
        weights: Of the float model, read anew for each setting.
        batches: See `quantize_after_training`.
        configs: At least one.
        measure: The task's metric of a model, None if it cannot be measured.
    """
    sign = 1.0 if task.build_metric().higher_is_better else -1.0
    rows: list[ComparisonRow] = []
    best: tuple[float | None, PtqConfig, Layer] | None = None
    for config in configs:
        _, model = checkpoint.restore(weights, task)
        begin = time.monotonic()
        quantize_after_training(task, model, batches, config)
        seconds = time.monotonic() - begin
        metric = measure(model)
        rows.append(ComparisonRow(f"quantized, {config.observer}", metric, seconds))
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
    source: checkpoint.CheckpointDescription | None,
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
    edits = [*(source.edits if source else ()), ("qat", record_of(model))]
    about = checkpoint.describe(task, edits, source.epoch if source else 0, metrics)
    checkpoint.save(folder / MODEL, about, model.state_dict())
    begin = time.monotonic()
    target = config.target if config.target in PRESETS else DEFAULT_TARGET
    made = export(task, model, folder / INT8, formats, target=target)
    return made, time.monotonic() - begin
