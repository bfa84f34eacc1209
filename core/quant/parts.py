"""What is rounded in a model, part by part: switched on and off, moved to other grids, listed.

A part is a quantized layer, by its path, or the quantizer of a layer's output, by that of the
quantizer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Mapping

from paddle.nn import Layer

from core.errors import ExportError
from core.quant.layers import Quantized, quantized_layers, restore_float
from core.quant.outputs import (
    QUANTIZER,
    output_part,
    output_readers,
    restore_output,
    rounded_outputs,
)
from core.quant.quantizers import ActivationQuantizer
from core.quant.table import Grid, LayerScales, OutputScales
from core.quant.weight_grid import PAIR, Limit


def parts_of(model: Layer) -> dict[str, Quantized | ActivationQuantizer]:
    """Return the parts by path, the layers first."""
    return {
        **quantized_layers(model),
        **{output_part(p): q for p, q in rounded_outputs(model).items()},
    }


def layer_of(part: str) -> str:
    """Return the path of the layer that a part is, or is behind."""
    return part.removesuffix(f".{QUANTIZER}")


def restore(model: Layer, part: str) -> None:
    """Put a part into float for good."""
    layer = parts_of(model)[part]
    if isinstance(layer, Quantized):
        restore_float(layer)
    else:
        restore_output(model, layer_of(part))


def quantizers_of(model: Layer) -> dict[str, ActivationQuantizer]:
    """Return all quantizers by their own paths, each once."""
    return {
        path: each
        for path, each in model.named_sublayers()
        if isinstance(each, ActivationQuantizer)
    }


def rounded_by(model: Layer) -> list[tuple[ActivationQuantizer, list[str]]]:
    """Return each quantizer with the parts whose activations are on its grid."""
    found = [
        (layer.input_quantizer, [path])
        for path, layer in quantized_layers(model).items()
        if not layer.shares_quantizer
    ]
    readers = output_readers(model)
    for path, quantizer in rounded_outputs(model).items():
        found.append((quantizer, [output_part(path), *readers[path]]))
    return found


@contextlib.contextmanager
def float_parts(model: Layer) -> Iterator[None]:
    """Let all parts compute in float while the context is open."""
    parts = parts_of(model).values()
    before = [part.passing for part in parts]
    try:
        for part in parts:
            part.passing = True
        yield
    finally:
        for part, passing in zip(parts, before):
            part.passing = passing


@contextlib.contextmanager
def on_grids(
    model: Layer,
    unsigned: Container[str],
    twice: Container[str] = (),
    limits: Mapping[str, Limit] | None = None,
    largest: int = PAIR,
) -> Iterator[None]:
    """Let parts round as the files of a target do while the context is open.

    Args:
        model: With quantized layers.
        unsigned: The parts whose activations, if never negative, have grids from zero on; the
            others have a sign. Parts that share a quantizer have its grid if one of them does.
        twice: Paths of the layers whose weights are rounded twice; see `Quantized`.
        limits: Of the steps of weights, by path of the layer; the others have none. None: those
            that the layers have.
        largest: See `Quantized`.
    """
    layers, quantizers = quantized_layers(model), rounded_by(model)
    limited = [(layer, layer.limit, layer.largest) for layer in layers.values()]
    before = [(each, not each.signed, each.learned_step()) for each, _ in quantizers]
    try:
        for quantizer, parts in quantizers:
            quantizer.use_unsigned(any(part in unsigned for part in parts))
        for path, layer in layers.items():
            layer.__dict__["twice"] = path in twice
            layer.largest = largest
            layer.limit = layer.limit if limits is None else limits.get(path, "none")
        yield
    finally:
        for quantizer, was_unsigned, learned in before:
            quantizer.use_unsigned(was_unsigned, learned)
        for layer, limit, largest in limited:
            layer.__dict__["twice"] = False
            layer.limit, layer.largest = limit, largest


def scales_of(model: Layer) -> list[LayerScales]:
    """Return how each quantized layer of the model is rounded, for files.

    Raises:
        ExportError: A grid is not one; the message names the layer.
    """
    table = []
    for path, layer in quantized_layers(model).items():
        quantizer = layer.input_quantizer
        by_channel = quantizer.rounding.weight_type == "channel_wise_abs_max"
        grid, bits = _grid(path, quantizer, "inputs"), quantizer.rounding.weight_bits
        table.append(LayerScales(f"{path}.weight", grid, bits, by_channel, layer.limit))
    return table


def output_scales_of(model: Layer) -> list[OutputScales]:
    """Return how each output that the model rounds is rounded, for files.

    Raises:
        ExportError: A grid is not one; the message names the layer.
    """
    return [
        OutputScales(path, _grid(path, quantizer, "outputs"))
        for path, quantizer in rounded_outputs(model).items()
    ]


def _grid(path: str, quantizer: ActivationQuantizer, what: str) -> Grid:
    try:
        return quantizer.grid()
    except ValueError as error:
        raise ExportError(f"{path}: its {what} have no grid: {error}") from error
