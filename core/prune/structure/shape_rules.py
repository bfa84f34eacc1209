"""Rules for operators that move, cut and join tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.prune.structure.flow import (
    Flow,
    broadcast,
    positive_axis,
    second_axis,
    spread,
    without,
)
from core.prune.structure.graph import Operator
from core.prune.structure.labels import Array


def concat(flow: Flow, op: Operator) -> None:
    """One input after the other along an axis, alike along the others."""
    names = op.inputs["X"]
    rank = len(flow.shape(names[0]))
    if op.input("AxisTensor"):
        flow.pin_inputs(op, "its axis is computed")
        return
    axis = positive_axis(int(op.attribute("axis")), rank)
    out: dict[int, Array | None] = {}
    for other in range(rank):
        found = [flow.labels.get(name, other) for name in names]
        if all(labels is None for labels in found):
            continue
        if other == axis:
            parts = [
                flow.labels.fresh(flow.shape(name)[axis]) if labels is None else labels
                for name, labels in zip(names, found)
            ]
            for part, labels in zip(parts, found):
                if labels is None:
                    flow.pin(op, part, "one of its inputs is fixed")
            out[axis] = np.concatenate(parts)
        else:
            out[other] = _all_alike(flow, op, found)
    flow.labels.put(op.output("Out"), out)


def _all_alike(flow: Flow, op: Operator, found: Sequence[Array | None]) -> Array:
    labelled = [labels for labels in found if labels is not None]
    for labels in labelled[1:]:
        flow.labels.join(labelled[0], labels)
    if len(labelled) < len(found):
        flow.pin(op, labelled[0], "another operand has a fixed size")
    return labelled[0]


def stack(flow: Flow, op: Operator) -> None:
    """A new axis; all inputs are alike."""
    names = op.inputs["X"]
    rank = len(flow.shape(names[0]))
    axis = positive_axis(int(op.attribute("axis")), rank + 1)
    out: dict[int, Array | None] = {}
    for own in range(rank):
        found = [flow.labels.get(name, own) for name in names]
        if any(labels is not None for labels in found):
            out[own + (own >= axis)] = _all_alike(flow, op, found)
    flow.labels.put(op.output("Y"), out)


def split(flow: Flow, op: Operator) -> None:
    """Equal parts lose the same positions; parts of given sizes lose their own."""
    name = op.input("X")
    if op.input("AxisTensor") or op.inputs.get("SectionsTensorList"):
        flow.pin_inputs(op, "where it cuts is computed")
        return
    shape, axes = flow.shape(name), dict(flow.labels.axes(name))
    axis = positive_axis(int(op.attribute("axis")), len(shape))
    count = int(op.attribute("num") or 0)
    outputs = op.outputs["Out"]
    labels = axes.pop(axis, None)
    if labels is None:
        parts: list[Array | None] = [None] * len(outputs)
    elif count > 0:
        # equal parts stay equal when all lose the same positions
        flow.labels.join_columns(labels.reshape(count, -1))
        parts = list(labels.reshape(count, -1))
    else:
        sizes = [int(size) for size in op.attribute("sections")]
        rest = shape[axis] - sum(size for size in sizes if size > 0)
        ends = np.cumsum([size if size > 0 else rest for size in sizes])
        parts = list(np.split(labels, ends[:-1]))
    for output, part in zip(outputs, parts):
        flow.labels.put(output, {**axes, axis: part})


def slice_(flow: Flow, op: Operator) -> None:
    """Axes that are cut by number keep all their channels."""
    name = op.input("Input")
    kept = dict(flow.labels.axes(name))
    for axis in op.attribute("axes") or ():
        flow.pin(op, kept.pop(int(axis), None), "it takes channels by their number")
    dropped = sorted(int(axis) for axis in op.attribute("decrease_axis") or ())
    flow.labels.put(op.output("Out"), without(kept, dropped))


def transpose(flow: Flow, op: Operator) -> None:
    """Axes change places."""
    axes = flow.labels.axes(op.input("X"))
    order = [int(axis) for axis in op.attribute("axis")]
    flow.labels.put(op.output("Out"), {new: axes.get(old) for new, old in enumerate(order)})


def reshape(flow: Flow, op: Operator) -> None:
    """Channels follow the row-major order into other axes; also squeezing and flattening."""
    name, output = op.input("X"), op.output("Out")
    axes = flow.labels.axes(name)
    before, after = flow.shape(name), flow.shape(output)
    if -1 in (*before, *after):
        flow.pin_inputs(op, "its shape depends on values")
        return
    out: dict[int, Array | None] = {}
    for ins, outs in _segments(before, after):
        labelled = [axis for axis in ins if axis in axes and before[axis] > 1]
        if len(labelled) > 1 or (labelled and not outs):
            for axis in labelled:
                flow.pin(op, axes[axis], "it merges two axes of channels")
        elif labelled:
            axis = labelled[0]
            sizes = [before[each] for each in ins]
            repeated = spread(axes[axis], ins.index(axis), sizes)
            held, labels = _hold(flow, repeated.reshape([after[each] for each in outs]))
            out[outs[held]] = labels
    flow.labels.put(output, out)


def _segments(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair the axes that a reshape turns into each other, in the smallest pieces there are."""
    ins = [axis for axis, size in enumerate(before) if size != 1]
    outs = [axis for axis, size in enumerate(after) if size != 1]
    segments = []
    while ins and outs:
        left, right = [ins.pop(0)], [outs.pop(0)]
        have, want = before[left[0]], after[right[0]]
        while have != want:
            if have < want:
                left.append(ins.pop(0))
                have *= before[left[-1]]
            else:
                right.append(outs.pop(0))
                want *= after[right[-1]]
        segments.append((left, right))
    return segments


