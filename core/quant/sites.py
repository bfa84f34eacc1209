"""Quantization sites of a model: bypassed, moved to other grids, listed.

A site is a place where a model rounds: a quantized layer, by its path, or the quantizer of a
layer's output, by the quantizer's path.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Mapping

from paddle.nn import Layer

from core.errors import ExportError
from core.quant.layers import QuantizedLayer, quantized_layers, restore_float
from core.quant.outputs import (
    QUANTIZER,
    output_readers,
    output_site,
    restore_output,
    rounded_outputs,
)
from core.quant.quantizers import ActivationQuantizer
from core.quant.scales import Grid, LayerScales, OutputScales
from core.targets.processors import MIDDLE, Limit


def sites_of(model: Layer) -> dict[str, QuantizedLayer | ActivationQuantizer]:
    """Return the sites by path, the layers first."""
    return {
        **quantized_layers(model),
        **{output_site(p): q for p, q in rounded_outputs(model).items()},
    }


def layer_of(site: str) -> str:
    """Return the path of the layer of a site, be it the layer or its output quantizer."""
    return site.removesuffix(f".{QUANTIZER}")


def restore(model: Layer, site: str) -> None:
    """Restore a site to float for good."""
    layer = sites_of(model)[site]
    if isinstance(layer, QuantizedLayer):
        restore_float(layer)
    else:
        restore_output(model, layer_of(site))


def quantizers_of(model: Layer) -> dict[str, ActivationQuantizer]:
    """Return all quantizers by their own paths, each once."""
    return {
        path: each
        for path, each in model.named_sublayers()
        if isinstance(each, ActivationQuantizer)
    }


def rounded_by(model: Layer) -> list[tuple[ActivationQuantizer, list[str]]]:
    """Return each quantizer with the sites whose activations are on its grid."""
    found = [
        (layer.input_quantizer, [path])
        for path, layer in quantized_layers(model).items()
        if not layer.shares_quantizer
    ]
    readers = output_readers(model)
    for path, quantizer in rounded_outputs(model).items():
        found.append((quantizer, [output_site(path), *readers[path]]))
    return found


@contextlib.contextmanager
def float_sites(model: Layer) -> Iterator[None]:
    """Let all sites compute in float while the context is open."""
    sites = sites_of(model).values()
    before = [site.bypassed for site in sites]
    try:
        for site in sites:
            site.bypassed = True
        yield
    finally:
        for site, bypassed in zip(sites, before):
            site.bypassed = bypassed


@contextlib.contextmanager
def on_grids(
    model: Layer,
    unsigned: Container[str],
    requantized_per_channel: Container[str] = (),
    limits: Mapping[str, Limit] | None = None,
    largest: float = MIDDLE,
) -> Iterator[None]:
    """Put the sites on the grids of a target's files while the context is open.

    Args:
        model: Model with quantized layers.
        unsigned: Sites whose grids start at zero if their activations are never negative; all
            others have signed grids. A shared quantizer is unsigned if one of its sites is.
        requantized_per_channel: Paths of the layers whose weights are rounded twice; see
            `QuantizedLayer`.
        limits: Limits on the steps of weights, by path of the layer; other layers have none.
            None: the limits of the layers themselves.
        largest: See `QuantizedLayer`.
    """
    layers, quantizers = quantized_layers(model), rounded_by(model)
    limited = [(layer, layer.limit, layer.largest) for layer in layers.values()]
    before = [(each, not each.signed, each.learned_step()) for each, _ in quantizers]
    try:
        for quantizer, sites in quantizers:
            quantizer.use_unsigned(any(site in unsigned for site in sites))
        for path, layer in layers.items():
            layer.requantized_per_channel = path in requantized_per_channel
            layer.largest = largest
            layer.limit = layer.limit if limits is None else limits.get(path, "none")
        yield
    finally:
        for quantizer, was_unsigned, learned in before:
            quantizer.use_unsigned(was_unsigned, learned)
        for layer, limit, largest in limited:
            layer.requantized_per_channel = False
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
