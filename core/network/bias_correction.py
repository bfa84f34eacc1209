"""Empirical bias correction: give a quantized layer's outputs the means they had in float.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
section 4.2, in the form that takes the means from data. Rounding moves the mean of a layer's
outputs, and a bias can take that back. First ask the float model, then correct the quantized one:

    places = bias_places(model, paths, norms)
    wanted = output_means(float_model, places, batches)
    shifts = correct_biases(model, wanted, batches)
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import Layer

from core.errors import DataError
from core.network.layers import get
from core.network.modes import evaluation_mode

TensorBatches = Sequence[Sequence[Tensor]]
_NO_BATCHES = "calibration: no batches to correct biases with"


def bias_places(model: Layer, paths: Sequence[str], norms: Mapping[str, str]) -> list[str]:
    """Return where the biases are that can correct these layers: the layers, or norms behind them.

    Args:
        model: Holds them.
        paths: Layers.
        norms: Path of the batch norm that alone reads a layer's output, by the layer's path; it is
            used where a layer has no bias.

    Returns:
        Paths, in the order given. Layers without bias and norm are left out, and so is a bias that
        belongs to several layers.

    Raises:
        ConfigError: The model has no such layer.
    """
    layers = model.sublayers(include_self=True)
    owners = Counter(id(each) for layer in layers for each in layer._parameters.values())
    places = []
    for path in paths:
        candidates = [path, norms[path]] if path in norms else [path]
        biased = [place for place in candidates if get(model, place).bias is not None]
        if biased and owners[id(get(model, biased[0]).bias)] == 1:
            places.append(biased[0])
    return places


def output_means(
    model: Layer, paths: Sequence[str], batches: TensorBatches
) -> dict[str, np.ndarray]:
    """Return the mean output of layers per channel, [C] in float64, over all batches.

    Args:
        model: Runs in evaluation mode.
        paths: Convolutions, linear layers and batch norms.
        batches: Inputs of the model.

    Returns:
        See `noting_means`.

    Raises:
        DataError: No batches, or outputs that are not finite; names the layer.
    """
    with noting_means(model, paths) as means, evaluation_mode(model), paddle.no_grad():
        for inputs in batches:
            model(*inputs)
    return means


@contextlib.contextmanager
def noting_means(model: Layer, paths: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
    """Note the mean output of layers per channel while a model runs.

    Args:
        model: Its runs in the context count.
        paths: Convolutions, linear layers and batch norms.

    Yields:
        Means [C] in float64 by path, once the context is left, in the order in which the layers
        run. Layers that do not run are not in it, nor are those that run several times: one bias
        would have to correct several means.

    Raises:
        DataError: The model did not run, or outputs are not finite; names the layer.
    """
    runs: Counter[str] = Counter()
    values: Counter[str] = Counter()
    sums: dict[str, np.ndarray] = {}
    means: dict[str, np.ndarray] = {}

    def add(path: str, layer: Layer, output: Tensor) -> None:
        with paddle.no_grad():
            total, count = _sum_by_channel(layer, output)
        runs[path] += 1
        values[path] += count
        sums[path] = sums.get(path, 0.0) + total

    with listening(model, paths, add) as whole:
        yield means
    if not whole:
        raise DataError(_NO_BATCHES)
    for path, total in sums.items():
        if runs[path] == len(whole):
            means[path] = _finite(path, total / values[path])


@contextlib.contextmanager
def listening(
    model: Layer, paths: Sequence[str], hear: Callable[[str, Layer, Tensor], None]
) -> Iterator[list[None]]:
    """Call `hear` whenever one of the layers has run.

    Args:
        model: Holds the layers.
        paths: Of the layers.
        hear: Gets the path, the layer and its output, [N, C, H, W] or [N, ..., C].

    Yields:
        A list that gets an entry for each run of the whole model.
    """
    runs: list[None] = []
    handles = [model.register_forward_post_hook(lambda *_: runs.append(None))]

    def listen(path: str) -> None:
        hook = get(model, path).register_forward_post_hook
        handles.append(hook(lambda layer, _inputs, output: hear(path, layer, output)))

    try:
        for path in paths:
            listen(path)
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def correct_biases(
    model: Layer, wanted: Mapping[str, np.ndarray], batches: TensorBatches
) -> dict[str, np.ndarray]:
    """Shift biases until each layer's outputs have the wanted means, one layer after the other.

    Later layers are measured with what earlier ones give after their correction. All images pass at
    once, and each layer answers twice: before its correction and after it.

    Args:
        model: Quantized; its biases are edited in place.
        wanted: Means of the float model's outputs, see `output_means`, for layers with a bias.
        batches: Inputs of the model, the same that the means are of; all of one size.

    Returns:
        What was added to the bias [C], by path.

    Raises:
        DataError: No batches, a layer that does not run, or outputs that are not finite.
    """
    if not batches:
        raise DataError(_NO_BATCHES)
    shifts: dict[str, np.ndarray] = {}
    handles: list[Any] = []
    try:
        for path, mean in wanted.items():
            handles += _correct_once(get(model, path), path, mean, shifts)
        with evaluation_mode(model), paddle.no_grad():
            model(*(paddle.concat(list(column)) for column in zip(*batches)))
    finally:
        for handle in handles:
            handle.remove()
    for path in wanted:
        if path not in shifts:
            raise DataError(f"{path}: does not run in the quantized model, but does in float")
    return shifts


def _correct_once(
    layer: Layer, path: str, wanted: np.ndarray, shifts: dict[str, np.ndarray]
) -> list[Any]:
    """Let the first run of a layer correct its bias and answer with it; return the hooks.

    Args:
        layer: Layer with a bias.
        path: Path of the layer.
        wanted: Mean output per channel, [C].
        shifts: Receives what was added to the bias [C], by path.
    """
    keywords: dict[str, Any] = {}

    def note(_layer: Layer, _inputs: object, given: dict[str, Any]) -> None:
        keywords.update(given)

    def correct(layer: Layer, inputs: Sequence[Any], output: Tensor) -> Tensor | None:
        if path in shifts:
            return None
        total, count = _sum_by_channel(layer, output)
        shifts[path] = wanted - _finite(path, total / count)
        value = layer.bias.numpy()
        layer.bias.set_value((value + shifts[path].reshape(value.shape)).astype(value.dtype))
        corrected: Tensor = layer(*inputs, **keywords)
        return corrected

    return [
        layer.register_forward_pre_hook(note, with_kwargs=True),
        layer.register_forward_post_hook(correct),
    ]


def _sum_by_channel(layer: Layer, output: Tensor) -> tuple[np.ndarray, int]:
    """Return the sums of an output over all but the channels, [C] in float64, and of how many."""
    axis = _channel_axis(layer, output)
    output = output.astype("float32")
    # products with ones, as Paddle takes many times as long for a sum
    if axis == output.ndim - 1:
        rows = output.reshape([output.shape[0], -1, output.shape[axis]])
        sums = paddle.ones([1, rows.shape[1]]) @ rows
    else:
        rows = output.flatten(2)
        sums = rows @ paddle.ones([rows.shape[2], 1])
    by_image = sums.numpy().reshape(-1, output.shape[axis])
    return by_image.sum(0, dtype=np.float64), int(output.size) // int(output.shape[axis])


def _finite(path: str, mean: np.ndarray) -> np.ndarray:
    if not np.isfinite(mean).all():
        raise DataError(f"{path}: expected finite outputs to correct its bias with, got {mean}")
    return mean


def _channel_axis(layer: Layer, output: Tensor) -> int:
    layout = str(getattr(layer, "_data_format", "NC"))
    return 1 if layout.startswith("NC") and not isinstance(layer, nn.Linear) else output.ndim - 1
