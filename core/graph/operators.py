"""Operators and variables of Paddle's old IR: read their slots and attributes, make new ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from paddle.base.proto import framework_pb2

DTYPES = MappingProxyType(
    {
        framework_pb2.VarType.BOOL: np.dtype("bool"),
        framework_pb2.VarType.INT8: np.dtype("int8"),
        framework_pb2.VarType.UINT8: np.dtype("uint8"),
        framework_pb2.VarType.INT16: np.dtype("int16"),
        framework_pb2.VarType.INT32: np.dtype("int32"),
        framework_pb2.VarType.INT64: np.dtype("int64"),
        framework_pb2.VarType.FP16: np.dtype("float16"),
        framework_pb2.VarType.FP32: np.dtype("float32"),
        framework_pb2.VarType.FP64: np.dtype("float64"),
    }
)

_FIELDS = MappingProxyType(
    {
        framework_pb2.AttrType.INT: "i",
        framework_pb2.AttrType.FLOAT: "f",
        framework_pb2.AttrType.STRING: "s",
        framework_pb2.AttrType.INTS: "ints",
        framework_pb2.AttrType.FLOATS: "floats",
        framework_pb2.AttrType.STRINGS: "strings",
        framework_pb2.AttrType.BOOLEAN: "b",
        framework_pb2.AttrType.BOOLEANS: "bools",
        framework_pb2.AttrType.LONG: "l",
        framework_pb2.AttrType.LONGS: "longs",
        framework_pb2.AttrType.FLOAT64: "float64",
        framework_pb2.AttrType.FLOAT64S: "float64s",
    }
)

_ATTRIBUTES = MappingProxyType(
    {
        bool: ("BOOLEAN", "b"),
        int: ("INT", "i"),
        float: ("FLOAT", "f"),
        str: ("STRING", "s"),
        list: ("INTS", "ints"),
    }
)


def names_of(slots: Iterable[Any]) -> list[str]:
    """Return all variables in the input or output slots of an operator."""
    return [name for slot in slots for name in slot.arguments]


def only(slots: Iterable[Any], parameter: str) -> str:
    """Return the one variable in a slot; an empty string if there is none, or several."""
    for slot in slots:
        if slot.parameter == parameter and len(slot.arguments) == 1:
            return str(slot.arguments[0])
    return ""


def attribute(op: Any, name: str, default: Any = None) -> Any:
    """Return an attribute of an operator as a Python value."""
    for each in op.attrs:
        if each.name == name:
            if each.type == framework_pb2.AttrType.SCALAR:
                return _number(each.scalar)
            if each.type == framework_pb2.AttrType.SCALARS:
                return [_number(scalar) for scalar in each.scalars]
            field = _FIELDS[each.type]
            value = getattr(each, field)
            return value if len(field) == 1 or field == "float64" else list(value)
    return default


def _number(scalar: Any) -> bool | int | float | complex:
    kinds = framework_pb2.Scalar.Type
    if scalar.type == kinds.COMPLEX128:
        return complex(scalar.c.r, scalar.c.i)
    field = {kinds.BOOLEAN: "b", kinds.LONG: "i", kinds.FLOAT64: "r"}[scalar.type]
    value: bool | int | float = getattr(scalar, field)
    return value


def operator(
    kind: str, inputs: dict[str, str], outputs: dict[str, str], attributes: Mapping[str, Any]
) -> Any:
    """Make an operator; attributes may be bool, int, float, str and lists of int."""
    op = framework_pb2.OpDesc(type=kind)
    for slots, named in ((op.inputs, inputs), (op.outputs, outputs)):
        for parameter, variable in named.items():
            slots.add(parameter=parameter, arguments=[variable])
    for name, value in attributes.items():
        type_name, field = _ATTRIBUTES[type(value)]
        entry = op.attrs.add(name=name, type=framework_pb2.AttrType.Value(type_name))
        if field == "ints":
            entry.ints.extend(value)
        else:
            setattr(entry, field, value)
    return op


def variable(name: str, shape: Sequence[int], dtype: np.dtype, *, persistable: bool = False) -> Any:
    """Make the description of an array."""
    made = framework_pb2.VarDesc(name=name, persistable=persistable)
    made.type.type = framework_pb2.VarType.DENSE_TENSOR
    tensor = made.type.dense_tensor.tensor
    tensor.data_type = next(kind for kind, known in DTYPES.items() if known == dtype)
    tensor.dims.extend(shape)
    return made
