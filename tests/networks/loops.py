"""Convolutions as loops over their kernels, in float64."""

from __future__ import annotations

import numpy as np
from paddle import nn


def convolved(x: np.ndarray, weight: np.ndarray, layer: nn.Conv2D) -> np.ndarray:
    pad, stride, groups = layer._padding, layer._stride[0], layer._groups
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    size = weight.shape[2]
    height, width = ((each - size) // stride + 1 for each in x.shape[2:])
    parts = []
    for inputs, filters in zip(np.split(x, groups, 1), np.split(weight, groups, 0)):
        sums = 0.0
        for i, j in np.ndindex(size, size):
            seen = inputs[:, :, i::stride, j::stride][:, :, :height, :width]
            sums = sums + np.einsum("nchw,oc->nohw", seen, filters[:, :, i, j])
        parts.append(sums)
    return np.concatenate(parts, 1)


def spread(x: np.ndarray, weight: np.ndarray, layer: nn.Conv2DTranspose) -> np.ndarray:
    stride, groups, size = layer._stride[0], layer._groups, weight.shape[2]
    height, width = x.shape[2:]
    parts = []
    for inputs, filters in zip(np.split(x, groups, 1), np.split(weight, groups, 0)):
        shape = [len(x), filters.shape[1], *((n - 1) * stride + size for n in (height, width))]
        sums = np.zeros(shape)
        for i, j in np.ndindex(size, size):
            rows = slice(i, i + (height - 1) * stride + 1, stride)
            columns = slice(j, j + (width - 1) * stride + 1, stride)
            sums[:, :, rows, columns] += np.einsum("nchw,co->nohw", inputs, filters[:, :, i, j])
        parts.append(sums)
    return np.concatenate(parts, 1)
