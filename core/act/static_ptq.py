"""Static quantization of an exported model: forward only, on images without labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from core.act.config import StaticPtqConfig
from core.act.files import FileLayout, describe_task, measure_files, write
from core.act.quantized import QuantizedProgram
from core.act.session import InputArrays, Session, fitting, open_session, samples_of
from core.act.source import Source
from core.errors import ConfigError
from core.quant.calibration import Calibration
from core.quant.choices import STEPS
from core.quant.scales import LayerScales
from core.settings.metric_order import best_of
from core.targets.names import Processors
from core.workflows.comparison_table import ComparisonRow, MeasureMetric, Validation
from core.workflows.ptq import INT8

CalibrationArrays = Callable[[], Iterable[InputArrays]]
READER = "calibration"  # as errors name it


def arrays_of(images: Calibration) -> CalibrationArrays:
    """Return calibration images as batches of arrays [N, C, H, W]."""
    return lambda: ([tensor.numpy() for tensor in batch] for batch in images())


def refuse_options(given: Mapping[str, object]) -> None:
    """Refuse options of `tools/ptq.py` that only a network with its code can be given.

    Raises:
        ConfigError: Names the first.
    """
    for name in (*STEPS, "quantize_outputs", "max_drop", "speed_control"):
        if given[name]:
            raise ConfigError(
                f"{name}: needs the network's code, which an exported model has not; give "
                "--weights instead of --model_dir, or leave it out"
            )


def compress(
    folder: Path,
    source: Source,
    images: Calibration,
    configs: Sequence[StaticPtqConfig],
    layout: FileLayout,
    validation: Validation,
) -> tuple[list[ComparisonRow], StaticPtqConfig]:
    """Quantize an exported model with each config, and write the best as int8 files.

    Args:
        folder: Existing folder; `INT8` is made in it.
        source: The float model.
        images: Images to calibrate on.
        configs: Settings to try; they differ in their observers alone.
        layout: Files to write; the task of `validation` goes into their `deploy.yml`.
        validation: Data to measure the metric on.

    Returns:
        The float model, each try and each file, with their metrics; and the best config.

    Raises:
        ExportError: PaddleSlim fails, or a file answers otherwise than its model.
        DataError: The images are not what the model takes.
        ConfigError: A glob on layers matches nothing.
    """
    first, batches, measure = configs[0], arrays_of(images), validation.measure
    layout = replace(layout, task=describe_task(validation.task))
    places = source.choose(
        first.operators, first.never_quantize, first.per_channel, "never_quantize"
    )
    samples = samples_of(source, batches(), READER)

    def more(count: int) -> list[InputArrays]:
        return samples_of(source, batches(), READER, count)

    with open_session(source, places) as session:
        float_row = ComparisonRow("float", measure(session.run_float))
        tried, found = _try_each(session, batches, configs, measure)
        best = best_of([row.metric for row in tried], validation.higher_is_better)
        begin = time.monotonic()
        (folder / INT8).mkdir()
        model = settle(session, *found[best], first.processors)
        made = write(model, folder / INT8, layout, samples, more)
        seconds = time.monotonic() - begin
        files = measure_files(model, made, seconds, measure, validation.measured, samples[0])
    return [float_row, *tried, *files], configs[best]


FoundGrids = tuple[dict[str, float], list[LayerScales]]  # result of `calibrate`


def _try_each(
    session: Session,
    batches: CalibrationArrays,
    configs: Sequence[StaticPtqConfig],
    measure: MeasureMetric,
) -> tuple[list[ComparisonRow], list[FoundGrids]]:
    """Calibrate with each config; return a row for each, and its grids."""
    rows, found = [], []
    for config in configs:
        begin = time.monotonic()
        found.append(calibrate(session, batches, config))
        seconds = time.monotonic() - begin
        rows.append(ComparisonRow(f"quantized, {config.observer}", measure(session.run), seconds))
    return rows, found


def calibrate(session: Session, batches: CalibrationArrays, config: StaticPtqConfig) -> FoundGrids:
    """Let PaddleSlim's `quant_post_static` find the grids; `session.run` is on them from now on.

    Args:
        session: Session of the float model.
        batches: Returns the calibration data from its beginning, arrays [N, C, H, W].
        config: Settings of the calibration.

    Returns:
        The largest magnitudes by tensor, and the table for files.

    Raises:
        ExportError: PaddleSlim fails, or finds no grid for a layer.
        DataError: The data is not what the model takes.
    """
    settings = {
        "algo": config.algo,
        "hist_percent": config.percentile,
        "weight_quantize_type": config.weight_quantize_type,
        "quantizable_op_type": config.operators,
    }
    scales = session.child.call(
        "quantize",
        settings,
        batches=lambda: map(session.feeds, fitting(session.source, batches(), READER)),
    )
    return scales, session.source.table(session.places, scales, config.per_channel)


def settle(
    session: Session,
    scales: Mapping[str, float],
    table: list[LayerScales],
    processors: Processors = "any",
) -> QuantizedProgram:
    """Go back to grids that `calibrate` found, and return the model on them.

    Args:
        session: Session that `calibrate` used.
        scales: Scales that it returned.
        table: Table that it returned.
        processors: Processors on which the files must be right.
    """
    session.child.call("load_scales", scales)
    return QuantizedProgram(session.source, session.source.graph, table, session, processors)
