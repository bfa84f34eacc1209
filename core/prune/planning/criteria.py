"""Importance scores of channels.

A criterion scores the filters of every layer that makes the channels of a group; the scores of
several layers, each divided by its mean so that all weigh alike, are aggregated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import paddle
from paddle.nn import Layer

from core.errors import DataError
from core.network.batch_norms import statistics_kept
from core.prune.choices import Aggregate, Criterion
from core.prune.structure.analysis import Axis, Group
from core.prune.structure.labels import Array
from core.task import Batch, Task
from core.training.loader import Loader

BATCH, SAMPLES = 8, 256  # training samples for gradients
_log = logging.getLogger(__name__)


def l1_norm(filters: Array) -> Array:
    """Return the mean magnitude of each filter (Li et al., ICLR 2017), for filters [C, n]."""
    return np.asarray(np.abs(filters).mean(axis=1))


def l2_norm(filters: Array) -> Array:
    """Return the root mean square of each filter [C, n]."""
    return np.asarray(np.sqrt(np.square(filters).mean(axis=1)))


def fpgm(filters: Array) -> Array:
    """Return the sum of distances to all other filters (He et al., CVPR 2019), for [C, n].

    A filter near the geometric median of its layer can be replaced by the others.
    """
    rows = filters.astype(np.float64)
    squares = np.square(rows).sum(axis=1)
    distances = squares[:, None] + squares[None] - 2 * rows @ rows.T
    np.fill_diagonal(distances, 0.0)
    return np.asarray(np.sqrt(np.maximum(distances, 0.0)).sum(axis=1))


_OF_FILTERS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {"l1_norm": l1_norm, "l2_norm": l2_norm, "fpgm": fpgm}
)


def score(
    model: Layer,
    groups: Sequence[Group],
    weights: Mapping[str, Mapping[int, Array]],
    criterion: Criterion,
    aggregate: Aggregate = "mean",
    seed: int = 0,
    gradients: Mapping[str, Array] | None = None,
) -> list[Array]:
    """Score every unit of every group; the least important units have the lowest scores.

    Args:
        model: Model with trained weights.
        groups: Groups of its analysis.
        weights: Labels of its weights.
        criterion: Criterion of importance. `bn_scale` falls back on `l1_norm` for groups without
            batch norms, `taylor` for groups with frozen weights; both log it.
        aggregate: How the scores of several layers are combined.
        seed: Seed of `random`.
        gradients: Gradients of the parameters, from `mean_gradients`; for `taylor`.

    Returns:
        Scores [units] of each group.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    generator = np.random.default_rng(seed)
    scores, without = [], []
    for group in groups:
        if criterion == "random":
            scores.append(generator.random(len(group)))
            continue
        per_layer: list[Array] = []
        if criterion == "bn_scale":
            for name in group.norms:
                values = np.abs(tensors[name].numpy().astype(np.float64))
                per_layer.append(_by_unit(group, weights[name][0], values))
        of_filters: Criterion = criterion
        frozen = [name for name, _ in group.producers if name not in (gradients or {})]
        if (criterion == "bn_scale" and not per_layer) or (criterion == "taylor" and frozen):
            of_filters = "l1_norm"
            without.append(group.name)
        if not per_layer:
            per_layer = [
                _by_unit(group, labels, _rate(tensors, axis, of_filters, gradients))
                for axis, labels in group.producers.items()
            ]
        scores.append(_aggregate(per_layer, aggregate))
    _warn_of_fallback(criterion, without)
    return scores


def _warn_of_fallback(criterion: Criterion, groups: Sequence[str]) -> None:
    if groups:
        lacking = "batch norms" if criterion == "bn_scale" else "gradients (frozen weights)"
        _log.warning(
            "%s: ranked by l1_norm, for want of %s: %s", criterion, lacking, ", ".join(groups)
        )


def _rate(
    tensors: Mapping[str, paddle.Tensor],
    axis: Axis,
    criterion: Criterion,
    gradients: Mapping[str, Array] | None,
) -> Array:
    name, dimension = axis
    filters = _rows(tensors[name].numpy(), dimension)
    if criterion == "taylor":
        assert gradients is not None
        slope = _rows(gradients[name], dimension)
        return np.asarray(np.square((filters.astype(np.float64) * slope).sum(axis=1)))
    return _OF_FILTERS.get(criterion, l1_norm)(filters)


def _rows(values: Array, axis: int) -> Array:
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _by_unit(group: Group, labels: Array, values: Array) -> Array:
    """Average over the positions of each unit; NaN where a layer does not make a unit."""
    order = np.argsort(group.units)
    place = np.searchsorted(group.units, labels, sorter=order)
    found = order[np.minimum(place, len(order) - 1)]
    mine = group.units[found] == labels
    sums = np.bincount(found[mine], weights=values[mine], minlength=len(group))
    counts = np.bincount(found[mine], minlength=len(group))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _aggregate(per_layer: Sequence[Array], how: Aggregate) -> Array:
    if len(per_layer) == 1 and not np.isnan(per_layer[0]).any():
        return per_layer[0]
    stacked = np.stack([values / max(np.nanmean(values), 1e-30) for values in per_layer])
    if how == "first":
        first = np.argmax(~np.isnan(stacked), axis=0)
        return np.asarray(np.take_along_axis(stacked, first[None], axis=0)[0])
    with_zeros = np.nan_to_num(stacked, nan=0.0)
    total = with_zeros.sum(axis=0)
    if how == "sum":
        return np.asarray(total)
    if how == "max":
        return np.asarray(with_zeros.max(axis=0))
    return np.asarray(total / np.maximum((~np.isnan(stacked)).sum(axis=0), 1))


def training_gradients(task: Task, model: Layer) -> dict[str, Array]:
    """Average the gradients, of any shape, over samples of the task's training split.

    Raises:
        DataError: It cannot be read.
    """
    data = task.config.data
    loader = Loader(
        task.build_dataset("train"),
        batch_size=BATCH,
        train=True,
        num_workers=data.num_workers,
        on_error=data.on_error,
    )
    return mean_gradients(task, model, loader.some(SAMPLES))


def mean_gradients(task: Task, model: Layer, batches: Iterable[Batch]) -> dict[str, Array]:
    """Average the gradients of the loss, of any shape, over batches [N, ...], for `taylor`.

    The criterion is (sum of gradient * weight over a filter)^2 (Molchanov et al., CVPR 2019). The
    model is left as it was, the running statistics of its norms included.

    Raises:
        DataError: There are no batches.
    """
    parameters = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    inputs = [spec.name for spec in task.input_spec()]
    sums = {name: np.zeros(p.shape, np.float64) for name, p in parameters.items()}
    count = 0
    with statistics_kept(model):
        model.train()
        for batch in batches:
            outputs = task.name_outputs(model(*[batch[name] for name in inputs]))
            paddle.add_n(list(task.losses(outputs, batch).values())).backward()
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    sums[name] += parameter.grad.numpy()
                parameter.clear_gradient(False)
            count += 1
    if count == 0:
        raise DataError("calibration: no batches to take gradients on")
    return {name: total / count for name, total in sums.items()}
