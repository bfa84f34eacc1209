"""Layer-wise reconstruction: fit weights and biases so that layers give their float outputs.

A quantized layer reads activations that are rounded, and that come from layers that answer a little
differently than in float. Its weight is fitted to what it reads (`core.quant.adaptive_rounding`),
so that errors of the layers before it are taken back as far as a layer can, and its bias is
corrected (`core.quant.bias_correction`). No labels are read. It takes one pass of the float model
and one of the quantized one, in which each layer is mended before those behind it run.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.nn import Layer

from core.network.layers import get
from core.quant.adaptive_rounding import fit_weight
from core.quant.bias_correction import TensorBatches, bias_places, correct_biases, output_means
from core.quant.layers import QuantizedConv2D, QuantizedLayer, QuantizedLinear
from core.quant.sites import float_sites

PLACES = 128  # places of a map that are sampled; neighbours tell little more
MOST_INPUTS = 8192  # to an output; the matrix of their products has the square of it


def reconstruct(
    model: Layer, paths: Sequence[str], norms: Mapping[str, str], batches: TensorBatches
) -> int:
    """Fit weights and biases of quantized layers to their float outputs, in place.

    Transposed convolutions, layers that run several times, and those that read more than
    `MOST_INPUTS` values for an output keep their weights. Only biases that `bias_places` finds are
    corrected.

    Args:
        model: Quantized and calibrated.
        paths: Its quantized layers.
        norms: Path of the batch norm that alone reads a layer's output, by the layer's path.
        batches: Inputs of the model, [N, C, H, W] each, all of one size; all pass at once.

    Returns:
        How many weights were fitted.

    Raises:
        DataError: No batches, or outputs that are not finite; names the layer.
    """
    places = bias_places(model, paths, norms)
    with float_sites(model), _sampled(model, paths, len(batches)) as samples:
        means = output_means(model, places, batches)
    shifted = {path for path in paths if {path, norms.get(path)} & means.keys()}
    with _fitted(model, samples, shifted):
        correct_biases(model, means, batches)
    return len(samples)


@contextlib.contextmanager
def _sampled(
    model: Layer, paths: Sequence[str], batches: int
) -> Iterator[dict[str, list[np.ndarray]]]:
    """Collect samples of the outputs of layers, [samples, C], a batch at a time.

    When the context is left, those are gone that belong to layers which ran several times in a
    batch.
    """
    samples: dict[str, list[np.ndarray]] = {}

    def listen(path: str) -> Any:
        def note(layer: Layer, _inputs: object, output: Tensor) -> None:
            samples.setdefault(path, []).append(_at_places(layer, path, output))

        return get(model, path).register_forward_post_hook(note)

    handles = [listen(path) for path in paths if _can_be_fitted(get(model, path))]
    try:
        yield samples
    finally:
        for handle in handles:
            handle.remove()
    for path in [path for path, found in samples.items() if len(found) != batches]:
        del samples[path]


def _can_be_fitted(layer: Layer) -> bool:
    if not isinstance(layer, (QuantizedConv2D, QuantizedLinear)):
        return False
    return int(layer.weight.size) // int(layer.weight.shape[layer.channel_axis]) <= MOST_INPUTS


@contextlib.contextmanager
def _fitted(
    model: Layer, samples: Mapping[str, list[np.ndarray]], shifted: Collection[str]
) -> Iterator[None]:
    """Let each sampled layer fit its weight before it runs for the first time.

    Args:
        model: Holds the layers.
        samples: Samples that `_sampled` collected.
        shifted: Layers whose biases are corrected, so that their means do not matter.
    """
    left = dict(samples)

    def listen(path: str) -> Any:
        def fit(layer: QuantizedLayer, inputs: Sequence[Any], keywords: dict[str, Any]) -> None:
            if path in left:
                wanted = np.concatenate(left.pop(path))
                (x,) = (*inputs, *keywords.values())
                _fit(layer, path, layer.rounded_input(x), wanted, path in shifted)

        return get(model, path).register_forward_pre_hook(fit, with_kwargs=True)

    handles = [listen(path) for path in samples]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fit(layer: QuantizedLayer, path: str, x: Tensor, wanted: np.ndarray, shifted: bool) -> None:
    """Fit the weight of a layer that reads x to samples of wanted outputs [samples, C]."""
    value = layer.weight.numpy()
    linear = isinstance(layer, nn.Linear)
    groups = 1 if linear else layer._groups
    rows = (value.T if linear else value).astype(np.float64)
    rows = rows.reshape(groups, rows.shape[0] // groups, -1)
    inputs = _read_at_places(layer, path, x).reshape(len(wanted), groups, -1)
    if layer.bias is not None:
        wanted = wanted - layer.bias.numpy().ravel()
    if shifted:
        inputs, wanted = (each - each.mean(0, dtype=np.float64) for each in (inputs, wanted))
    wanted = wanted.reshape(len(wanted), groups, -1)
    bits = layer.input_quantizer.rounding.weight_bits
    rows = fit_weight(rows, inputs, wanted, layer.limit, bits)
    fitted = rows[0].T if linear else rows.reshape(value.shape)
    layer.weight.set_value(fitted.astype(value.dtype))


def _read_at_places(layer: Layer, path: str, x: Tensor) -> np.ndarray:
    """Return the inputs of the outputs that `_at_places` returns, [samples, groups x K]."""
    if not isinstance(layer, nn.Conv2D):
        return _at_places(layer, path, x)
    size = list(layer._kernel_size)
    if size == [1, 1] and set(np.ravel(layer._stride)) == {1}:
        return _at_places(layer, path, x)
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
        found.append(_at_places(layer, path, picked))
    return np.concatenate(found)


def _at_places(layer: Layer, path: str, x: Tensor) -> np.ndarray:
    """Return some places of a map, the same ones in all images, [samples, C].

    Args:
        layer: Layer that reads or makes the map.
        path: Path of the layer; each has its own places.
        x: Map [N, C, H, W], or [N, ..., C] of a linear layer.
    """
    values: np.ndarray = x.numpy()
    if isinstance(layer, nn.Linear):
        values = values.reshape(len(values), -1, values.shape[-1])
    else:
        values = values.reshape(*values.shape[:2], -1).swapaxes(1, 2)
    count = values.shape[1]
    if count > PLACES:
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        values = values[:, np.sort(rng.choice(count, PLACES, replace=False))]
    return values.reshape(-1, values.shape[2])
