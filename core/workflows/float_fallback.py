"""Float fallback: restore layers to float that int8 makes no faster or that cost too much."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from paddle.nn import Layer
from rich.table import Table

from core.errors import ConfigError
from core.quant.layers import quantized_layers
from core.quant.sites import restore, sites_of
from core.settings.metric_order import lost
from core.task import Task
from core.training.measurements import render
from core.workflows.comparison_table import ComparisonRow, Validation
from core.workflows.layer_sensitivity import ModelInputs, few_inputs, output_errors
from core.workflows.layer_speed import backend_of, measure_speed

PERCENTAGE_POINT = 0.01
SUSPICIOUS = 3.0  # points; 0.3 to 1 is usual
SHOWN = 10  # layers of a diagnosis
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QualityLimits:
    """Limits that a quantized model must keep to.

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
        """Return the advice for int8 files that are slower than float all the same."""
        if self.speed_control:
            return "deploy it in float, or export for another target"
        return "--speed_control leaves the layers in float that int8 makes no faster"

    def check(self, target: str, validation: Validation) -> None:
        """Refuse what cannot be measured, before anything long runs.

        Raises:
            ConfigError: Nothing to measure the metric on, or a target that does not run here.
        """
        if self.max_drop is not None and validation.loader is None:
            raise ConfigError("max_drop: there is no validation data to measure the metric on")
        if self.speed_control:
            backend_of(target)


def keep_speed(task: Task, model: Layer, target: str) -> None:
    """Restore the layers to float that int8 makes no faster on a target; log which ones.

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
    """Restore the worst layers to float until the metric holds; return the metric.

    Layers are ranked by how far each alone moves the outputs. The number of them that is restored
    is doubled until the metric holds, then halved towards the smallest one with which it does.

    Args:
        task: Task of the model.
        model: Quantized; changed in place, or left as it is if no choice of layers holds.
        inputs: Inputs to compare outputs on, [N, C, H, W] for images.
        value: Returns the metric of the model.
        in_float: Metric of the float model.
        max_drop: Points that the metric may lose.

    Raises:
        ConfigError: It holds only when nothing is quantized.
    """
    search = _FallbackSearch(task, model, value, in_float, max_drop)
    with search.bypassing():
        if search.holds(0):
            return search.found[0]
        count = _smallest(search.holds, search.rank(inputs))
    if count is None:
        raise ConfigError(
            f"max_drop: with all layers but one in float the metric loses more than {max_drop:g} "
            "points; train with --slim qat, or allow more"
        )
    worst = search.order[:count]
    for path in worst:
        restore(model, path)
    _log.info("max_drop: back to float: %s", ", ".join(worst))
    return search.found[count]


class _FallbackSearch:
    """Measures a quantized model with its worst sites in float.

    Attributes:
        order: Paths of the sites, the worst first once they are ranked.
        found: Metric by the number of sites in float.
    """

    def __init__(
        self,
        task: Task,
        model: Layer,
        value: Callable[[Layer], float],
        in_float: float,
        max_drop: float,
    ) -> None:
        self._task, self._model, self._value = task, model, value
        self._in_float, self._max_drop = in_float, max_drop
        self._sites = sites_of(model)
        self.order = list(self._sites)
        self.found: dict[int, float] = {}

    @contextlib.contextmanager
    def bypassing(self) -> Iterator[None]:
        """Let all sites round again when the context ends."""
        try:
            yield
        finally:
            for site in self._sites.values():
                site.bypassed = False

    def rank(self, inputs: ModelInputs) -> int:
        """Put the worst sites first; return how many may be in float: one layer stays in int8."""
        errors = output_errors(self._task, self._model, inputs, self.order)
        self.order.sort(key=lambda path: -errors[path])
        return max(map(self.order.index, quantized_layers(self._model)))

    def holds(self, count: int) -> bool:
        """Tell whether the metric holds with so many of the worst sites in float."""
        for place, path in enumerate(self.order):
            self._sites[path].bypassed = place < count
        self.found[count] = self._value(self._model)
        higher = self._task.build_metric().higher_is_better
        points = lost(self._in_float, self.found[count], higher) / PERCENTAGE_POINT
        _log.info("max_drop: %d of %d layers in float: %.2f points", count, len(self.order), points)
        return points <= self._max_drop + 1e-9  # 1e-9: rounding of the difference


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
    """Log the layers that, quantized alone, move the outputs for inputs [N, ...] most."""
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
    model: Layer,
    limits: QualityLimits,
    target: str,
    validation: Validation,
    in_float: float | None,
    quantized: float | None,
) -> tuple[float | None, list[ComparisonRow]]:
    """Restore layers of a quantized model to float until it keeps to the limits.

    A model that still loses much is diagnosed in the log.

    Args:
        model: Quantized; changed in place.
        limits: Limits that the model must keep to; checked before.
        target: Runtime to be fast in.
        validation: Data to measure the metric on.
        in_float: Metric of the float model, None if there is nothing to measure it on.
        quantized: Metric of the quantized model, likewise.

    Returns:
        The metric, and a row for the model if it was changed.

    Raises:
        ConfigError: See `keep_speed` and `keep_accuracy`.
    """
    before, task, metric = len(sites_of(model)), validation.task, quantized
    if limits.speed_control:
        keep_speed(task, model, target)
        metric = validation.measure(model)
    if validation.loader is not None and in_float is not None and metric is not None:
        inputs = few_inputs(task, validation.loader)
        if limits.max_drop is not None:
            value = partial(_value, validation)
            metric = keep_accuracy(task, model, inputs, value, in_float, limits.max_drop)
        if lost(in_float, metric, validation.higher_is_better) > SUSPICIOUS * PERCENTAGE_POINT:
            diagnose(task, model, inputs)
    restored = before - len(sites_of(model))
    rows = [ComparisonRow(f"quantized, {restored} back in float", metric)] if restored else []
    return metric, rows


def _value(validation: Validation, model: Layer) -> float:
    metric = validation.measure(model)
    assert metric is not None  # there is validation data
    return metric