def _hold(flow: Flow, labels: Array) -> tuple[int, Array]:
    """Choose the axis that gets smaller when channels of a reshaped tensor go.

    If channels were dealt out over several axes, the largest is taken and the others keep their
    size: groups, heads or the square of a pixel shuffle. Then whole lines go together.
    """
    varying = [
        axis
        for axis, size in enumerate(labels.shape)
        if size > 1 and (labels != labels.take([0], axis)).any()
    ] or list(range(labels.ndim))
    axis = max(varying, key=lambda each: (labels.shape[each], each))
    lines = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
    return axis, flow.labels.join_columns(lines.T)


def spatial(flow: Flow, op: Operator) -> None:
    """Pooling and resizing work on each channel alone."""
    name = op.input("X")
    layout = op.attribute("data_layout") if "interp" in op.type else op.attribute("data_format")
    if layout not in (None, "NCHW", "AnyLayout", "NCDHW", "NCL", "NCW"):
        flow.pin_inputs(op, "channels must be the second axis")
        return
    channels = second_axis(flow, op, name)
    for slot in ("Out", "Mask"):
        flow.labels.put(op.output(slot), {1: channels})


def pad(flow: Flow, op: Operator) -> None:
    """Space may be padded, channels may not."""
    name = op.input("X")
    axes: dict[int, Array | None] = dict(flow.labels.axes(name))
    if op.type == "pad":
        paddings = list(op.attribute("paddings"))
        for axis in list(axes):
            if any(paddings[2 * axis : 2 * axis + 2]):
                flow.pin(op, axes.pop(axis), "it pads channels")
    elif op.attribute("data_format") != "NCDHW":
        flow.pin_inputs(op, "channels must be the second axis")
        return
    else:
        axes = {1: second_axis(flow, op, name)}
    flow.labels.put(op.output("Out"), axes)


def reduce(flow: Flow, op: Operator) -> None:
    """Drop the axes that are summed over; their channels may still be cut."""
    name = op.input("X")
    rank = len(flow.shape(name))
    if op.attribute("reduce_all"):
        return
    gone = sorted(positive_axis(int(axis), rank) for axis in op.attribute("dim"))
    axes = {axis: labels for axis, labels in flow.labels.axes(name).items() if axis not in gone}
    kept = axes if op.attribute("keep_dim") else without(axes, gone)
    flow.labels.put(op.output("Out"), kept)


def pixel_shuffle(flow: Flow, op: Operator) -> None:
    """Squares of channels become one channel (Shi et al., CVPR 2016)."""
    x = second_axis(flow, op, op.input("X"))
    if op.attribute("data_format") != "NCHW":
        flow.pin_inputs(op, "channels must be the second axis")
    elif x is not None:
        square = int(op.attribute("upscale_factor")) ** 2
        flow.labels.put(op.output("Out"), {1: flow.labels.join_columns(x.reshape(-1, square).T)})


def pixel_unshuffle(flow: Flow, op: Operator) -> None:
    """A channel becomes a square of channels."""
    x = second_axis(flow, op, op.input("X"))
    if op.attribute("data_format") != "NCHW":
        flow.pin_inputs(op, "channels must be the second axis")
    elif x is not None:
        square = int(op.attribute("downscale_factor")) ** 2
        flow.labels.put(op.output("Out"), {1: np.repeat(x, square)})


def channel_shuffle(flow: Flow, op: Operator) -> None:
    """Groups lose the same positions, so they stay groups."""
    x = second_axis(flow, op, op.input("X"))
    if op.attribute("data_format") != "NCHW":
        flow.pin_inputs(op, "channels must be the second axis")
    elif x is not None:
        groups = int(op.attribute("groups"))
        columns = flow.labels.join_columns(x.reshape(groups, -1))
        flow.labels.put(op.output("Out"), {1: np.repeat(columns, groups)})


def expand(flow: Flow, op: Operator) -> None:
    """Axes of size 1 grow; axes of channels must not."""
    name, output = op.input("X"), op.output("Out")
    before, after = flow.shape(name), flow.shape(output)
    shift = len(after) - len(before)
    out: dict[int, Array | None] = {}
    for axis, labels in flow.labels.axes(name).items():
        if after[axis + shift] == before[axis]:
            out[axis + shift] = labels
        else:
            flow.pin(op, labels, "it repeats channels")
    flow.labels.put(output, out)


def roll(flow: Flow, op: Operator) -> None:
    """Places go round along some axes; channels must not."""
    name, axes = op.input("X"), list(op.attribute("axis") or ())
    if not axes:
        flow.pin_inputs(op, "it goes round all axes at once")
        return
    kept: dict[int, Array | None] = dict(flow.labels.axes(name))
    for axis in axes:
        flow.pin(
            op,
            kept.pop(positive_axis(int(axis), len(flow.shape(name))), None),
            "it goes round channels",
        )
    flow.labels.put(op.output("Out"), kept)


def set_value(flow: Flow, op: Operator) -> None:
    """A part of a tensor is replaced; along whole axes the two are alike."""
    name, value = op.input("Input"), op.input("ValueTensor")
    cut = [int(axis) for axis in op.attribute("axes") or ()]
    if not value or op.attribute("decrease_axes") or op.attribute("none_axes"):
        flow.pin_inputs(op, "it replaces a part by numbers of another shape")
        return
    for axis in cut:
        flow.pin(op, flow.labels.get(name, axis), "it replaces channels by their number")
    rank = len(flow.shape(name))
    whole = [axis for axis in range(rank) if axis not in cut]
    shifts = {name: 0, value: rank - len(flow.shape(value))}
    flow.labels.put(op.output("Out"), broadcast(flow, op, shifts, whole))
