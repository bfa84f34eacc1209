"""Sizes that code computes from `paddle.shape`: unknown to a graph, yet fixed if its inputs are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from core.errors import ExportError

SizeArray = np.ndarray
Values = dict[str, SizeArray]  # values of the small tensors that sizes are computed with
_INT32, _INT64 = 2, 3  # in attributes called dtype
_FREE = np.iinfo(np.int64).min  # stands for a size that is not known, as that of the batch

_ARITHMETIC: Mapping[str, Callable[[SizeArray, SizeArray], SizeArray]] = MappingProxyType(
    {
        "elementwise_add": np.add,
        "elementwise_sub": np.subtract,
        "elementwise_mul": np.multiply,
        "elementwise_div": np.divide,
        "elementwise_floordiv": np.floor_divide,
        "elementwise_mod": np.mod,
        "elementwise_max": np.maximum,
        "elementwise_min": np.minimum,
        "elementwise_pow": np.power,
    }
)
# inputs that tell a shape: one tensor, or a list of tensors of one number each
_TOLD: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(
            [f"{kind}_interp_v2" for kind in ("nearest", "bilinear", "bicubic", "linear")],
            ("OutSize", "SizeTensor"),
        ),
        "reshape2": ("Shape", "ShapeTensor"),
        "expand_v2": ("Shape", "expand_shapes_tensor"),
        "fill_constant": ("ShapeTensor", "ShapeTensorList"),
    }
)


class SizeError(ExportError):
    """Sizes that a graph computes do not fit an operator; `index` is its position."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


def settle_sizes(block: Any) -> None:
    """Fill in the sizes of a traced block that its operators compute; others stay -1.

    Args:
        block: Description of a block of the old IR; its variables get their shapes in place.

    Raises:
        SizeError: They do not fit an operator.
    """
    values: Values = {}
    settled: set[str] = set()
    for index in range(block.op_size()):
        op = block.op(index)
        if settled.intersection(op.input_arg_names()):
            try:
                op.infer_shape(block)
            except ValueError as error:
                told = str(error).strip().splitlines()[0]
                raise SizeError(f"{op.type()}: {told}", index) from error
            settled.update(op.output_arg_names())
        value = _evaluate(op, block, values)
        if value is not None:
            values[op.output_arg_names()[0]] = value
        elif op.type() in _TOLD:
            name, sizes = op.output("Out")[0], _sizes(op, block, values)
            if sizes is not None and sizes != _shape(block, name):
                block.find_var(name.encode()).set_shape(sizes)
                settled.add(name)


def _shape(block: Any, name: str) -> list[int]:
    variable = block.find_var(name.encode())
    return [] if variable is None else list(variable.shape())


def _evaluate(op: Any, block: Any, values: Values) -> SizeArray | None:
    """Compute the output of an operator if all of its inputs are known."""
    if op.type() == "shape":
        sizes = _shape(block, op.input("Input")[0])
        return np.array([_FREE if size == -1 else size for size in sizes], np.int64)
    if op.type() == "fill_constant" and not op.input_arg_names():
        few = int(np.prod(op.attr("shape"))) <= 8
        return np.full(op.attr("shape"), op.attr("value")) if few else None
    if op.type() == "assign_value":
        given = [scalar.value() for scalar in op.attr("values")] if op.has_attr("values") else []
        few = 0 < len(given) <= 8
        return np.array(given).reshape(op.attr("shape")) if few else None
    names = op.input_arg_names()
    if not names or any(name not in values for name in names):
        return None
    first = values[names[0]]
    if op.type() == "slice":
        return _slice(op, first)
    if op.type() == "cast":
        whole = op.attr("out_dtype") in (_INT32, _INT64)
        return first.astype(np.int64) if whole else None if _FREE in first else first
    if op.type() == "scale" and _FREE not in first:
        scale, bias = op.attr("scale"), op.attr("bias")
        scaled = first * scale + (bias if op.attr("bias_after_scale") else bias * scale)
        return np.asarray(scaled.astype(first.dtype))
    if op.type() in ("concat", "stack"):
        join = np.concatenate if op.type() == "concat" else np.stack
        return np.asarray(join([values[name] for name in names], axis=op.attr("axis")))
    if op.type() in ("reshape2", "unsqueeze2", "squeeze2"):
        return first.reshape(_shape(block, op.output("Out")[0]))
    if op.type() in _ARITHMETIC and not any(_FREE in values[name] for name in names):
        result = _ARITHMETIC[op.type()](values[op.input("X")[0]], values[op.input("Y")[0]])
        return np.asarray(result.astype(first.dtype))
    return None


def _slice(op: Any, value: SizeArray) -> SizeArray:
    where = [slice(None)] * value.ndim
    for axis, start, end in zip(op.attr("axes"), op.attr("starts"), op.attr("ends")):
        where[axis] = slice(start, end)
    dropped = tuple(op.attr("decrease_axis"))
    return np.squeeze(value[tuple(where)], dropped) if dropped else value[tuple(where)]


def _sizes(op: Any, block: Any, values: Values) -> list[int] | None:
    """Return the shape that an operator's inputs tell it to make; None if they are not known."""
    slots = [slot for slot in _TOLD[op.type()] if slot in op.input_names() and op.input(slot)]
    names = [name for slot in slots[:1] for name in op.input(slot)]
    if not names or any(name not in values for name in names):
        return None
    told = [int(size) for name in names for size in np.ravel(values[name])]
    if _FREE in told:
        return None
    if op.type() == "fill_constant":
        return told
    before = _shape(block, op.input("X")[0])
    if op.type() == "reshape2":
        told = [before[axis] if size == 0 else size for axis, size in enumerate(told)]
        if -1 in before:
            return told if told.count(-1) == 1 else None
        known = int(np.prod([size for size in told if size != -1]))
        return [int(np.prod(before)) // known if size == -1 else size for size in told]
    if op.type() == "expand_v2":
        before = [1] * (len(told) - len(before)) + before
        return [old if size == -1 else size for old, size in zip(before, told)]
    return [*before[:2], *told]
