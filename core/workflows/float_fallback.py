"""Send layers back to float: those that int8 does not make faster, those that cost too much."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from paddle.nn import Layer
from rich.table import Table

from core.errors import ConfigError
from core.quant.layers import quantized_layers
from core.quant.sites import restore, sites_of
from core.task import Task
from core.training.loader import Loader
from core.training.measurements import render
from core.workflows.comparison_table import ComparisonRow, MeasureMetric
from core.workflows.layer_sensitivity import ModelInputs, few_inputs, output_errors
from core.workflows.layer_speed import backend_of, measure_speed

POINT = 0.01
SUSPICIOUS = 3.0  # points; 0.3 to 1 is usual
SHOWN = 10  # layers of a diagnosis
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QualityLimits:
    """What a quantized model must hold to.

    Attributes:
        max_drop: Points (hundredths) that the metric may lose; None: any.
        speed_control: Whether layers that int8 makes no faster go back to float.
    """

    max_drop: float | None = None
    speed_control: bool = False

    def __post_init__(self) -> None:
        if self.max_drop is not None and self.max_drop < 0:
            raise ValueError(f"max_drop: expected points, 0 or more, got {self.max_drop}")

    @property
    def remedy_for_speed(self) -> str:
        """Return what to do where int8 is slower than float all the same."""
        if self.speed_control:
            return "deploy it in float, or export for another target"
        return "--speed_control leaves the layers in float that int8 makes no faster"

    def check(self, target: str, validation: Loader | None) -> None:
        """Refuse what cannot be measured, before anything long runs.

        Raises:
            ConfigError: Nothing to measure the metric on, or a target that does not run here.
        """
        if self.max_drop is not None and validation is None:
            raise ConfigError("max_drop: there is no validation data to measure the metric on")
        if self.speed_control:
            backend_of(target)


def keep_speed(task: Task, model: Layer, target: str) -> None:
    """Put the layers into float that int8 makes no faster on a target; the log says what they are.

    Raises:
        ConfigError: The target does not run here, or no layer pays.
    """
    found = measure_speed(task, model, target)
    _log.info("speed_control\n%s", render(found.table()))
    if set(quantized_layers(model)) <= set(found.slow):
        raise ConfigError(
            f"speed_control: int8 makes no layer faster on {target} ({found.float_ms:.2f} ms in "
            f"float, {found.int8_ms:.2f} in int8); export in float, or for another target"
        )
    for path in found.slow:
        restore(model, path)


def keep_accuracy(
    task: Task,
    model: Layer,
    inputs: ModelInputs,
    value: Callable[[Layer], float],
    in_float: float,
    max_drop: float,
) -> float:
    """Put the worst layers into float until the metric holds; return the metric.

    Layers are ranked by how far each alone moves the outputs. The number of them that goes back is
    doubled until the metric holds, then halved towards the smallest one with which it does.

    Args:
        task: Tells the metric's sense.
        model: Quantized; changed in place, or left as it is if no choice of layers holds.
        inputs: To compare outputs on.
        value: The metric of the model.
        in_float: What it was.
        max_drop: Points that it may lose.

    Raises:
        ConfigError: It holds only when nothing is quantized.
    """
    sites, sign = sites_of(model), _sign(task)
    worst, found = list(sites), {}

    def holds(count: int) -> bool:
        for place, path in enumerate(worst):
            sites[path].bypassed = place < count
        found[count] = value(model)
        lost = sign * (in_float - found[count]) / POINT
        _log.info("max_drop: %d of %d layers in float: %.2f points", count, len(worst), lost)
        return lost <= max_drop + 1e-9  # of a point, for the rounding of the difference

    try:
        if holds(0):
            return found[0]
        errors = output_errors(task, model, inputs, worst)
        worst.sort(key=lambda path: -errors[path])
        most = max(map(worst.index, quantized_layers(model)))  # one layer stays in int8
        count = _smallest(holds, most)
    finally:
        for site in sites.values():
            site.bypassed = False
    if count is None:
        raise ConfigError(
            f"max_drop: with all layers but one in float the metric loses more than {max_drop:g} "
            "points; train with --slim qat, or allow more"
        )
    for path in worst[:count]:
        restore(model, path)
    _log.info("max_drop: back to float: %s", ", ".join(worst[:count]))
    return found[count]


def _smallest(holds: Callable[[int], bool], most: int) -> int | None:
    """Return a number from 1 to `most` that holds while the one before does not; None if none."""
    few, enough = 0, min(1, most)
    while enough == 0 or not holds(enough):
        if enough == most:
            return None
        few, enough = enough, min(2 * enough, most)
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if holds(middle) else (middle, enough)
    return enough


def diagnose(task: Task, model: Layer, inputs: ModelInputs) -> None:
    """List the layers in the log that move the outputs most when each is quantized alone."""
    errors = output_errors(task, model, inputs, list(sites_of(model)))
    together = errors.pop("")
    table = Table(title="each layer quantized alone, the worst")
    table.add_column("layer", overflow="fold")
    table.add_column("error of outputs", justify="right")
    for path in sorted(errors, key=lambda path: -errors[path])[:SHOWN]:
        table.add_row(path, f"{errors[path]:.2e}")
    table.add_section()
    table.add_row(f"all {len(errors)} together", f"{together:.2e}")
    _log.warning(
        "more than %g points lost; --max_drop or never_quantize would leave the layers in float "
        "that move the outputs most\n%s",
        SUSPICIOUS,
        render(table),
    )


def apply_float_fallback(
    task: Task,
    model: Layer,
    control: QualityLimits,
    target: str,
    validation: Loader | None,
    measure: MeasureMetric,
    in_float: float | None,
    metric: float | None,
) -> tuple[float | None, list[ComparisonRow]]:
    """Send layers of a quantized model back to float as wanted; the log says what is wrong with it.

    Args:
        task: Whose model it is.
        model: Quantized; changed in place.
        control: What is wanted; checked.
        target: Runtime to be fast in.
        validation: Data to measure on; None if there is none.
        measure: Measures the metric on it.
        in_float: The metric before quantization, None if there is nothing to measure it on.
        metric: The metric quantized, likewise.

    Returns:
        The metric, and a row for the model if it was changed.

    Raises:
        ConfigError: See `keep_speed` and `keep_accuracy`.
    """
    before = len(sites_of(model))
    if control.speed_control:
        keep_speed(task, model, target)
        metric = measure(model)
    if validation is not None and in_float is not None and metric is not None:
        inputs, value = few_inputs(task, validation), partial(_value, measure)
        if control.max_drop is not None:
            metric = keep_accuracy(task, model, inputs, value, in_float, control.max_drop)
        if _sign(task) * (in_float - metric) > SUSPICIOUS * POINT:
            diagnose(task, model, inputs)
    gone = before - len(sites_of(model))
    return metric, [ComparisonRow(f"quantized, {gone} back in float", metric)] if gone else []


def _value(measure: MeasureMetric, model: Layer) -> float:
    metric = measure(model)
    assert metric is not None  # there is validation data
    return metric


def _sign(task: Task) -> float:
    return 1.0 if task.build_metric().higher_is_better else -1.0
