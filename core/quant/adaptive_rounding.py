"""Round a weight so that a layer's outputs move least, not each value of the weight by itself.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020: values of a
row that are multiplied by correlated inputs should not be rounded independently of each other. The
rounding here is that of Frantar et al. (GPTQ, ICLR 2023): column by column, each takes back what
the columns before it have done to the outputs. In front of it the weight is fitted to the inputs
that the quantized layer reads, which are rounded and come from quantized layers (Hubara et al.,
"Accurate Post Training Quantization With Small Calibration Sets", ICML 2021, there by descent).
Both are in closed form, so no learning rate and no number of steps has to be chosen.
"""

from __future__ import annotations

import numpy as np

from core.network.layer_fitting import least_squares
from core.quant.weight_grid import free_steps, quantize_weight
from core.targets.processors import HIGHEST, MIDDLE, Limit

_SAME = 1e-4  # share of the largest magnitude, which is 127 steps or fewer
# Samples that count as one. Rounding moves outputs little, and what a layer takes back of it on few
# images it partly adds on others. Chosen by TinyPose's heatmaps of images that were not fitted to.
_ALIKE = 30
_BLOCK = 128  # inputs whose influence on those behind them is summed up at once


def fit_weight(
    weight: np.ndarray, inputs: np.ndarray, wanted: np.ndarray, limit: Limit, bits: int = 8
) -> np.ndarray:
    """Return a weight on its grid whose products with inputs are nearest to the wanted outputs.

    The fewer samples there are for each value of a row, the nearer it stays to what it was.

    Args:
        weight: Float weight [groups, outputs, inputs of a group], kernels unrolled into inputs.
        inputs: Inputs of the layer, [samples, groups, inputs of a group].
        wanted: Outputs it should have without its bias, [samples, groups, outputs].
        limit: Limit on the steps that the weight may take.
        bits: 2 to 8, of the weight.

    Returns:
        Values [groups, outputs, inputs of a group] that rounding to nearest leaves as they are. A
        row for which no such values are found is not rounded.
    """
    fitted, lower = least_squares(weight, inputs, wanted, _ALIKE)
    return round_weight(fitted, lower, limit, bits)


def round_weight(weight: np.ndarray, lower: np.ndarray, limit: Limit, bits: int = 8) -> np.ndarray:
    """Round a weight to its grid so that the squares of its products with inputs change least.

    Args:
        weight: Float weight [groups, outputs, inputs of a group].
        lower: The `factor` of the mean products of the inputs of each group with each other,
            [groups, K, K].
        limit: Limit on the steps that the weight may take.
        bits: 2 to 8.

    Returns:
        See `fit_weight`. No row is farther off than if it were rounded to nearest.
    """
    groups, outputs, count = weight.shape
    found = free_steps(weight.reshape(-1, count), limit, bits)
    step, low, high = (
        each.reshape(groups, outputs) for each in (found.step, found.low, found.high)
    )
    # [groups, inputs of a group, outputs]: what is worked on together lies together
    columns, nearest, held = (
        np.ascontiguousarray(each.reshape(groups, outputs, count).transpose(0, 2, 1))
        for each in (weight, found.nearest, found.held)
    )
    loss = np.zeros((groups, outputs))  # mean square of each output's change
    rounded, off = np.empty(columns.shape), np.zeros(columns.shape)  # off: weight less rounded
    for start in range(0, count, _BLOCK):
        block = slice(start, min(start + _BLOCK, count))
        before = lower[:, block, :start] @ off[:, :start]
        for k in range(block.start, block.stop):
            moved, own = before[:, k - start], lower[:, k, k][:, None]
            if k > start:
                moved = moved + (lower[:, k : k + 1, start:k] @ off[:, start:k])[:, 0]
            best = (columns[:, k] + moved / own) / step
            best = found.stride * np.rint(best / found.stride).clip(low, high)
            rounded[:, k] = np.where(held[:, k], nearest[:, k], best) * step
            off[:, k] = columns[:, k] - rounded[:, k]
            loss += (moved + off[:, k] * own) ** 2
    plain = nearest * step[:, None]
    better = loss < ((lower @ (columns - plain)) ** 2).sum(axis=1)
    rounded = np.where(better[:, None], rounded, plain).transpose(0, 2, 1)
    kept = np.ones((groups, outputs), bool) if bits < 8 else _stays(rounded, limit)
    return np.where(kept[..., None], rounded, weight)


def _stays(rounded: np.ndarray, limit: Limit) -> np.ndarray:
    """Tell of which rows [groups, outputs] of a weight rounding in float32 changes nothing."""
    rows = rounded.reshape(-1, rounded.shape[2])
    steps, ends = quantize_weight(rows.astype(np.float32), 0, limit)
    again = steps * (ends[:, None].astype(np.float64) / HIGHEST)
    if limit == "even":
        again = np.where(np.abs(steps) == HIGHEST, again * (MIDDLE / HIGHEST), again)
    near = np.abs(again - rows) <= _SAME * np.abs(rows).max(axis=1, keepdims=True)
    return np.asarray(near.all(axis=1).reshape(rounded.shape[:2]))
