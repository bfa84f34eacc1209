"""Cost of a model: bytes of its files, parameters, multiply-accumulates.

The definitions, everywhere in this project:

- **size**: bytes of `.pdmodel` + `.pdiparams`, or of the `.onnx` or `.nb` file where there are no
  such; 1 MB is 10**6 bytes.
- **parameters**: numbers that training changes; the running statistics of batch normalization are
  not among them.
- **MACs**: one multiplication with one addition, counted for one input of batch 1 in convolutions
  (plain, depthwise, grouped, dilated, transposed) and matrix products. Biases, normalization,
  activations, pooling and resizing are not counted. A convolution costs, for each number it puts
  out, input channels / groups * kernel area; a transposed one, for each number that goes in, output
  channels / groups * kernel area; both count the padding as if it were data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from paddle import Tensor
from paddle.inference import Config, create_predictor
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ExportError
from core.graph.operators import attribute, only
from core.graph.program import Graph
from core.graph.trace import trace
from core.settings.files import scratch

Shape = tuple[int, ...]
RunGraph = Callable[[Sequence[str]], dict[str, np.ndarray]]  # variables of a model by their names

CONVOLUTIONS = ("conv2d", "depthwise_conv2d", "conv3d", "deformable_conv", "fused_conv2d")
TRANSPOSED = ("conv2d_transpose", "depthwise_conv2d_transpose", "conv3d_transpose")
PRODUCTS = MappingProxyType({"matmul_v2": "trans_x", "matmul": "transpose_X", "bmm": ""})


def size_bytes(files: Sequence[Path]) -> dict[str, int]:
    """Return the bytes of each file by name."""
    return {file.name: file.stat().st_size for file in files}


def size_mb(files: Sequence[Path]) -> float:
    """Return the total size of files, in MB."""
    return sum(size_bytes(files).values()) / 1e6


def count_parameters(layer: Layer) -> int:
    """Count the numbers that training changes, frozen ones included."""
    return sum(math.prod(tensor.shape) for tensor in counted_parameters(layer).values())


def counted_parameters(layer: Layer) -> dict[str, Tensor]:
    """Return the parameters that are counted, of any shape, by dotted path."""
    # paddle.nn.BatchNorm, unlike BatchNorm2D, keeps its running statistics as parameters
    statistics = {
        id(tensor)
        for each in layer.sublayers(include_self=True)
        for tensor in (getattr(each, "_mean", None), getattr(each, "_variance", None))
    }
    return {path: t for path, t in layer.named_parameters() if id(t) not in statistics}


def count_stored(graph: Graph) -> int:
    """Count all numbers in the parameter file of an exported Paddle model."""
    return sum(weight.size for weight in graph.weights.values())


def count_macs(layer: Layer, shapes: Sequence[Shape], specs: Sequence[InputSpec]) -> int:
    """Count the multiply-accumulates of a layer for inputs of these shapes, batch included."""
    fixed = [InputSpec(shape, spec.dtype, spec.name) for shape, spec in zip(shapes, specs)]
    graph = Graph.from_trace(trace(layer, fixed))
    return sum(macs_by_operator(graph, {name: graph.shape(name) for name in graph.variables}))


def count_macs_of_graph(
    graph: Graph, inputs: Sequence[np.ndarray], run: RunGraph | None = None
) -> int:
    """Count the multiply-accumulates of an exported Paddle model for these inputs.

    The graph is run once, because its shapes may depend on those of the inputs in ways that only
    a run tells.

    Args:
        graph: Graph of the model, in float or in int8.
        inputs: Arrays [N, ...] in the order of the graph's inputs.
        run: Returns variables by their names for these inputs; None: Paddle Inference does.
    """
    counted = [op for op in graph.operators if op.type in (*CONVOLUTIONS, *TRANSPOSED, *PRODUCTS)]
    names = {name for op in counted for name in _measured(op)}
    wanted = sorted(names - graph.weights.keys() - set(graph.inputs))
    found = run(wanted) if run else _run_in_paddle(graph, inputs, wanted)
    arrays = {**dict(zip(graph.inputs, inputs)), **found}
    return sum(macs_by_operator(graph, {name: array.shape for name, array in arrays.items()}))


def macs_by_operator(graph: Graph, shapes: Mapping[str, Shape]) -> list[int]:
    """Count the multiply-accumulates of each operator, in the order they run.

    Args:
        graph: Operators and weights.
        shapes: Shapes of all variables that are no weights.

    Raises:
        ExportError: A shape is not known.
    """
    known = {**shapes, **{name: weight.shape for name, weight in graph.weights.items()}}
    return [_macs(op, known) for op in graph.operators]


def _macs(op: Any, shapes: Mapping[str, Shape]) -> int:
    if op.type in CONVOLUTIONS:
        kernel = shapes[only(op.inputs, "Filter")]  # [out, in / groups, height, width]
        return _size(op, shapes, _output(op)) * math.prod(kernel[1:])
    if op.type in TRANSPOSED:
        kernel = shapes[only(op.inputs, "Filter")]  # [in, out / groups, height, width]
        return _size(op, shapes, only(op.inputs, "Input")) * math.prod(kernel[1:])
    if op.type in PRODUCTS:
        left = shapes[only(op.inputs, "X")]
        across = attribute(op, PRODUCTS[op.type], False) and len(left) > 1
        return _size(op, shapes, _output(op)) * left[-2 if across else -1]
    return 0


def _measured(op: Any) -> list[str]:
    """Return the variables whose shapes `_macs` asks for."""
    if op.type in PRODUCTS:
        return [only(op.inputs, "X"), _output(op)]
    # in an int8 model an operator makes the kernel
    sized = only(op.inputs, "Input") if op.type in TRANSPOSED else _output(op)
    return [sized, only(op.inputs, "Filter")]


def _output(op: Any) -> str:
    return only(op.outputs, "Output") or only(op.outputs, "Out")


def _size(op: Any, shapes: Mapping[str, Shape], name: str) -> int:
    shape = shapes.get(name, (-1,))
    if -1 in shape:
        raise ExportError(f"{name}: the shape of this {op.type} depends on values, not on shapes")
    return math.prod(shape)


def _run_in_paddle(
    graph: Graph, inputs: Sequence[np.ndarray], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Run a graph and return these variables instead of its own outputs."""
    probe = replace(graph, outputs=list(names))
    probe.drop_unused()
    with scratch() as folder:
        files = [Path(folder, name) for name in ("model.pdmodel", "model.pdiparams")]
        probe.write(*files)
        config = Config(*(str(file) for file in files))
        config.disable_glog_info()
        # operators must stay apart, for what lies between them is asked for
        config.switch_ir_optim(False)
        config.disable_mkldnn()
        predictor = create_predictor(config)
        for name, array in zip(probe.inputs, inputs):
            predictor.get_input_handle(name).copy_from_cpu(array)
        predictor.run()
        return {name: predictor.get_output_handle(name).copy_to_cpu() for name in names}
