"""Mend a network right after a cut: what is left is fitted to what it made before.

He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, section 3.1: a
layer that has lost inputs gets the weight with which the others give back its outputs best. Here
all layers are fitted in one pass, each to what it reads from those that are mended already, and
biases keep the means: `core.network.layer_fitting`. No labels are read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from paddle import nn
from paddle.nn import Layer

from core.graph.batch_norm_folding import folded_norms
from core.graph.free_batch import trace_graph
from core.network.batch_norms import is_batch_norm
from core.network.bias_correction import TensorBatches
from core.network.layer_fitting import NotedOutputs, fit_layers, least_squares, note_outputs
from core.network.modes import evaluation_mode
from core.prune.cut import ChannelEdit
from core.task import Task


def note(task: Task, model: Layer, batches: TensorBatches) -> NotedOutputs:
    """Run a model before its cut and note what its layers make.

    Args:
        task: Defines the inputs.
        model: Whole.
        batches: Inputs of the model, [N, C, H, W] each, all of one size; all pass at once.

    Raises:
        DataError: No batches, or outputs that are not finite; names the layer.
    """
    layers = dict(model.named_sublayers())
    paths = [path for path, each in layers.items() if isinstance(each, (nn.Conv2D, nn.Linear))]
    with evaluation_mode(model):
        graph = trace_graph(task.deploy_model(model, "raw"), task.input_spec(), model)
    pairs = {_owner(weight): _owner(scale) for weight, scale in folded_norms(graph).items()}
    norms = {
        path: norm for path, norm in pairs.items() if norm in layers and is_batch_norm(layers[norm])
    }
    return note_outputs(model, paths, norms, batches)


def mend(model: Layer, edit: ChannelEdit, before: NotedOutputs, batches: TensorBatches) -> int:
    """Fit the layers of a cut model, in place; return how many.

    Args:
        model: Cut.
        edit: The cut.
        before: What `note` returned.
        batches: The same inputs, [N, C, H, W] each.
    """
    kept: dict[str, Sequence[int]] = {}
    for path, layer in model.named_sublayers():
        axis = 1 if isinstance(layer, nn.Linear) else 0
        for name in (f"{path}.weight", f"{path}.bias"):
            positions = edit.kept.get(name, {}).get(axis if name.endswith("weight") else 0)
            if positions is not None:
                kept[path] = positions
    return fit_layers(model, before.of_channels(kept), batches, _solve, progress=True)


def _solve(_layer: Layer, rows: np.ndarray, inputs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return least_squares(rows, inputs, wanted)[0]


def _owner(weight: str) -> str:
    return weight.rpartition(".")[0]
