"""Tidy an ONNX graph as `model_writer` writes it, in linear time.

The runtimes do the rest when they load. A tidy graph also is what int8 export edits: tensors have
the names that they have in Paddle, and a convolution has its bias inside.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from onnx import TensorProto, numpy_helper

_BETWEEN = re.compile(r"[A-Z]\w*\.\d+")


def clean_up(graph: Any) -> None:
    """Change a `GraphProto` in place; its results, inputs and outputs stay the same."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    nodes = _drop_identities(
        list(graph.node), {*initializers, *_names(graph.input)}, _names(graph.output)
    )
    nodes = _take_biases_in(nodes, initializers, _names(graph.output))
    nodes = _drop_unused(nodes, _names(graph.output))
    used = {name for node in nodes for name in node.input} | set(_names(graph.output))
    tidied = type(graph)(
        name=graph.name,
        node=nodes,
        initializer=[tensor for name, tensor in initializers.items() if name in used],
        input=graph.input,
        output=graph.output,
    )
    graph.CopyFrom(tidied)


def _names(entries: Any) -> list[str]:
    return [entry.name for entry in entries]


def _drop_identities(nodes: list[Any], fixed: set[str], outputs: list[str]) -> list[Any]:
    """Let readers read the source; outputs of the graph and of Paddle's operators pass names on.

    `node_writer` computes `Add.7` and hands it over to the tensor that Paddle's operator makes.
    """
    alias: dict[str, str] = {}
    kept = []
    for node in nodes:
        if node.op_type == "Identity":
            source, target = _resolve(alias, node.input[0]), node.output[0]
            renamed = source not in fixed and source not in outputs
            if renamed and (target in outputs or _BETWEEN.fullmatch(source)):
                alias[source] = target
                continue
            if target not in outputs:
                alias[target] = source
                continue
        kept.append(node)
    for node in kept:
        node.input[:] = [_resolve(alias, name) for name in node.input]
        node.output[:] = [_resolve(alias, name) for name in node.output]
    return kept


def _resolve(alias: dict[str, str], name: str) -> str:
    while name in alias:
        name = alias[name]
    return name


def _take_biases_in(
    nodes: list[Any], initializers: dict[str, TensorProto], outputs: list[str]
) -> list[Any]:
    """Put the addition of a bias into the convolution before it."""
    makers = {name: node for node in nodes for name in node.output}
    readers = Counter(name for node in nodes for name in node.input)
    readers.update(outputs)
    taken = set()
    for node in nodes:
        conv = makers.get(node.input[0]) if node.op_type == "Add" else None
        if conv is None or conv.op_type not in ("Conv", "ConvTranspose") or len(conv.input) != 2:
            continue
        bias = _bias(makers.get(node.input[1]), initializers)
        if readers[conv.output[0]] == 1 and bias and _channels(conv, initializers) == [bias[1]]:
            conv.input.append(bias[0])
            conv.output[0] = node.output[0]
            taken.add(id(node))
    return [node for node in nodes if id(node) not in taken]


def _bias(reshape: Any, initializers: dict[str, TensorProto]) -> tuple[str, int] | None:
    """Return name and length of a vector that a node reshapes to [1, C, 1, 1]."""
    if reshape is None or reshape.op_type != "Reshape":
        return None
    vector, shape = (initializers.get(name) for name in reshape.input)
    if vector is None or shape is None or len(vector.dims) != 1:
        return None
    wanted = numpy_helper.to_array(shape).tolist()
    is_bias = len(wanted) == 4 and [*wanted[:1], *wanted[2:]] == [1, 1, 1]
    return (vector.name, vector.dims[0]) if is_bias else None


def _channels(conv: Any, initializers: dict[str, TensorProto]) -> list[int]:
    """Return how many channels come out, as a list of one; empty if that is not known."""
    weight = initializers.get(conv.input[1])
    if weight is None:
        return []
    if conv.op_type == "Conv":
        return [weight.dims[0]]
    groups = next((each.i for each in conv.attribute if each.name == "group"), 1)
    return [weight.dims[1] * groups]


def _drop_unused(nodes: list[Any], outputs: list[str]) -> list[Any]:
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]
