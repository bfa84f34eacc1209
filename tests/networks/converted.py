"""Functions of Paddle as graphs, and what the framework and an ONNX file answer for them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import paddle
from paddle import nn
from paddle.static import InputSpec

from core.export.onnx.convert import convert_to_onnx
from core.graph.adaptive_pooling import expand_adaptive_pools
from core.graph.free_batch import trace_graph
from core.graph.program import Graph
from tests.alone import ROOT
from tests.networks.told_values import values_as_weights

Answers = list[np.ndarray]
Function = Callable[..., Any]
HAS_CONVERTER = importlib.util.find_spec("paddle2onnx") is not None


class Call(nn.Layer):
    """A function of tensors as a layer, with the parameters that it wants."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: paddle.Tensor) -> Any:
        return self.function(*inputs)


def graph_of(
    function: Callable[..., Any] | nn.Layer,
    arrays: Sequence[np.ndarray],
    free: Sequence[int] = (0,),
) -> Graph:
    """Trace a function, or a layer in evaluation mode, on inputs like some arrays.

    Args:
        function: Returns a tensor, or several.
        arrays: One per argument.
        free: Axes whose sizes are free, of each input that has them.
    """
    layer = function if isinstance(function, nn.Layer) else Call(function)
    specs = []
    for index, array in enumerate(arrays):
        shape = [None if axis in free else size for axis, size in enumerate(array.shape)]
        specs.append(InputSpec(shape, str(array.dtype), f"input_{index}"))
    layer.eval()
    return trace_graph(layer, specs)


def answers_of_program(graph: Graph, arrays: Sequence[np.ndarray]) -> Answers:
    """Let Paddle's own executor run the operators one by one."""
    feeds = dict(zip(graph.inputs, arrays, strict=True))
    executor, scope = paddle.static.Executor(paddle.CPUPlace()), paddle.static.Scope()
    with paddle.pir_utils.OldIrGuard(), paddle.static.scope_guard(scope):
        program = paddle.static.Program.parse_from_string(graph.to_program())
        for name, value in graph.weights.items():
            scope.var(name).get_tensor().set(value, paddle.CPUPlace())
        values: Answers = executor.run(program, feeds, list(graph.outputs))
    return values


def converted_file(graph: Graph, folder: Path) -> bytes:
    """Return the ONNX file that paddle2onnx makes of a graph."""
    files, made = (folder / "model.pdmodel", folder / "model.pdiparams"), folder / "peer.onnx"
    values_as_weights(expand_adaptive_pools(graph)).write(*files)
    words = [sys.executable, "-m", "benchmarks.peers.paddle2onnx_process", *files, "13", made]
    subprocess.run(list(map(str, words)), cwd=ROOT, check=True, capture_output=True)
    return made.read_bytes()


def answers_of_file(file: bytes, graph: Graph, arrays: Sequence[np.ndarray]) -> Answers:
    """Let ONNX Runtime run a file, which takes and gives what the graph does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == graph.inputs
    assert [each.name for each in session.get_outputs()] == graph.outputs
    values: Answers = session.run(None, dict(zip(graph.inputs, arrays, strict=True)))
    return values


def assert_same(found: Answers, wanted: Answers, relative: float = 1e-5) -> None:
    """Compare types, shapes and numbers; differences are relative to the largest number."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        largest = float(np.abs(other, dtype=np.float64).max()) if other.size else 0.0
        np.testing.assert_allclose(one, other, rtol=0, atol=relative * max(largest, 1e-30))


def random(*shape: int, low: float = -3.0, high: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(sum(shape) + len(shape))
    return rng.uniform(low, high, shape).astype(np.float32)


def integers(*shape: int, low: int = -9, high: int = 9, dtype: str = "int64") -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, shape).astype(dtype)


def check(
    function: Function | nn.Layer,
    *arrays: np.ndarray,
    free: Sequence[int] = (0,),
    kinds: Sequence[str] = (),
    opset: int = 13,
) -> None:
    """Compare both, for the batch that is given and for another one.

    Args:
        function: To trace.
        arrays: Its inputs.
        free: Axes of free sizes.
        kinds: Operators of Paddle that must be among those that are tested.
        opset: Of the file.
    """
    graph = graph_of(function, arrays, free)
    assert set(kinds) <= {op.type for op in graph.operators}
    file = convert_to_onnx(graph, opset)
    batches = [arrays]
    if 0 in free:
        batches.append(
            [np.concatenate([each, each[::-1]]) if each.ndim else each for each in arrays]
        )
    for batch in batches:
        assert_same(answers_of_file(file, graph, batch), answers_of_program(graph, batch))
