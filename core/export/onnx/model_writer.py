"""Write a graph of Paddle's operators as an ONNX model, one operator after the other."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper

from core.errors import ExportError
from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.table import OPERATORS
from core.export.onnx.paddle_operator import WAYS_OUT, PaddleOperator
from core.graph.adaptive_pooling import expand_adaptive_pools
from core.graph.program import Graph
from core.graph.uneven_resizing import gather_uneven_resizing


def write_onnx(graph: Graph, opset: int) -> ModelProto:
    """Write a graph as an ONNX model; inputs, outputs and weights keep their names.

    Args:
        graph: The graph; it stays as it is.
        opset: Raised where an operator needs a newer one.

    Raises:
        ExportError: The opset is not known, an operator is not, or one cannot be written; the
            message names it.
    """
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise ExportError(f"opset: the installed onnx knows up to {newest}, got {opset}")
    graph = gather_uneven_resizing(expand_adaptive_pools(graph))
    _check_all_known(graph)
    to = NodeWriter(opset, graph.variables)
    to.constants.update(graph.weights)
    for description in graph.operators:
        OPERATORS[description.type](PaddleOperator(graph, description), to)
    proto = helper.make_graph(
        to.nodes,
        "model",
        _ports(graph, graph.inputs),
        _ports(graph, graph.outputs),
        [numpy_helper.from_array(array, name) for name, array in to.constants.items()],
    )
    opsets = [helper.make_opsetid("", to.opset)]
    version = helper.find_min_ir_version_for(opsets)
    return helper.make_model(proto, opset_imports=opsets, ir_version=version)


def _check_all_known(graph: Graph) -> None:
    unknown = sorted({op.type for op in graph.operators} - OPERATORS.keys())
    if unknown:
        kinds = ", ".join(unknown)
        raise ExportError(
            f"onnx: the model cannot be converted: not supported in ONNX: operator {kinds}; "
            f"{WAYS_OUT}"
        )


def _ports(graph: Graph, names: Sequence[str]) -> list[ValueInfoProto]:
    return [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(graph.dtype(name)), graph.shape(name)
        )
        for name in names
    ]
