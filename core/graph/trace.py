"""Turn a live layer into a graph of operators; the one place that knows Paddle's old IR.

Paddle 3 builds graphs in PIR by default, switched by `FLAGS_enable_pir_api`. The old IR is what
`.pdmodel` files and Paddle Lite speak, it is several times faster to trace, and its
operators name their weights. So `old_ir` chooses it locally and puts everything back: the flag,
dynamic mode with its very tracer (a `no_grad` around the call stays in force), and the counter of
unique names (`paddle.disable_static` would start it again at 0, and layers built later would get
names that are taken).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import paddle
from paddle import Tensor
from paddle.base import framework
from paddle.base.dygraph.base import to_static_mode_guard
from paddle.jit.dy2static.program_translator import ProgramTranslator, _program_hash
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ExportError
from core.graph.kernel_calls import kernels_take_variables
from core.network.modes import evaluation_mode, training_mode


@dataclass(frozen=True)
class Trace:
    """A layer as a graph of operators.

    Attributes:
        program: Program in old IR; variables of weights are named by their dotted paths.
        inputs: Variables to feed, in the order of the layer's arguments.
        outputs: Variable of each output by the output's name, in the layer's order.
        weights: The layer's own tensors, parameters and buffers that the graph reads, by variable
            name, which is also the dotted path. A tensor with two paths bears the first.
        made: Variable that each sublayer makes, by the sublayer's path; without those that run
            several times, make anything but one tensor, or pass on what they read. Inner layers
            come before outer ones.
    """

    program: framework.Program
    inputs: tuple[str, ...]
    outputs: Mapping[str, str]
    weights: Mapping[str, Tensor]
    made: Mapping[str, str]


@contextlib.contextmanager
def old_ir() -> Iterator[None]:
    """Build and run graphs of the old IR inside; afterwards all is as it was."""
    with (
        framework._dygraph_guard(None),
        paddle.utils.unique_name.guard(),
        paddle.pir_utils.OldIrGuard(),
        kernels_take_variables(),
    ):
        yield


@contextlib.contextmanager
def _short_stacks() -> Iterator[None]:
    """Keep Paddle from storing a Python stack with each operator, a fifth of the time."""
    missing = object()
    limit = getattr(sys, "tracebacklimit", missing)
    sys.tracebacklimit = 0
    try:
        yield
    finally:
        if limit is missing:
            del sys.tracebacklimit
        else:
            sys.tracebacklimit = limit  # type: ignore[assignment]


def trace(
    layer: Layer,
    specs: Sequence[InputSpec],
    model: Layer | None = None,
    training: bool = False,
) -> Trace:
    """Trace a layer in evaluation mode without running it, or as it trains.

    The layer is called once with symbolic inputs, so Python decides branches and loops then:
    control flow that depends on values, not on shapes, is refused.

    Args:
        layer: Returns a tensor, a list of tensors or a dict of tensors. The outputs are called
            `output`, `output_0`, `output_1`, ... or by the keys of the dict.
        specs: One per argument, with a name; None or -1 marks a free dimension.
        model: The part of the layer from which paths are counted, if the layer wraps one.
        training: Trace it in training mode, with the heads that only training has.

    Raises:
        ExportError: The layer cannot be traced; the message begins with the path of the sublayer
            in which it failed.
    """
    weights = _name_by_path(layer, model or layer)
    names = _input_names(specs, weights)
    with (
        training_mode(layer) if training else evaluation_mode(layer),
        _renamed(weights),
        _outputs_noted(model or layer) as made,
        old_ir(),
    ):
        program = paddle.static.Program()
        with _building(program):
            inputs = [
                paddle.static.data(name, list(spec.shape), spec.dtype)
                for name, spec in zip(names, specs)
            ]
            outputs = _output_variables(_call(layer, inputs, model or layer))
        outputs = _with_parts_replaced(program, outputs)
        if not training:
            _set_evaluation(program)
        used = {name: weights[name] for name in weights if program.global_block().has_var(name)}
        for name in used:
            # a plain tensor attribute is a weight of the file as well
            program.global_block().var(name).persistable = True
    once = {path: found[0] for path, found in made.items() if len(found) == 1 and found[0]}
    return Trace(program, tuple(names), outputs, used, once)


def name_outputs(outputs: Any) -> dict[str, Any]:
    """Name what a layer returned, eager or traced, as `Trace.outputs` does.

    Raises:
        ExportError: It is no tensor, list of tensors or dict of tensors.
    """
    named: dict[str, Any]
    if isinstance(outputs, Mapping):
        named = dict(outputs)
    elif isinstance(outputs, (list, tuple)):
        if len(outputs) == 1:
            named = {"output": outputs[0]}
        else:
            named = {f"output_{index}": output for index, output in enumerate(outputs)}
    else:
        named = {"output": outputs}
    for name, output in named.items():
        if not isinstance(output, (Tensor, framework.Variable)):
            raise ExportError(f"{name}: expected a tensor, got {type(output).__name__}")
    return named


@contextlib.contextmanager
def _building(program: framework.Program) -> Iterator[None]:
    """Let layers that are called add operators to a program; Paddle keeps no record of it after."""
    startup = paddle.static.Program()
    try:
        with paddle.static.program_guard(program, startup), to_static_mode_guard(True):
            yield
    finally:
        translator = ProgramTranslator.get_instance()
        translator._params_recorder.pop(program)
        translator._inplace_map.params_dict.pop(_program_hash(program), None)


def _call(layer: Layer, inputs: list[framework.Variable], model: Layer) -> Any:
    try:
        with _short_stacks():
            return layer(*inputs)
    except Exception as error:  # whatever the layer's own code raises
        where = _failing_layer(layer, model, error.__traceback__)
        lines = str(error).strip().splitlines() or [""]
        raise ExportError(
            f"{where}: cannot be traced: {type(error).__name__}: {lines[-1].strip()}"
        ) from error


@contextlib.contextmanager
def _outputs_noted(model: Layer) -> Iterator[dict[str, list[str]]]:
    """Note the name of each sublayer's output, each time it runs; an empty one if it is not new."""
    made: dict[str, list[str]] = {}
    hooks = []
    for path, layer in model.named_sublayers():

        def note(_layer: Layer, inputs: object, output: object, path: str = path) -> None:
            passed_on = any(each is output for each in paddle.utils.flatten(inputs))
            name = output.name if isinstance(output, framework.Variable) and not passed_on else ""
            made.setdefault(path, []).append(name)

        hooks.append(layer.register_forward_post_hook(note))
    try:
        yield made
    finally:
        for hook in hooks:
            hook.remove()


