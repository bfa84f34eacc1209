"""Fit layers, one after the other, so that they make what they made before a network was changed.

A layer whose inputs are no longer what they were, as channels are gone or values are rounded, gets
the weight that comes nearest to its former outputs (least squares), and a bias that gives them
their former means. No labels are read. It takes one pass of the network before the change and one
after it, in which each layer is mended before those behind it run:

    before = note_outputs(model, paths, norms, batches)
    ...  # change the model
    fit_layers(model, before, batches, solve)
"""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.nn import Layer
from scipy import linalg

from core.network.bias_correction import (
    TensorBatches,
    bias_places,
    correct_biases,
    listening,
    noting_means,
)
from core.network.layers import get
from core.network.modes import evaluation_mode
from core.settings.progress import counting

PLACES = 128  # places of a map that are sampled; neighbours tell little more ...
SAMPLED = 2**28  # ... and fewer where all layers together make more than so many values (1 GB)
MOST_INPUTS = 8192  # to an output; the matrix of their products has the square of it

# The same images are seen before the change and after it, so few tell the difference well. They
# pass through the model at once, so that large images are fewer.
IMAGES = 128
VALUES = 2**24

_DAMPING = 0.01  # share of the inputs' mean square that keeps a weight where it was, at least

Solve = Callable[[Layer, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class NotedOutputs:
    """What layers made.

    Attributes:
        places: How many places of a map are sampled at most.
        samples: Of weights to fit: outputs at these places, [samples, C], by path.
        means: Of biases to correct: mean output [C], by path of the layer or norm that has it.
        shifted: Layers whose biases are corrected, so that their means do not matter.
    """

    places: int
    samples: dict[str, np.ndarray]
    means: dict[str, np.ndarray]
    shifted: set[str]

    def of_channels(self, kept: Mapping[str, Sequence[int]]) -> NotedOutputs:
        """Return those of the channels that layers and norms keep; all where none are named."""
        return replace(
            self,
            samples={p: v[:, kept[p]] if p in kept else v for p, v in self.samples.items()},
            means={p: v[kept[p]] if p in kept else v for p, v in self.means.items()},
        )


def note_outputs(
    model: Layer, paths: Sequence[str], norms: Mapping[str, str], batches: TensorBatches
) -> NotedOutputs:
    """Run a model and note what layers make, see `noting_outputs`.

    Args:
        model: Runs in evaluation mode.
        paths: Convolutions and linear layers.
        norms: Path of the batch norm that alone reads a layer's output, by the layer's path.
        batches: Inputs of the model, [N, C, H, W] each, all of one size.

    Raises:
        DataError: No batches, or outputs that are not finite; names the layer.
    """
    images = sum(int(inputs[0].shape[0]) for inputs in batches)
    noting = noting_outputs(model, paths, norms, images)
    with noting as noted, evaluation_mode(model), paddle.no_grad():
        for inputs in batches:
            model(*inputs)
    return noted


@contextlib.contextmanager
def noting_outputs(
    model: Layer, paths: Sequence[str], norms: Mapping[str, str], images: int
) -> Iterator[NotedOutputs]:
    """Note what layers make while a model runs.

    Transposed convolutions, layers that run several times, those that share their weight, and those
    that read more than `MOST_INPUTS` values for an output are left out. Only biases that
    `bias_places` finds are corrected.

    Args:
        model: Its runs in the context count.
        paths: Convolutions and linear layers.
        norms: Path of the batch norm that alone reads a layer's output, by the layer's path.
        images: How many the model will see.

    Yields:
        What is noted, once the context is left.

    Raises:
        DataError: The model did not run, or outputs are not finite; names the layer.
    """
    fitted = _that_can_be_fitted(model, paths)
    values = images * sum(_channels(get(model, path)) for path in fitted)
    noted = NotedOutputs(max(1, min(PLACES, SAMPLED // max(values, 1))), {}, {}, set())
    biases = noting_means(model, bias_places(model, paths, norms))
    with _sampled(model, fitted, noted.places) as samples, biases as means:
        yield noted
    noted.samples.update({path: np.concatenate(found) for path, found in samples.items()})
    noted.means.update(means)
    noted.shifted.update(path for path in paths if {path, norms.get(path)} & means.keys())


def fit_layers(
    model: Layer,
    before: NotedOutputs,
    batches: TensorBatches,
    solve: Solve,
    read: Callable[[Layer, Tensor], Tensor] = lambda _layer, x: x,
    progress: bool = False,
) -> int:
    """Fit weights and biases of layers to what they made, in place.

    Args:
        model: The changed model.
        before: What its layers made, of the channels that they still have.
        batches: The same inputs; all pass at once.
        solve: Returns the weight of a layer, [groups, outputs, inputs of a group] with kernels
            unrolled into inputs, from the layer, the weight that it has, inputs [samples, groups,
            inputs of a group] and wanted outputs without bias [samples, groups, outputs].
        read: Returns what a layer multiplies for what it is given.
        progress: Show how many layers are fitted.

    Returns:
        How many weights were fitted.
    """
    left, places = dict(before.samples), before.places

    def listen(path: str, count: Callable[[int], None]) -> Any:
        def fit(layer: Layer, inputs: Sequence[Any], keywords: dict[str, Any]) -> None:
            if path in left:
                (x,) = (*inputs, *keywords.values())
                seen = _read_at_places(layer, path, read(layer, x), places)
                _fit(layer, seen, left.pop(path), path in before.shifted, solve)
                count(1)

        return get(model, path).register_forward_pre_hook(fit, with_kwargs=True)

    with counting("fit", len(left), "layer", hidden=not progress) as count:
        handles = [listen(path, count) for path in before.samples]
        try:
            correct_biases(model, before.means, batches)
        finally:
            for handle in handles:
                handle.remove()
    return len(before.samples) - len(left)


def least_squares(
    weight: np.ndarray, inputs: np.ndarray, wanted: np.ndarray, alike: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight whose products with inputs are nearest to the wanted outputs.

    The fewer samples there are for each value of a row, the nearer it stays to what it was.

    Args:
        weight: Weight [groups, outputs, inputs of a group], kernels unrolled into inputs.
        inputs: Inputs of the layer, [samples, groups, inputs of a group].
        wanted: Outputs it should have without its bias, [samples, groups, outputs].
        alike: How many samples count as one, for what there is to mend.

    Returns:
        The weight, and the `factor` of the mean products of inputs with each other, damped.
    """
    samples, _, count = inputs.shape
    unit = max(float(np.abs(inputs).max()), 1e-30)  # squares of no inputs leave float32
    # [groups, K, samples]; products of so many values take a third of the time in float32
    by_group = np.ascontiguousarray((inputs / unit).transpose(1, 2, 0), np.float32)
    weight_in_units = weight * unit
    power = (by_group @ by_group.transpose(0, 2, 1)).astype(np.float64) / samples
    mean_square = np.trace(power, axis1=1, axis2=2) / count
    damping = np.maximum(mean_square, 1e-12) * max(_DAMPING, alike * count / samples)
    power += damping[:, None, None] * np.eye(count)
    answers = by_group.transpose(0, 2, 1) @ weight_in_units.transpose(0, 2, 1).astype(np.float32)
    missed = (wanted.transpose(1, 0, 2) - answers).astype(np.float32)
    lower = factor(power)
    change = _solve_factored(lower, (by_group @ missed).astype(np.float64) / samples)
    return (weight_in_units + change.transpose(0, 2, 1)) / unit, lower * unit


def factor(power: np.ndarray) -> np.ndarray:
    """Return lower triangular matrices [groups, K, K] with power = lower^T lower.

    Row k does not see the columns behind k.

    Args:
        power: Positive definite matrices [groups, K, K], float64.
    """
    flipped = power[:, ::-1, ::-1]
    if len(power) == 1:  # twice as fast, but one by one
        matrix = np.array(flipped[0], order="F")
        found = linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)[None]
    else:
        found = np.linalg.cholesky(flipped)
    return np.ascontiguousarray(found[:, ::-1, ::-1].transpose(0, 2, 1))  # else no BLAS


def _solve_factored(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve lower^T lower x = right, [groups, K, columns] each."""
    if len(lower) > 1:
        return np.linalg.solve(lower, np.linalg.solve(lower.transpose(0, 2, 1), right))
    (triangle,), (columns,) = lower, right
    half = linalg.solve_triangular(triangle, columns, trans=1, lower=True, check_finite=False)
    return np.asarray(linalg.solve_triangular(triangle, half, lower=True, check_finite=False))[None]


def few_of_one_size(batches: Iterable[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Return batches [N, C, H, W] of the size of the first, as many as may pass at once."""
    few: list[list[Tensor]] = []
    images = values = 0
    for inputs in batches:
        if few and [t.shape[1:] for t in inputs] != [t.shape[1:] for t in few[0]]:
            continue
        few.append(list(inputs))
        images += int(inputs[0].shape[0])
        values += sum(int(tensor.size) for tensor in inputs)
        if images >= IMAGES or values >= VALUES:
            break
    return few


@contextlib.contextmanager
def _sampled(
    model: Layer, paths: Sequence[str], places: int
) -> Iterator[dict[str, list[np.ndarray]]]:
    """Collect samples of the outputs of layers, [samples, C], a run of the model at a time.

    When the context is left, those are gone that belong to layers which ran several times in a run.
    """
    samples: dict[str, list[np.ndarray]] = {}

    def note(path: str, layer: Layer, output: Tensor) -> None:
        samples.setdefault(path, []).append(_at_places(layer, path, output, places))

    with listening(model, paths, note) as runs:
        yield samples
    for path in [path for path, found in samples.items() if len(found) != len(runs)]:
        del samples[path]


def _that_can_be_fitted(model: Layer, paths: Sequence[str]) -> list[str]:
    owners = Counter(id(each) for layer in model.sublayers() for each in layer._parameters.values())

    def fits(layer: Layer) -> bool:
        if not isinstance(layer, (nn.Conv2D, nn.Linear)) or owners[id(layer.weight)] > 1:
            return False
        return int(layer.weight.size) // _channels(layer) <= MOST_INPUTS

    return [path for path in paths if fits(get(model, path))]


def _channels(layer: Layer) -> int:
    return int(layer.weight.shape[1 if isinstance(layer, nn.Linear) else 0])


def _fit(layer: Layer, inputs: np.ndarray, wanted: np.ndarray, centred: bool, solve: Solve) -> None:
    """Fit the weight of a layer that reads [samples, groups x K] to outputs [samples, C]."""
    value = layer.weight.numpy()
    linear = isinstance(layer, nn.Linear)
    groups = 1 if linear else layer._groups
    rows = (value.T if linear else value).astype(np.float64)
    rows = rows.reshape(groups, rows.shape[0] // groups, -1)
    inputs = inputs.reshape(len(wanted), groups, -1)
    if layer.bias is not None:
        wanted = wanted - layer.bias.numpy().ravel()
    if centred:
        inputs, wanted = (
            each - each.mean(0, dtype=np.float64).astype(each.dtype) for each in (inputs, wanted)
        )
    rows = solve(layer, rows, inputs, wanted.reshape(len(wanted), groups, -1))
    fitted = rows[0].T if linear else rows.reshape(value.shape)
    layer.weight.set_value(fitted.astype(value.dtype))


def _read_at_places(layer: Layer, path: str, x: Tensor, places: int) -> np.ndarray:
    """Return the inputs of the outputs that `_at_places` returns, [samples, groups x K]."""
    if not isinstance(layer, nn.Conv2D):
        return _at_places(layer, path, x, places)
    size = list(layer._kernel_size)
    if size == [1, 1] and set(np.ravel(layer._stride)) == {1}:
        return _at_places(layer, path, x, places)
    channels, kernel = int(x.shape[1]), int(np.prod(size))
    pick = paddle.eye(kernel).reshape([kernel, 1, *size]).tile([channels, 1, 1, 1])
    padding = layer._padding
    if layer._padding_mode != "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer._padding_mode)
        padding = 0
    found = []
    for image in x.split(x.shape[0]):  # one by one, as the picked values are many
        picked = F.conv2d(
            image, pick, None, layer._stride, padding, layer._dilation, groups=channels
        )
        found.append(_at_places(layer, path, picked, places))
    return np.concatenate(found)


def _at_places(layer: Layer, path: str, x: Tensor, places: int) -> np.ndarray:
    """Return some places of a map, the same ones in all images, [samples, C].

    Args:
        layer: Layer that reads or makes the map.
        path: Path of the layer; each has its own places.
        x: Map [N, C, H, W], or [N, ..., C] of a linear layer.
        places: How many.
    """
    values: np.ndarray = x.numpy()
    if isinstance(layer, nn.Linear):
        values = values.reshape(len(values), -1, values.shape[-1])
    else:
        values = values.reshape(*values.shape[:2], -1).swapaxes(1, 2)
    count = values.shape[1]
    if count > places:
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        values = values[:, np.sort(rng.choice(count, places, replace=False))]
    return values.reshape(-1, values.shape[2])
