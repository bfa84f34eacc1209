"""The operators of a traced model, each with the layer that called it."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any

from paddle.base.framework import default_main_program  # a program of the old IR
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ExportError
from core.graph.cost import Shape
from core.graph.shapes import SizeError, settle_sizes
from core.graph.trace import Trace, trace

Names = Mapping[str, Sequence[str]]
_UNREAD = frozenset(("op_callstack", "op_namescope", "op_device", "op_role", "op_role_var"))


@dataclass(frozen=True)
class Operator:
    """One operator; `layer` is the dotted path of the innermost layer whose forward called it."""

    index: int
    type: str
    inputs: Names
    outputs: Names
    layer: str
    attributes: Mapping[str, Any]

    def attribute(self, name: str) -> Any:
        """Return an attribute; None if the operator has none of that name."""
        return self.attributes.get(name)

    def input(self, slot: str) -> str:
        """Return the only variable in a slot; an empty string if it holds none."""
        names = self.inputs.get(slot, ())
        return names[0] if len(names) == 1 else ""

    def output(self, slot: str) -> str:
        """Return the only variable in a slot; an empty string if it holds none."""
        names = self.outputs.get(slot, ())
        return names[0] if len(names) == 1 else ""


@dataclass(frozen=True)
class Call:
    """One call of a layer: the variables that went in and came out."""

    layer: str
    first: int  # position of its first operator
    end: int  # position after its last operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class ModelGraph:
    """A traced model.

    Attributes:
        operators: Operators in the order in which they run.
        calls: Calls of every layer, the inner ones first.
        weights: Dotted paths of the parameters and buffers that the operators read.
        inputs: Variables that are fed.
        outputs: Variable of each output by its name.
        shapes: Shapes of every variable and weight, for the traced input.
    """

    operators: list[Operator]
    calls: list[Call]
    weights: frozenset[str]
    inputs: tuple[str, ...]
    outputs: Mapping[str, str]
    shapes: Mapping[str, Shape]


class TraceError(ExportError):
    """The model cannot be traced.

    Attributes:
        layer: Path of the layer in which it failed.
        graph: Graph that was traced until then, without outputs; None if no layer was called.
    """

    def __init__(self, message: str, layer: str, graph: ModelGraph | None = None) -> None:
        super().__init__(message)
        self.layer, self.graph = layer, graph


def trace_operators(model: Layer, specs: Sequence[InputSpec], training: bool) -> ModelGraph:
    """Trace a model and note which layer called which operator.

    Args:
        model: Any network whose control flow does not depend on values.
        specs: Inputs without free dimensions.
        training: As it trains, with all its heads, or as it is evaluated.

    Raises:
        TraceError: It cannot be traced.
    """
    calls: list[Call] = []
    open_calls: list[_OpenCall] = []
    with _listening(model, calls, open_calls):
        try:
            traced = trace(model, specs, training=training)
        except ExportError as error:
            if not open_calls:
                raise TraceError(str(error), "") from error
            layer = open_calls[-1].layer
            try:
                begun = _begun(model, specs, calls, open_calls)
            except TraceError as earlier:
                layer, begun = earlier.layer, earlier.graph
            raise TraceError(str(error), layer, begun) from error
    return _read(traced, calls)


@dataclass(frozen=True)
class _OpenCall:
    """A call of a layer that has not returned: position of its first operator in a program."""

    layer: str
    first: int
    program: Any


def _begun(
    model: Layer, specs: Sequence[InputSpec], calls: Sequence[Call], open_calls: Sequence[_OpenCall]
) -> ModelGraph | None:
    """Return the graph of a trace that failed, as far as it came."""
    program = open_calls[-1].program
    end = program.desc.block(0).op_size()
    unfinished = [Call(call.layer, call.first, end, (), ()) for call in reversed(open_calls)]
    weights = dict([*model.named_parameters(), *model.named_buffers()])
    inputs = tuple(spec.name for spec in specs)
    return _read(Trace(program, inputs, {}, weights, {}), [*calls, *unfinished])


def trace_modes(model: Layer, specs: Sequence[InputSpec]) -> dict[bool, ModelGraph]:
    """Trace a model as it trains (True) and as it is evaluated (False).

    Networks without heads that only training has are the same in both; they are traced once, as
    evaluated. That is so if evaluation reads all parameters, no class has its own `train` or
    `eval`, and no code around the layers speaks of `training`.

    Raises:
        TraceError: It cannot be traced.
    """
    evaluated = trace_operators(model, specs, training=False)
    unread = {path for path, _ in model.named_parameters()} - evaluated.weights
    if unread or _speaks_of_training(model):
        return {True: trace_operators(model, specs, training=True), False: evaluated}
    return {False: evaluated}


def _speaks_of_training(model: Layer) -> bool:
    classes = {base for layer in model.sublayers(include_self=True) for base in type(layer).mro()}
    modules = {each.__module__ for each in classes if each is not object}
    own = [name for name in modules if not name.startswith("paddle.") and name in sys.modules]
    if any({"train", "eval"} & set(vars(each)) for each in classes if each.__module__ in own):
        return True
    return any(_mentions(value, name) for name in own for value in vars(sys.modules[name]).values())


def _mentions(value: Any, module: str) -> bool:
    """Tell whether the code of a function, or of a class, of a module reads `training`."""
    if isinstance(value, type) and value.__module__ == module:
        return any(_mentions(each, module) for each in vars(value).values())
    code = getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None)
    codes = [code] if isinstance(code, CodeType) else []
    for each in codes:
        if "training" in each.co_names:
            return True
        codes += [const for const in each.co_consts if isinstance(const, CodeType)]
    return False


@contextlib.contextmanager
def _listening(model: Layer, calls: list[Call], open_calls: list[_OpenCall]) -> Iterator[None]:
    def position() -> int:
        size: int = default_main_program().desc.block(0).op_size()
        return size

    handles = []

    def listen(path: str, layer: Layer) -> None:
        def before(_layer: Layer, _inputs: Any) -> None:
            open_calls.append(_OpenCall(path, position(), default_main_program()))

        def after(_layer: Layer, inputs: Any, outputs: Any) -> None:
            first = open_calls.pop().first
            calls.append(Call(path, first, position(), _names(inputs), _names(outputs)))

        handles.append(layer.register_forward_pre_hook(before))
        handles.append(layer.register_forward_post_hook(after))

    try:
        for path, layer in model.named_sublayers(include_self=True):
            listen(path, layer)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(name for part in value for name in _names(part))
    if isinstance(value, Mapping):
        return _names(list(value.values()))
    return (value.name,) if hasattr(value, "name") else ()


def _read(traced: Trace, calls: Sequence[Call]) -> ModelGraph:
    block = traced.program.desc.block(0)
    owners = _owners(calls, block.op_size())
    try:
        settle_sizes(block)
    except SizeError as error:
        layer = owners[error.index]
        begun = _graph(block, replace(traced, outputs={}), calls, owners[: error.index])
        raise TraceError(f"{layer}: {error}" if layer else str(error), layer, begun) from error
    return _graph(block, traced, calls, owners)


def _graph(block: Any, traced: Trace, calls: Sequence[Call], owners: Sequence[str]) -> ModelGraph:
    """Return the first operators of a block, as many as have owners, as a graph."""
    operators = []
    names: set[str] = {*traced.inputs, *traced.outputs.values()}
    for index, owner in enumerate(owners):
        op = block.op(index)
        inputs = {slot: tuple(op.input(slot)) for slot in op.input_names()}
        outputs = {slot: tuple(op.output(slot)) for slot in op.output_names()}
        attributes = {name: op.attr(name) for name in op.attr_names() if name not in _UNREAD}
        names.update(name for slot in (inputs, outputs) for part in slot.values() for name in part)
        operators.append(Operator(index, op.type(), inputs, outputs, owner, attributes))
    shapes: dict[str, Shape] = {}
    for name in names:
        variable = block.find_var(name.encode())
        if variable is not None:
            shapes[name] = tuple(variable.shape())
    weights = frozenset(traced.weights)
    outputs_of = dict(traced.outputs)
    return ModelGraph(operators, list(calls), weights, traced.inputs, outputs_of, shapes)


def _owners(calls: Sequence[Call], count: int) -> list[str]:
    owners = [""] * count
    for call in reversed(calls):  # the inner calls, which ended earlier, have the last word
        owners[call.first : call.end] = [call.layer] * (call.end - call.first)
    return owners
