"""Operators that cut tensors into parts, and put parts together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.paddle_operator import PaddleOperator
from core.export.onnx.told import Told, named, told, told_axis

EQUAL_PARTS_OPSET = 18  # from here on a Split into equal parts tells how many


def _concat(op: PaddleOperator, to: NodeWriter) -> None:
    names = [name for name in op.sources() if 0 not in op.shape(name)]
    axis = told_axis(op, to, "AxisTensor", "axis", 0)
    to.add("Concat", names, op.target(), axis=op.axis(names[0], axis))


def _split(op: PaddleOperator, to: NodeWriter) -> None:
    x, outputs = op.source(), op.targets()
    axis = op.axis(x, told_axis(op, to, "AxisTensor", "axis", 0))
    sections = told(op, to, ["SectionsTensorList"], "sections")
    size = op.shape(x)[axis]
    if isinstance(sections, list):
        if not sections and size > 0:
            sections = [size // len(outputs)] * len(outputs)
        if -1 in sections:
            if size < 1:
                raise op.refusal("the size of its last part is free")
            known = sum(each for each in sections if each != -1)
            sections = [size - known if each == -1 else each for each in sections]
    if sections:
        to.add_several("Split", [x, named(to, sections)], outputs, axis=axis)
    elif to.opset >= EQUAL_PARTS_OPSET:
        to.add_several("Split", [x], outputs, axis=axis, num_outputs=len(outputs))
    else:
        to.add_several("Split", [x], outputs, axis=axis)


def _slice(op: PaddleOperator, to: NodeWriter) -> None:
    starts = told(op, to, ["StartsTensor", "StartsTensorList"], "starts")
    ends = told(op, to, ["EndsTensor", "EndsTensorList"], "ends")
    strides = told(op, to, ["StridesTensor", "StridesTensorList"], "strides")
    axes = [op.axis(op.source("Input"), axis) for axis in op.integers("axes")]
    _cut(op, to, axes, starts, ends, strides or [1] * len(axes))


def _cut(
    op: PaddleOperator, to: NodeWriter, axes: list[int], starts: Told, ends: Told, steps: Told
) -> None:
    dropped = [op.axis(op.source("Input"), axis) for axis in op.integers("decrease_axis")]
    bounds = [named(to, each) for each in (starts, ends, axes, steps)]
    out = op.target()
    made = to.add("Slice", [op.source("Input"), *bounds], "" if dropped else out)
    if dropped and op.rank(out) == op.rank(op.source("Input")) - len(dropped):
        to.squeeze(made, dropped, out)
    elif dropped:  # earlier versions of Paddle have no scalars, but [1]
        to.reshape(made, [1], out)


def _strided_slice(op: PaddleOperator, to: NodeWriter) -> None:
    """Write a Slice; a backward one ends in front of the first place with an end below -size."""
    x = op.source("Input")
    axes = [op.axis(x, axis) for axis in op.integers("axes")]
    starts, ends, strides = (
        told(op, to, [f"{name}Tensor", f"{name}TensorList"], name.lower())
        for name in ("Starts", "Ends", "Strides")
    )
    _cut(op, to, axes, starts, ends, strides)


def _stack(op: PaddleOperator, to: NodeWriter) -> None:
    names, axis = op.sources(), op.integer("axis", 0)
    axis = axis + op.rank(names[0]) + 1 if axis < 0 else axis
    parts = [to.unsqueeze(name, [axis]) for name in names]
    to.add("Concat", parts, op.target("Y"), axis=axis)


def _unstack(op: PaddleOperator, to: NodeWriter) -> None:
    x, outputs = op.source(), op.targets("Y" if op.type == "unstack" else "Out")
    axis = op.axis(x, op.integer("axis", 0))
    sizes = to.sizes([1] * len(outputs))
    parts = to.add_several("Split", [x, sizes], [""] * len(outputs), axis=axis)
    for part, out in zip(parts, outputs):
        to.squeeze(part, [axis], out)


def _roll(op: PaddleOperator, to: NodeWriter) -> None:
    """Move numbers along axes, and those that leave to the other end."""
    x, out = op.source(), op.target()
    shifts, axes = told(op, to, ["ShiftsTensor"], "shifts"), op.integers("axis")
    if isinstance(shifts, str):
        raise op.refusal("how far it rolls is computed while it runs")
    flat = not axes
    current = to.reshape(x, [-1]) if flat else x
    moves = [
        (op.axis(x, axis), shift, op.shape(x)[axis]) for axis, shift in zip(axes or [0], shifts)
    ]
    for place, (axis, shift, size) in enumerate(moves):
        if size > 0 and not flat:
            shift %= size
        last = place == len(moves) - 1 and not flat
        parts = [
            to.slice(current, axis, -shift, np.iinfo(np.int64).max),
            to.slice(current, axis, 0, -shift),
        ]
        wanted = out if last else ""
        if shift == 0:
            current = to.add("Identity", [current], wanted)
        else:
            current = to.add("Concat", parts, wanted, axis=axis)
    if flat:
        to.add("Reshape", [current, to.add("Shape", [x])], out)


def _flip(op: PaddleOperator, to: NodeWriter) -> None:
    axes = [op.axis(op.source(), axis) for axis in op.integers("axis")]
    ones, least = [-1] * len(axes), [np.iinfo(np.int64).min] * len(axes)
    bounds = [to.sizes(each) for each in (ones, least, axes, ones)]
    to.add("Slice", [op.source(), *bounds], op.target())


def _set_value(op: PaddleOperator, to: NodeWriter) -> None:
    """Put a value in the place of a part: a choice between both for each number.

    What the part holds is gathered along the cut axes, so that it lies where it is put.
    """
    x, value = op.source("Input"), op.source("ValueTensor")
    if op.integers("none_axes"):
        raise op.refusal("it adds axes to the part that it assigns to")
    if not value:
        numbers = np.array(op.numbers("values"), op.dtype(x))
        value = to.constant(numbers.reshape(op.integers("shape")), op.dtype(x))
        rank = to.constants[value].ndim
        shape: Sequence[int] = to.constants[value].shape
    else:
        rank, shape = op.rank(value), op.shape(value)
    dropped = sorted(op.axis(x, axis) for axis in op.integers("decrease_axes"))
    if dropped and rank:  # the value lacks these axes
        left = [axis for axis in range(op.rank(x)) if axis not in dropped][-rank:]
        first = left[0] if left else 0
        added = [axis - first for axis in dropped if axis > first]
        value = to.unsqueeze(value, added) if added else value
        for axis in added:
            shape = [*shape[:axis], 1, *shape[axis:]]
    masks = []
    for axis, place in _places(op, to, x):
        size = op.shape(x)[axis]
        mask = np.zeros(size, bool)
        mask[place] = True
        behind = op.rank(x) - axis - 1
        masks.append(to.constant(mask.reshape(-1, *[1] * behind), bool))
        own = axis - (op.rank(x) - len(shape))
        if own >= 0 and shape[own] != 1:
            index = np.zeros(size, np.int64)
            index[place] = np.arange(len(index[place]))
            value = to.add("Gather", [value, to.constant(index, np.int64)], axis=own)
    if not masks:
        raise op.refusal("it assigns to a whole tensor")
    inside, *others = masks
    for each in others:
        inside = to.add("And", [inside, each])
    to.add("Where", [inside, value, x], op.target())


def _places(op: PaddleOperator, to: NodeWriter, x: str) -> list[tuple[int, slice]]:
    """Return the axes that an assignment cuts, with the places along them."""
    bounds = [
        told(op, to, [f"{name}TensorList"], name.lower()) for name in ("Starts", "Ends", "Steps")
    ]
    axes = [op.axis(x, axis) for axis in op.integers("axes")]
    found = []
    for index, axis in enumerate(axes):
        if any(isinstance(each, str) for each in bounds):
            raise op.refusal("the part that it assigns to is computed while it runs")
        if op.shape(x)[axis] < 1:
            raise op.refusal("it assigns to a part along an axis whose size is free")
        start, end, step = (int(each[index]) for each in bounds)
        stop = None if step < 0 and end < -op.shape(x)[axis] else end
        found.append((axis, slice(start, stop, step)))
    return found


TABLE: Mapping[str, Write] = MappingProxyType(
    {
        "concat": _concat,
        "split": _split,
        "slice": _slice,
        "strided_slice": _strided_slice,
        "stack": _stack,
        "unstack": _unstack,
        "unbind": _unstack,
        "roll": _roll,
        "flip": _flip,
        "set_value": _set_value,
    }
)
