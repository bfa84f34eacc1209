"""Read nodes of ONNX: inputs and attributes by name, and the values of constant nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def input_of(node: NodeProto, place: int | None) -> str:
    """Return the name of an input; an empty string if it is not given."""
    return str(node.input[place]) if place is not None and place < len(node.input) else ""


def integer(node: NodeProto, name: str, default: int) -> int:
    """Return an attribute that is a whole number."""
    return next((int(each.i) for each in node.attribute if each.name == name), default)


def number(node: NodeProto, name: str, default: float) -> float:
    """Return an attribute that is a float."""
    return next((float(each.f) for each in node.attribute if each.name == name), default)


def text(node: NodeProto, name: str, default: str) -> str:
    """Return an attribute that is a string."""
    return next((each.s.decode() for each in node.attribute if each.name == name), default)


def dtype_of(kind: int) -> np.dtype:
    """Return the type of elements that ONNX has a number for."""
    found: np.dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    return found


def to_array(tensor: TensorProto) -> np.ndarray:
    """Return the value of a tensor of any shape; of 4 bits, in int8."""
    array: np.ndarray = numpy_helper.to_array(tensor)
    packed = tensor.data_type in (TensorProto.INT4, TensorProto.UINT4)
    return array.astype(np.int8) if packed else array


def constant(node: NodeProto) -> np.ndarray | None:
    """Return the value, of any shape, of a `Constant` node; None if it is no array of numbers."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return to_array(attribute.t)
        if attribute.name.startswith(("value_float", "value_int")):
            return np.asarray(helper.get_attribute_value(attribute))
    return None


def evaluate(model: ModelProto, node: NodeProto, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Compute a node of constants.

    Args:
        model: Model that defines the operator versions.
        node: Node with one output.
        arrays: Its inputs, of any shape, by name.
    """
    ports = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in arrays.items()
    ]
    kind = ports[0].type.tensor_type.elem_type
    out = helper.make_tensor_value_info(node.output[0], kind, None)
    graph = helper.make_graph([node], "constants", ports, [out])
    alone = helper.make_model(graph, opset_imports=model.opset_import)
    return np.asarray(ReferenceEvaluator(alone).run(None, dict(arrays))[0])


def spread(node: NodeProto, values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Shape the scales [channels], or those of blocks, for a tensor of that shape."""
    if values.size == 1:
        return values.reshape(())
    axis = integer(node, "axis", 1) % len(shape)
    if values.ndim == 1:
        return values.reshape([-1 if place == axis else 1 for place in range(len(shape))])
    return values.repeat(integer(node, "block_size", 1), axis)
