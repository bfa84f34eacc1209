"""Rules for operators with weights: convolutions, products, norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.prune.structure.flow import Flow, Setting, broadcast, second_axis, spread
from core.prune.structure.graph import Operator
from core.prune.structure.labels import Array


def convolution(flow: Flow, op: Operator) -> None:
    """Filters [out, in / groups, ...] make the channels of the output."""
    weight = op.input("Filter")
    if not _is_plain(flow, op, weight):
        return
    groups = int(op.attribute("groups") or 1)
    x = second_axis(flow, op, op.input("Input"))
    out = flow.labels.get(weight, 0)
    assert out is not None
    dense = True
    if groups == 1:
        _feed(flow, op, weight, 1, x)
    else:
        dense = not _group(flow, op, weight, groups, x, out)
    flow.producers[weight, 0] = flow.producers.get((weight, 0), True) and dense
    flow.labels.put(op.output("Output"), {1: out})


def _group(flow: Flow, op: Operator, weight: str, groups: int, x: Array | None, out: Array) -> bool:
    """Join the channels of a grouped convolution; return whether whole groups go.

    Either whole groups go (in depthwise ones a group is a channel, with all the channels it is
    multiplied to), or the same positions in every group, whichever leaves more of a choice.
    """
    if x is None:
        flow.pin(op, out, "grouped, and its input is fixed")
        return True
    ins, outs = x.reshape(groups, -1), out.reshape(groups, -1)
    if groups >= ins.shape[1]:
        first = flow.labels.join_columns(ins.T)
        flow.labels.join(first, flow.labels.join_columns(outs.T))
        flow.settings.append(Setting(_owner(weight), "_groups", first))
        return True
    columns = flow.labels.join_columns(ins)
    flow.labels.join_columns(outs)
    _feed(flow, op, weight, 1, columns)
    return False


def transposed_convolution(flow: Flow, op: Operator) -> None:
    """Filters [in, out / groups, height, width] make the channels of the output."""
    weight = op.input("Filter")  # [in, out / groups, height, width]
    if not _is_plain(flow, op, weight):
        return
    groups = int(op.attribute("groups") or 1)
    x = second_axis(flow, op, op.input("Input"))
    per_group = flow.labels.get(weight, 1) if groups == 1 or flow.shape(weight)[1] > 1 else None
    if groups == 1:
        assert per_group is not None
        _feed(flow, op, weight, 0, x)
        flow.producers[weight, 1] = True
        flow.labels.put(op.output("Output"), {1: per_group})
        return
    ins = flow.labels.get(weight, 0)
    assert ins is not None
    _feed(flow, op, weight, 0, x)
    rows = flow.labels.join_columns(ins.reshape(groups, -1).T)
    if per_group is not None:
        flow.pin(op, per_group, "the outputs of a group go together")
    flow.producers[weight, 0] = False
    flow.settings.append(Setting(_owner(weight), "_groups", rows))
    flow.labels.put(op.output("Output"), {1: np.repeat(rows, flow.shape(weight)[1])})


def _is_plain(flow: Flow, op: Operator, weight: str) -> bool:
    if not flow.labels.is_weight(weight):
        flow.pin_inputs(op, "its kernel is computed")
        return False
    if op.attribute("data_format") not in ("NCHW", "AnyLayout", "NCDHW"):
        flow.pin_inputs(op, "channels must be the second axis")
        flow.pin(op, flow.labels.get(weight, 0), "channels must be the second axis")
        flow.producers.setdefault((weight, 0), True)
        return False
    return True


def _feed(flow: Flow, op: Operator, weight: str, axis: int, x: Array | None) -> None:
    """Join the axis of a weight that takes an input in with that input."""
    labels = flow.labels.get(weight, axis)
    assert labels is not None
    if x is None:
        flow.pin(op, labels, "its input is fixed")
    else:
        flow.labels.join(labels, x)


def _owner(weight: str) -> str:
    return weight.rpartition(".")[0]


def _per_channel(flow: Flow, op: Operator, x: Array | None, slots: Sequence[str]) -> None:
    for slot in slots:
        name = op.input(slot)
        if x is not None and name:
            labels = flow.labels.get(name, 0)
            if labels is None:
                flow.pin(op, x, f"its {slot.lower()} is computed")
            else:
                flow.labels.join(x, labels)


def batch_norm(flow: Flow, op: Operator) -> None:
    """One scale, bias, mean and variance for each channel."""
    name = op.input("X")
    if len(flow.shape(name)) > 2 and op.attribute("data_layout") != "NCHW":
        flow.pin_inputs(op, "channels must be the second axis")
        return
    x = flow.labels.get(name, 1)
    _per_channel(flow, op, x, ("Scale", "Bias", "Mean", "Variance"))
    if x is not None and op.input("Scale") not in flow.norms:
        flow.norms.append(op.input("Scale"))
    flow.labels.put(op.output("Y"), flow.labels.axes(name))


def instance_norm(flow: Flow, op: Operator) -> None:
    """One scale and bias for each channel."""
    name = op.input("X")
    _per_channel(flow, op, flow.labels.get(name, 1), ("Scale", "Bias"))
    flow.labels.put(op.output("Y"), flow.labels.axes(name))


def group_norm(flow: Flow, op: Operator) -> None:
    """Whole groups go, whose statistics are their own; a single group loses any channel."""
    name, groups = op.input("X"), int(op.attribute("groups"))
    x = flow.labels.get(name, 1)
    _per_channel(flow, op, x, ("Scale", "Bias"))
    if x is not None and groups > 1:
        first = flow.labels.join_columns(x.reshape(groups, -1).T)
        flow.settings.append(Setting(_norm_layer(op), "_num_groups", first))
    flow.labels.put(op.output("Y"), flow.labels.axes(name))


def layer_norm(flow: Flow, op: Operator) -> None:
    """Scale and bias run over all normalised axes, flattened; the layer holds their sizes."""
    name, begin = op.input("X"), int(op.attribute("begin_norm_axis"))
    shape, axes = flow.shape(name), flow.labels.axes(name)
    normed = {axis: labels for axis, labels in axes.items() if axis >= begin}
    if len(normed) > 1:
        flow.pin_inputs(op, "more than one of its axes holds channels")
    for axis, labels in normed.items() if len(normed) == 1 else ():
        flat = spread(labels, axis - begin, shape[begin:]).ravel()
        _per_channel(flow, op, flat, ("Scale", "Bias"))
        flow.settings.append(Setting(_norm_layer(op), "_normalized_shape", labels, axis - begin))
    flow.labels.put(op.output("Y"), axes)


def _norm_layer(op: Operator) -> str:
    return _owner(op.input("Scale")) if op.input("Scale") else op.layer


def prelu(flow: Flow, op: Operator) -> None:
    """One slope for all, or one for each channel."""
    name, alpha = op.input("X"), op.input("Alpha")
    x = flow.labels.get(name, 1)
    shape = flow.shape(alpha)
    if x is not None and np.prod(shape) > 1:
        labels = flow.labels.get(alpha, int(np.argmax(shape)))
        if op.attribute("mode") == "channel" and labels is not None and len(labels) == len(x):
            flow.labels.join(x, labels)
        else:
            flow.pin(op, x, "it has one slope for each number")
    flow.labels.put(op.output("Out"), flow.labels.axes(name))


def matmul(flow: Flow, op: Operator) -> None:
    """The inner axes are one and the same; rows and columns go on into the output."""
    x, y, out = op.input("X"), op.input("Y"), op.output("Out")
    ranks = {name: len(flow.shape(name)) for name in (x, y)}
    if min(ranks.values()) < 2:
        flow.pin_inputs(op, "a product with a vector")
        return
    x_row, x_inner = (-1, -2) if op.attribute("trans_x") else (-2, -1)
    y_inner, y_column = (-1, -2) if op.attribute("trans_y") else (-2, -1)
    rank = max(ranks.values())
    axes = _batch_axes(flow, op, ranks, rank)
    inner = [(x, ranks[x] + x_inner), (y, ranks[y] + y_inner)]
    _contract(flow, op, inner)
    axes[rank - 2] = _outer(flow, x, ranks[x] + x_row)
    axes[rank - 1] = _outer(flow, y, ranks[y] + y_column)
    flow.labels.put(out, axes)


def _batch_axes(
    flow: Flow, op: Operator, ranks: Mapping[str, int], rank: int
) -> dict[int, Array | None]:
    shifts = {name: rank - own for name, own in ranks.items() if own > 2}
    return broadcast(flow, op, shifts, range(rank - 2))


def _contract(flow: Flow, op: Operator, inner: Sequence[tuple[str, int]]) -> None:
    found = [flow.labels.get(name, axis) for name, axis in inner]
    labelled = [labels for labels in found if labels is not None]
    if len(labelled) == 2:
        flow.labels.join(*labelled)
    elif labelled:
        flow.pin(op, labelled[0], "its input is fixed")


def _outer(flow: Flow, name: str, axis: int) -> Array | None:
    labels = flow.labels.get(name, axis)
    if flow.labels.is_weight(name):
        flow.producers[name, axis] = True
    return labels