def _output_variables(returned: Any) -> dict[str, str]:
    outputs = {}
    for name, output in name_outputs(returned).items():
        if not isinstance(output, framework.Variable):
            raise ExportError(f"{name}: does not depend on the inputs, it is a constant")
        outputs[name] = output.name
    return outputs


def _with_parts_replaced(program: framework.Program, outputs: Mapping[str, str]) -> dict[str, str]:
    """Let operators read what assignments to parts of a tensor (`x[:, 1:] = y`) have made of it.

    A graph puts the result into a new variable, while the code goes on with the old one.
    """
    block, latest = program.desc.block(0), dict[str, str]()
    for index in range(block.op_size()):
        op = block.op(index)
        replaced = op.input("Input")[0] if op.type() == "set_value" else ""
        for name in latest.keys() & set(op.input_arg_names()):
            op._rename_input(name, latest[name])
        if replaced:
            latest[replaced] = op.output("Out")[0]
    return {name: latest.get(variable, variable) for name, variable in outputs.items()}


def _set_evaluation(program: framework.Program) -> None:
    """Set what `paddle.nn.BatchNorm` takes from its constructor, not from its mode."""
    block = program.desc.block(0)
    for index in range(block.op_size()):
        if block.op(index).has_attr("is_test"):
            block.op(index)._set_bool_attr("is_test", True)


def _name_by_path(layer: Layer, model: Layer) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for part in (model, layer):
        for path, tensor in [*part.named_parameters(), *part.named_buffers()]:
            if tensor is None or id(tensor) in seen:
                continue
            if path in weights:
                raise ExportError(f"{path}: two weights have this path, in the model and around it")
            seen.add(id(tensor))
            weights[path] = tensor
    return weights


def _input_names(specs: Sequence[InputSpec], weights: Mapping[str, Tensor]) -> list[str]:
    names = [spec.name for spec in specs]
    for index, name in enumerate(names):
        if not name:
            raise ExportError(f"input {index}: the specification has no name")
        if names.count(name) > 1:
            raise ExportError(f"{name}: two inputs have this name")
        if name in weights:
            raise ExportError(f"{name}: an input and a weight of the model have this name")
    return names


@contextlib.contextmanager
def _renamed(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Call tensors by their paths, which are unique and the same in every process.

    Paddle's own names (`conv2d_57.w_0`) count all layers that the process has built, and two
    layers built under different name guards share theirs.
    """
    names = [(tensor, tensor.name) for tensor in weights.values()]
    try:
        for path, tensor in weights.items():
            tensor.name = path
        yield
    finally:
        for tensor, name in names:
            tensor.name = name


def _failing_layer(layer: Layer, model: Layer, traceback: TracebackType | None) -> str:
    paths = {id(each): path for path, each in layer.named_sublayers()}
    paths.update((id(each), path) for path, each in model.named_sublayers())
    where = type(model).__name__
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if isinstance(owner, Layer):
            where = paths.get(id(owner), where)
        traceback = traceback.tb_next
    return where
