"""Layer-wise reconstruction: fit weights and biases so that layers give their float outputs.

A quantized layer reads activations that are rounded, and that come from layers that answer a little
differently than in float. Its weight is fitted to what it reads and rounded so that outputs move
least (`core.quant.adaptive_rounding`), so that errors of the layers before it are taken back as far
as a layer can, and its bias is corrected: `core.network.layer_fitting`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from paddle.nn import Layer

from core.network.bias_correction import TensorBatches
from core.network.layer_fitting import (
    NotedOutputs,
    few_of_one_size,
    fit_layers,
    note_outputs,
    noting_outputs,
)
from core.quant.adaptive_rounding import fit_weight
from core.quant.calibration import CalibrationBatches
from core.quant.grid_plan import GridPlan
from core.quant.selection import LayerSelection
from core.quant.sites import float_sites


def reconstruct(
    model: Layer,
    paths: Sequence[str],
    norms: Mapping[str, str],
    batches: TensorBatches,
    progress: bool = False,
    noted: NotedOutputs | None = None,
) -> int:
    """Fit weights and biases of quantized layers to their float outputs, in place.

    Args:
        model: Quantized and calibrated.
        paths: Its quantized layers; `note_outputs` tells which keep their weights.
        norms: Path of the batch norm that alone reads a layer's output, by the layer's path.
        batches: Inputs of the model, [N, C, H, W] each, all of one size; all pass at once.
        progress: Show how many layers are fitted.
        noted: What `noting_while_calibrated` noted of the same batches.

    Returns:
        How many weights were fitted.

    Raises:
        DataError: No batches, or outputs that are not finite; names the layer.
    """
    if noted is None:
        with float_sites(model):
            noted = note_outputs(model, paths, norms, batches)
    return fit_layers(
        model, noted, batches, _solve, lambda layer, x: layer.rounded_input(x), progress
    )


@contextlib.contextmanager
def noting_while_calibrated(
    model: Layer, choice: LayerSelection, plan: GridPlan, batches: CalibrationBatches
) -> Iterator[NotedOutputs | None]:
    """Note what layers make in float while a model is calibrated, which saves a pass.

    Args:
        model: In float; quantized and calibrated in the context.
        choice: Layers that are quantized.
        plan: Its grids.
        batches: What the model is calibrated on, [N, C, H, W]; see `first_batches`.

    Yields:
        What is noted, once the context is left; None where `reconstruct` would read fewer batches.
    """
    few = few_of_one_size(batches())
    if len(few) < sum(1 for _ in batches()):
        yield None
        return
    paths = [path for path in choice.layers if path not in plan.in_float]
    images = sum(int(inputs[0].shape[0]) for inputs in few)
    with noting_outputs(model, paths, plan.norms, images) as noted:
        yield noted


def _solve(layer: Any, rows: np.ndarray, inputs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    bits = layer.input_quantizer.rounding.weight_bits
    return fit_weight(rows, inputs, wanted, layer.limit, bits)
