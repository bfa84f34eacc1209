"""Functions bound to kernels: they add the operators of Paddle 3.1, and nothing stays behind.

Paddle 3.1 has no such functions. There the operators are compared with those that Paddle itself
adds, and what later versions look like is made up.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from types import BuiltinFunctionType, ModuleType
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from paddle.base.framework import Variable
from paddle.base.proto import framework_pb2
from paddle.static import InputSpec

from core.graph.kernel_calls import BUILDERS, kernels_take_variables, normalize
from core.graph.trace import old_ir, trace

WRAPPERS = "paddle.base.dygraph.generated_tensor_methods_patch"
BOUND = importlib.util.find_spec(WRAPPERS) is not None  # Paddle 3.2 and later
ARRAYS = {
    name: np.random.default_rng(0).uniform(0.1, 0.9, shape).astype(kind)
    for name, shape, kind in (
        ("x", (2, 3, 4), "float32"),
        ("y", (2, 3, 4), "float32"),
        ("z", (2, 4, 3), "float32"),
        ("row", (2, 1, 4), "float32"),
        ("flat", (2, 4), "float32"),
        ("image", (2, 2, 5, 5), "float32"),
        ("grid", (2, 4, 4, 2), "float32"),
    )
} | {name: np.random.default_rng(1).random((2, 3)) > 0.5 for name in ("yes", "no")}
UNARY = (
    *("abs", "acos", "asin", "atanh", "ceil", "cos", "cosh", "exp", "expm1", "floor", "gelu"),
    *("isfinite", "isinf", "isnan", "log", "log10", "log1p", "log2", "round", "rsqrt", "sigmoid"),
    *("sign", "sin", "sinh", "softplus", "sqrt", "tanh"),
)
REDUCED: tuple[dict[str, Any], ...] = (
    {},
    {"axis": 1},
    {"axis": [1, -1], "keepdim": True},
    {"axis": [0, 1, 2]},
)
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *((name, ("x",), {}) for name in UNARY),
    *((name, ("x",), how) for name in ("sum", "amax", "amin", "logsumexp") for how in REDUCED),
    *((name, ("yes",), how) for name in ("all", "any") for how in REDUCED[:2]),
    *((name, ("yes", "no"), {}) for name in ("logical_and", "logical_or", "logical_xor")),
    *((name, ("x", "y"), {}) for name in ("multiply", "maximum", "minimum", "greater_than")),
    *((name, ("x",), {"diagonal": 1}) for name in ("tril", "triu")),
    *(
        (name, ("x",), how)
        for name in ("argmax", "argmin")
        for how in ({}, {"axis": -1, "keepdim": True, "dtype": "int32"})
    ),
    ("acosh", ("y",), {}),  # not a number, below 1
    ("sum", ("x",), {"axis": 0, "dtype": "float64"}),
    ("logical_not", ("yes",), {}),
    ("isclose", ("x", "y"), {"rtol": 0.5, "atol": 0.1, "equal_nan": True}),
    ("matmul", ("x", "y"), {"transpose_y": True}),
    ("bmm", ("x", "z"), {}),
    ("dot", ("flat", "flat"), {}),
    ("expand_as", ("row", "x"), {}),
    ("diagonal", ("x",), {"offset": 1, "axis1": 1, "axis2": 2}),
    ("roll", ("x", 1), {}),
    ("roll", ("x", [1, -2]), {"axis": [1, 2]}),
    ("round", ("x",), {"decimals": 1}),
    ("gelu", ("x",), {"approximate": True}),
    ("softplus", ("x",), {"beta": 2, "threshold": 1}),
    ("grid_sample", ("image", "grid"), {}),
    (
        "grid_sample",
        ("image", "grid"),
        {"mode": "nearest", "padding_mode": "border", "align_corners": False},
    ),
]


def operators_of(call: Callable[..., Any], arguments: Any, named: Any) -> tuple[Any, Any, Any]:
    """Return the operators that a call adds, what is said of their outputs, and what comes out."""
    with old_ir(), paddle.static.scope_guard(paddle.static.Scope()):
        program = paddle.static.Program()
        with paddle.static.program_guard(program, paddle.static.Program()):
            read = {
                name: paddle.static.data(name, [-1, *array.shape[1:]], str(array.dtype))
                for name, array in ARRAYS.items()
                if name in arguments
            }
            made = call(
                *(read.get(each, each) if isinstance(each, str) else each for each in arguments),
                **named,
            )
        block = framework_pb2.ProgramDesc.FromString(program.desc.serialize_to_string()).blocks[0]
        fed = {name: ARRAYS[name] for name in read}
        (value,) = paddle.static.Executor(paddle.CPUPlace()).run(program, fed, [made])
    operators = [
        (
            op.type,
            [(slot.parameter, list(slot.arguments)) for slot in op.inputs],
            [slot.parameter for slot in op.outputs],
            {
                each.name: each.SerializeToString()
                for each in op.attrs
                if each.name != "op_callstack"
            },
        )
        for op in block.ops
    ]
    new = [var for var in block.vars if var.name not in read]
    return operators, [(var.type.SerializeToString(), var.stop_gradient) for var in new], value


def eager(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(paddle, name, None) or getattr(F, name)
    return found


@pytest.mark.parametrize(("name", "arguments", "named"), CALLS, ids=str)
def test_the_operator_is_that_of_paddle(name: str, arguments: Any, named: Any) -> None:
    """In 3.1 Paddle adds the other one; later, what this module puts in the function's place."""
    operators, outputs, value = operators_of(BUILDERS[name], arguments, named)
    assert len(operators) == 1
    assert operators_of(eager(name), arguments, named)[:2] == (operators, outputs)
    tensors = (paddle.to_tensor(ARRAYS[a]) if isinstance(a, str) else a for a in arguments)
    computed = eager(name)(*tensors, **named).numpy()
    assert computed.dtype == value.dtype
    np.testing.assert_allclose(value, computed, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("named", [{}, {"p": 1, "axis": -1, "epsilon": 0.5}], ids=str)
def test_normalize_adds_the_operators_of_paddle(named: dict[str, Any]) -> None:
    operators, _, value = operators_of(normalize, ("x",), named)
    kinds = [operator[0] for operator in operators]
    assert kinds == ["p_norm", "fill_constant", "elementwise_max", "elementwise_div"]
    theirs = operators_of(lambda *a, **n: F.normalize(*a, **n), ("x",), named)[0]
    assert [(each[0], each[3]) for each in theirs] == [(each[0], each[3]) for each in operators]
    computed = F.normalize(paddle.to_tensor(ARRAYS["x"]), **named).numpy()
    np.testing.assert_allclose(value, computed, rtol=1e-6)


def test_every_function_is_among_them() -> None:
    assert {name for name, _, _ in CALLS} == set(BUILDERS)


@pytest.fixture
def wrappers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module through which `paddle.multiply` finds its kernel; made up in Paddle 3.1."""
    if BOUND:
        yield importlib.import_module(WRAPPERS)
        return
    module: Any = ModuleType(WRAPPERS)
    module.__spec__ = ModuleSpec(WRAPPERS, None)
    module._C_ops = paddle._C_ops
    monkeypatch.setitem(sys.modules, WRAPPERS, module)
    for name in ("amax", "sigmoid"):
        monkeypatch.setattr(Variable, name, getattr(paddle._C_ops, name))
    monkeypatch.setattr(F.common, "sqrt", paddle._C_ops.sqrt)
    yield module


def state(wrappers: Any) -> list[Any]:
    return [wrappers._C_ops, Variable.amax, Variable.sigmoid, F.common.sqrt]


def test_variables_make_operators_and_tensors_are_computed(wrappers: Any) -> None:
    before = state(wrappers)
    assert all(isinstance(each, BuiltinFunctionType) for each in before[1:])
    with old_ir():
        program = paddle.static.Program()
        with paddle.static.program_guard(program, paddle.static.Program()):
            x = paddle.static.data("x", [-1, 4], "float32")
            product = wrappers._C_ops.multiply(x, x)
            # as the names of other frameworks, and as a method
            largest = wrappers._C_ops.amax(input=product, dim=1, keepdim=True)
            root = F.common.sqrt(largest.sigmoid())
            assert root.shape == (-1, 1)
            assert root.amax(axis=[0, 1]).shape == ()
    kinds = [op.type for op in program.global_block().ops]
    assert kinds == ["elementwise_mul", "reduce_amax", "sigmoid", "sqrt", "reduce_amax"]
    with kernels_take_variables():  # as other threads see it
        tensor = paddle.to_tensor([1.0, 2.0])
        assert wrappers._C_ops.multiply(tensor, tensor).tolist() == [1.0, 4.0]
        assert wrappers._C_ops.relu is paddle._C_ops.relu
    assert [a is b for a, b in zip(state(wrappers), before)] == [True] * 4


def test_nothing_stays_behind_an_error(wrappers: Any) -> None:
    before = state(wrappers)

    def fail() -> None:
        with kernels_take_variables(), kernels_take_variables():
            assert state(wrappers)[1] is not before[1]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [a is b for a, b in zip(state(wrappers), before)] == [True] * 4


def test_a_second_trace_waits_for_the_first(wrappers: Any) -> None:
    entered = threading.Event()

    def enter() -> None:
        with kernels_take_variables():
            entered.set()

    other = threading.Thread(target=enter)
    with kernels_take_variables():
        other.start()
        assert not entered.wait(0.2)
    other.join(10)
    assert entered.is_set()


def test_without_such_functions_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.graph.kernel_calls._WRAPPERS", "paddle.base.absent")  # as in 3.1
    before = dict(vars(Variable)), dict(vars(F.common))
    with kernels_take_variables():
        assert (dict(vars(Variable)), dict(vars(F.common))) == before


class Written(nn.Layer):
    """Calls functions in each way in which networks are written."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        heat = F.softmax(x.flatten(2), axis=-1)
        shares = paddle.einsum("ncp,ndp->ncd", heat, heat)
        mixed = paddle.matmul(shares, heat).sum(axis=1, keepdim=True)
        gate = nn.GELU()(mixed).sigmoid() * paddle.tanh(mixed.exp())
        likeness = F.cosine_similarity(heat, paddle.maximum(heat, gate), axis=2)
        return paddle.multiply(likeness, x.amax(axis=[2, 3]).abs().sqrt())


def test_a_network_written_in_every_way_answers_as_eager() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 5)).astype(np.float32)
    traced = trace(Written(), [InputSpec([None, 3, 5, 5], "float32", "x")])
    with old_ir(), paddle.static.scope_guard(paddle.static.Scope()):
        executor = paddle.static.Executor(paddle.CPUPlace())
        (got,) = executor.run(traced.program, {"x": x}, [traced.outputs["output"]])
    np.testing.assert_allclose(got, Written()(paddle.to_tensor(x)).numpy(), rtol=1e-5)
