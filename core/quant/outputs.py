"""Layers that round their outputs for all layers that read them.

Runtimes keep activations in int8 between layers only where they have grids: a convolution that
writes to an addition or an activation function of its own computes in float in ONNX Runtime, and
returns floats elsewhere. A quantizer behind a layer, which may be of any kind, gives its output a
grid, and quantized layers that read this very tensor have no grid of their own.
"""

from __future__ import annotations

from collections.abc import Iterable

import paddle
from paddle import Tensor
from paddle.nn import Layer

from core.errors import CheckpointError
from core.network.layers import get
from core.quant.layers import QuantizedLayer, quantized_layers
from core.quant.quantizers import ActivationQuantizer, Rounding

QUANTIZER = "output_quantizer"


def round_output(
    model: Layer,
    path: str,
    rounding: Rounding,
    readers: Iterable[str] = (),
    nonnegative: bool = False,
    unsigned: bool = False,
) -> ActivationQuantizer:
    """Let the layer at a path round its output, in place.

    Args:
        model: Holds the layer.
        path: Path of the layer, which has one output tensor.
        rounding: How the layer is rounded.
        readers: Paths of the quantized layers that read this tensor.
        nonnegative: See `ActivationQuantizer`.
        unsigned: See `ActivationQuantizer`.

    Raises:
        CheckpointError: There is no such layer, or it rounds its output already.
    """
    layer = get(model, path)
    if QUANTIZER in layer._sub_layers:
        raise CheckpointError(f"{path}: rounds its output already")
    quantizer = ActivationQuantizer(rounding, nonnegative, unsigned)
    quantizer.training = layer.training
    for reader in readers:
        quantized = get(model, reader)
        if not isinstance(quantized, QuantizedLayer):
            raise CheckpointError(f"{reader}: is not quantized, but reads what {path} rounds")
        quantized.share_quantizer(quantizer)
    layer.add_sublayer(QUANTIZER, quantizer)
    layer.register_forward_post_hook(_round)
    return quantizer


def restore_output(model: Layer, path: str) -> None:
    """Restore the output of a layer to float; quantized layers that read it round it themselves."""
    layer = get(model, path)
    for reader in output_readers(model)[path]:
        quantized_layers(model)[reader].own_quantizer()
    del layer._sub_layers[QUANTIZER]
    for key, hook in list(layer._forward_post_hooks.items()):
        if hook is _round:
            del layer._forward_post_hooks[key]


def rounded_outputs(model: Layer) -> dict[str, ActivationQuantizer]:
    """Return the output quantizers by path of the layer whose output they round."""
    return {
        path.removesuffix(f".{QUANTIZER}"): each
        for path, each in model.named_sublayers()
        if path.endswith(f".{QUANTIZER}") and isinstance(each, ActivationQuantizer)
    }


def output_site(path: str) -> str:
    """Return the path of the output quantizer of a layer."""
    return f"{path}.{QUANTIZER}"


def output_readers(model: Layer) -> dict[str, list[str]]:
    """Return the quantized layers that read each rounded output, by path of its layer."""
    outputs = rounded_outputs(model)
    owners = {id(quantizer): path for path, quantizer in outputs.items()}
    readers: dict[str, list[str]] = {path: [] for path in outputs}
    for path, layer in quantized_layers(model).items():
        if layer.shares_quantizer:
            readers[owners[id(layer.input_quantizer)]].append(path)
    return readers


def _round(layer: Layer, _inputs: object, output: Tensor) -> Tensor | None:
    quantizer = layer._sub_layers[QUANTIZER]
    if not paddle.in_dynamic_mode() or quantizer.bypassed:
        return None
    rounded: Tensor = quantizer(output)
    return rounded
