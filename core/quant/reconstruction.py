"""Layer-wise reconstruction: fit weights and biases so that layers give their float outputs.

A quantized layer reads activations that are rounded, and that come from layers that answer a little
differently than in float. Its weight is fitted to what it reads and rounded so that outputs move
least (`core.quant.adaptive_rounding`), so that errors of the layers before it are taken back as far
as a layer can, and its bias is corrected: `core.network.layer_fitting`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from paddle.nn import Layer

from core.network.bias_correction import TensorBatches
from core.network.layer_fitting import fit_layers, note_outputs
from core.quant.adaptive_rounding import fit_weight
from core.quant.sites import float_sites


def reconstruct(
    model: Layer,
    paths: Sequence[str],
    norms: Mapping[str, str],
    batches: TensorBatches,
    progress: bool = False,
) -> int:
    """Fit weights and biases of quantized layers to their float outputs, in place.

    Args:
        model: Quantized and calibrated.
        paths: Its quantized layers; `note_outputs` tells which keep their weights.
        norms: Path of the batch norm that alone reads a layer's output, by the layer's path.
        batches: Inputs of the model, [N, C, H, W] each, all of one size; all pass at once.
        progress: Show how many layers are fitted.

    Returns:
        How many weights were fitted.

    Raises:
        DataError: No batches, or outputs that are not finite; names the layer.
    """
    with float_sites(model):
        wanted = note_outputs(model, paths, norms, batches)
    return fit_layers(
        model, wanted, batches, _solve, lambda layer, x: layer.rounded_input(x), progress
    )


def _solve(layer: Any, rows: np.ndarray, inputs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    bits = layer.input_quantizer.rounding.weight_bits
    return fit_weight(rows, inputs, wanted, layer.limit, bits)
