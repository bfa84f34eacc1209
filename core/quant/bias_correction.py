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
from collections.abc import Mapping, Sequence

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import Layer

from core.errors import DataError
from core.network.layers import get
from core.network.modes import evaluation_mode

TensorBatches = Sequence[Sequence[Tensor]]


class _ReachedError(Exception):
    """The layer that a run was for has answered; the rest of the model need not run."""


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
        By path, in the order in which the layers run. Layers that do not run are not in it, nor are
        those that run several times: one bias would have to correct several means.

    Raises:
        DataError: No batches, or outputs that are not finite; names the layer.
    """
    return _means(model, paths, batches, stop=False)


def correct_biases(
    model: Layer, wanted: Mapping[str, np.ndarray], batches: TensorBatches
) -> dict[str, np.ndarray]:
    """Shift biases until each layer's outputs have the wanted means, one layer after the other.

    Later layers are measured with what earlier ones give after their correction, so there is a run
    per layer, up to that layer.

    Args:
        model: Quantized; its biases are edited in place.
        wanted: What `output_means` says of the float model, for layers with a bias.
        batches: Inputs of the model, the same that the means are of.

    Returns:
        What was added to the bias [C], by path.

    Raises:
        DataError: No batches, a layer that does not run, or outputs that are not finite.
    """
    shifts = {}
    for path, target in wanted.items():
        found = _means(model, [path], batches, stop=True)
        if path not in found:
            raise DataError(f"{path}: does not run in the quantized model, but does in float")
        shifts[path] = target - found[path]
        bias = get(model, path).bias
        value = bias.numpy()
        bias.set_value((value + shifts[path].reshape(value.shape)).astype(value.dtype))
    return shifts


def _means(
    model: Layer, paths: Sequence[str], batches: TensorBatches, stop: bool
) -> dict[str, np.ndarray]:
    """Measure as `output_means` does; perhaps only until a layer has answered."""
    runs: Counter[str] = Counter()
    values: Counter[str] = Counter()
    sums: dict[str, np.ndarray] = {}
    handles = []

    def listen(path: str) -> None:
        def hook(layer: Layer, _inputs: object, output: Tensor) -> None:
            axis = _channel_axis(layer, output)
            others = [each for each in range(output.ndim) if each != axis]
            count = output.size // output.shape[axis]
            runs[path] += 1
            values[path] += count
            total = output.mean(others).numpy().astype(np.float64) * count
            sums[path] = sums.get(path, 0.0) + total
            if stop:
                raise _ReachedError

        handles.append(get(model, path).register_forward_post_hook(hook))

    if not batches:
        raise DataError("calibration: no batches to correct biases with")
    try:
        for path in paths:
            listen(path)
        with evaluation_mode(model), paddle.no_grad():
            for inputs in batches:
                with contextlib.suppress(_ReachedError):
                    model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    means = {path: sums[path] / values[path] for path in sums if runs[path] == len(batches)}
    for path, mean in means.items():
        if not np.isfinite(mean).all():
            raise DataError(f"{path}: expected finite outputs to correct its bias with, got {mean}")
    return means


def _channel_axis(layer: Layer, output: Tensor) -> int:
    layout = str(getattr(layer, "_data_format", "NC"))
    return 1 if layout.startswith("NC") and not isinstance(layer, nn.Linear) else output.ndim - 1
