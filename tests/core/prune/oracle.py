"""What a cut network must compute, found without cutting: columns of weights are set to zero.

The whole network runs, and every weight of a convolution or linear layer is zero where it reads a
channel that goes. That says nothing of channels that are felt otherwise; `felt` tells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import Layer

from core.prune.structure.analysis import Analysis
from core.prune.structure.labels import Array

READERS = (nn.Conv2D, nn.Conv2DTranspose, nn.Linear)


def random_keep(analysis: Analysis, rng: np.random.Generator, shares: Sequence[float]) -> Array:
    """Keep about one of these shares of each group, and what each needs to keep at least."""
    keep = analysis.keep_all()
    for group in analysis.groups:
        mask = rng.random(len(group)) < rng.choice(shares)
        for part in (*group.keep_one, np.arange(len(group))):
            if not mask[part].any():
                mask[rng.choice(part)] = True
        keep[group.units] = mask
    return keep


def run(model: Layer, *inputs: Tensor) -> list[Array]:
    """Return all outputs in evaluation mode."""
    model.eval()
    with paddle.no_grad():
        outputs = model(*inputs)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [output.numpy() for output in outputs]


def run_silenced(model: Layer, analysis: Analysis, keep: Array, *inputs: Tensor) -> list[Array]:
    """Run the whole model; weights that read a channel that goes are zero there."""
    paths = {id(parameter): name for name, parameter in model.named_parameters()}
    whole: dict[int, tuple[Tensor, Array]] = {}
    for layer in model.sublayers():
        if not isinstance(layer, READERS) or id(layer.weight) in whole:
            continue
        axis, weight = int(isinstance(layer, nn.Conv2D)), layer.weight
        labels = analysis.weights.get(paths[id(weight)], {}).get(axis)
        if labels is not None:
            whole[id(weight)] = (weight, weight.numpy())
            shape = [1] * weight.ndim
            shape[axis] = -1
            mask = keep[labels].reshape(shape).astype(weight.numpy().dtype)
            weight.set_value(weight.numpy() * mask)
    found = run(model, *inputs)
    for weight, values in whole.values():
        weight.set_value(values)
    return found


def felt(analysis: Analysis) -> Array:
    """Return the labels of channels that are felt without a weight.

    - layer norms, and group norms of a single group: mean and variance are over channels;
    - reductions (mean, maximum, ...) over channels;
    - products of two activations that add up over channels.
    """
    graph, axes = analysis.graphs[-1].graph, analysis.graphs[-1].activations
    found = [np.zeros(0, np.int64)]
    for op in graph.operators:
        x = op.input("X")
        rank = len(graph.shapes.get(x, ()))
        mixed: list[int] = []
        if op.type == "layer_norm":
            mixed = list(range(int(op.attribute("begin_norm_axis")), rank))
        elif op.type == "group_norm" and op.attribute("groups") == 1:
            mixed = [1]
        elif op.type.startswith("reduce_"):
            mixed = [int(axis) % rank for axis in op.attribute("dim")]
        elif op.type == "matmul_v2" and op.input("Y") not in graph.weights:
            mixed = [rank - (2 if op.attribute("trans_x") else 1)]
        found += [axes[x][axis] for axis in mixed if axis in axes.get(x, {})]
    return np.concatenate(found)


def train_one_step(model: Layer, *inputs: Tensor) -> list[list[int]]:
    """Go forward and back once, see that gradients fit weights; return the shapes of outputs."""
    model.train()
    optimizer = paddle.optimizer.Momentum(1e-3, parameters=model.parameters())
    outputs = model(*inputs)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    paddle.add_n([output.square().mean() for output in outputs]).backward()
    named = dict(model.named_parameters())
    shapes = {name: parameter.shape for name, parameter in named.items()}
    graded = {name: p.grad.shape for name, p in named.items() if p.grad is not None}
    assert graded
    assert graded == {name: shapes[name] for name in graded}
    optimizer.step()
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    return [list(output.shape) for output in outputs]
