"""Functions of Paddle 3.2 and later that are bound to kernels, in graphs of the old IR.

In Paddle 3.1 `paddle.multiply` is a Python function that adds an operator to the graph if it is
given a variable of the old IR. In 3.2 some thirty such functions, in 3.3 some fifty are kernels of
`paddle._C_ops`, which take tensors and values of the new IR alone: `multiply(): argument (position
1) must be Value, but got Variable`. As methods of a variable they are not even given the variable.
The operators are all there still, and `BUILDERS` adds them as 3.1 does, to the last attribute.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import BuiltinFunctionType, MappingProxyType, SimpleNamespace
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle.base.framework import Variable, convert_np_dtype_to_dtype_
from paddle.base.layer_helper import LayerHelper

Axes = int | Sequence[int] | None
Builder = Callable[..., Variable]
_WRAPPERS = "paddle.base.dygraph.generated_tensor_methods_patch"  # absent from Paddle 3.1
# modules that import kernels by name, to call them or to offer them; not all versions have all
_MODULES = (
    *(f"paddle.tensor.{name}" for name in ("math", "linalg", "manipulation", "einsum")),
    *(f"paddle.nn.functional.{name}" for name in ("activation", "common", "vision")),
    *("paddle", "paddle.linalg", "paddle.special"),
)
_ALIASES = MappingProxyType({"input": "x", "other": "y", "dim": "axis"})  # names of arguments
_REPLACING = threading.RLock()


@contextlib.contextmanager
def kernels_take_variables() -> Iterator[None]:
    """Let Paddle's functions take variables of the old IR inside, in the versions that need it.

    It replaces attributes of some of Paddle's modules, and methods of `Variable`, by functions that
    call the same kernel for all but variables; in the end it puts them back. Other threads see them
    meanwhile and compute as before; those that trace as well wait for each other. In Paddle 3.1
    there is nothing to replace.
    """
    with _REPLACING, contextlib.ExitStack() as stack:
        for owner, attributes in _replacements():
            for name, replacement in attributes.items():
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, replacement)
        yield


def _replacements() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield modules and classes, each with the attributes that replace its own."""
    if importlib.util.find_spec(_WRAPPERS) is None:
        return
    kernels = vars(paddle._C_ops)
    either = {name: _either(kernels[name], build) for name, build in BUILDERS.items()}
    by_kernel = {id(kernels[name]): function for name, function in either.items()}
    yield importlib.import_module(_WRAPPERS), {"_C_ops": SimpleNamespace(**{**kernels, **either})}
    # Python still, but in 3.3 it ends in an UnboundLocalError where it has added its operators
    yield F, {"normalize": _either(F.normalize, normalize)}
    for owner in (Variable, *(sys.modules[name] for name in _MODULES if name in sys.modules)):
        own = {n: v for n, v in vars(owner).items() if isinstance(v, BuiltinFunctionType)}
        yield owner, {n: by_kernel[id(v)] for n, v in own.items() if id(v) in by_kernel}


def _either(kernel: Callable[..., Any], build: Builder) -> Callable[..., Any]:
    """Return a function that adds an operator where it is given a variable, and else computes."""

    def call(*arguments: Any, **named: Any) -> Any:
        if any(isinstance(each, Variable) for each in (*arguments, *named.values())):
            return build(*arguments, **{_ALIASES.get(n, n): value for n, value in named.items()})
        return kernel(*arguments, **named)

    return call


def _add(
    kind: str,
    inputs: Mapping[str, Any],
    attributes: Mapping[str, Any] = MappingProxyType({}),
    dtype: Any = None,
    output: str = "Out",
) -> Variable:
    """Add an operator to the graph; its output has the type of its first input by default."""
    helper = LayerHelper(kind)
    made = helper.create_variable_for_type_inference(dtype or next(iter(inputs.values())).dtype)
    helper.append_op(type=kind, inputs=dict(inputs), outputs={output: made}, attrs=dict(attributes))
    return made


def _unary(kind: str, dtype: str | None = None) -> Builder:
    def build(x: Variable, name: str | None = None) -> Variable:
        return _add(kind, {"X": x}, dtype=dtype)

    return build


def _binary(kind: str, dtype: str | None = None, **attributes: int) -> Builder:
    def build(x: Variable, y: Variable, name: str | None = None) -> Variable:
        return _add(kind, {"X": x, "Y": y}, attributes, dtype)

    return build


def _axes(x: Variable, axis: Axes) -> tuple[list[int], bool]:
    """Return axes as a list, and whether they are all that there are."""
    axes = [] if axis is None else [axis] if isinstance(axis, int) else list(axis)
    return axes, not axes or len(axes) == len(x.shape)


def _reduction(kind: str, dtype: str | None = None) -> Builder:
    def build(
        x: Variable, axis: Axes = None, keepdim: bool = False, name: str | None = None
    ) -> Variable:
        axes, whole = _axes(x, axis)
        return _add(kind, {"X": x}, {"dim": axes, "keep_dim": keepdim, "reduce_all": whole}, dtype)

    return build


def _sum(
    x: Variable,
    axis: Axes = None,
    dtype: Any = None,
    keepdim: bool = False,
    name: str | None = None,
) -> Variable:
    attributes: dict[str, Any] = {"dim": _axes(x, axis)[0], "keep_dim": keepdim}
    if dtype is not None:
        dtype = dtype if isinstance(dtype, paddle.dtype) else convert_np_dtype_to_dtype_(dtype)
        attributes |= {"in_dtype": x.dtype, "out_dtype": dtype}
    return _add("reduce_sum", {"X": x}, attributes, dtype)


def _logsumexp(
    x: Variable, axis: Axes = None, keepdim: bool = False, name: str | None = None
) -> Variable:
    axes, whole = _axes(x, axis)
    attributes = {"axis": axes, "keepdim": keepdim, "reduce_all": whole}
    return _add("logsumexp", {"X": x}, attributes)


def _index_of(kind: str) -> Builder:
    def build(
        x: Variable,
        axis: int | None = None,
        keepdim: bool = False,
        dtype: Any = "int64",
        name: str | None = None,
    ) -> Variable:
        kept = convert_np_dtype_to_dtype_(dtype)
        attributes = {"axis": axis or 0, "flatten": axis is None, "keepdims": keepdim}
        made = _add(kind, {"X": x}, {**attributes, "dtype": kept}, kept)
        made.stop_gradient = True
        return made

    return build


def _greater_than(x: Variable, y: Variable, name: str | None = None) -> Variable:
    made = _add("greater_than", {"X": x, "Y": y}, dtype="bool")
    made.stop_gradient = True
    return made


def _matmul(
    x: Variable,
    y: Variable,
    transpose_x: bool = False,
    transpose_y: bool = False,
    name: str | None = None,
) -> Variable:
    return _add("matmul_v2", {"X": x, "Y": y}, {"trans_x": transpose_x, "trans_y": transpose_y})


def _triangle(lower: bool) -> Builder:
    def build(x: Variable, diagonal: int = 0, name: str | None = None) -> Variable:
        return _add("tril_triu", {"X": x}, {"diagonal": diagonal, "lower": lower})

    return build


def _diagonal(
    x: Variable, offset: int = 0, axis1: int = 0, axis2: int = 1, name: str | None = None
) -> Variable:
    attributes = {"offset": offset, "axis1": axis1, "axis2": axis2}
    return _add("diagonal", {"Input": x}, attributes)


def _roll(
    x: Variable, shifts: int | Sequence[int], axis: Axes = None, name: str | None = None
) -> Variable:
    by = [shifts] if isinstance(shifts, int) else list(shifts)
    return _add("roll", {"X": x}, {"axis": _axes(x, axis)[0], "shifts": by})


def _expand_as(x: Variable, y: Variable, name: str | None = None) -> Variable:
    return _add("expand_as_v2", {"X": x, "Y": y}, {"target_shape": y.shape})


def _isclose(
    x: Variable,
    y: Variable,
    rtol: float = 1e-05,
    atol: float = 1e-08,
    equal_nan: bool = False,
    name: str | None = None,
) -> Variable:
    attributes = {"rtol": str(rtol), "atol": str(atol), "equal_nan": equal_nan}
    return _add("isclose", {"Input": x, "Other": y}, attributes, "bool")


def _round(x: Variable, decimals: int = 0, name: str | None = None) -> Variable:
    return _add("round", {"X": x}, {"decimals": decimals})


def _gelu(x: Variable, approximate: bool | str = False, name: str | None = None) -> Variable:
    return _add("gelu", {"X": x}, {"approximate": approximate in (True, "tanh")})


def _softplus(
    x: Variable, beta: float = 1, threshold: float = 20, name: str | None = None
) -> Variable:
    return _add("softplus", {"X": x}, {"beta": float(beta), "threshold": float(threshold)})


def normalize(
    x: Variable, p: float = 2, axis: int = 1, epsilon: float = 1e-12, name: str | None = None
) -> Variable:
    """Divide by the p-norm along an axis, as `paddle.nn.functional.normalize`."""
    attributes = {"axis": axis, "porder": float(p), "keepdim": True, "epsilon": epsilon}
    norm = _add("p_norm", {"X": x}, attributes)
    least = paddle.full([1], epsilon, norm.dtype)
    made: Variable = paddle.divide(x, BUILDERS["maximum"](norm, least))
    return made


def _grid_sample(
    x: Variable,
    grid: Variable,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
    name: str | None = None,
) -> Variable:
    attributes = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    inputs = {"X": x, "Grid": grid}
    return _add("grid_sampler", inputs, {**attributes, "use_cudnn": False}, output="Output")


_SAME_NAME = (
    *("abs", "acos", "acosh", "asin", "atanh", "ceil", "cos", "cosh", "exp", "expm1", "floor"),
    *("log", "log10", "log1p", "log2", "logical_not", "rsqrt", "sigmoid", "sign", "sin", "sinh"),
    *("sqrt", "tanh"),
)
# by the kernel's name; `index_put`, which no network of ours calls, is left out
BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {
        **{name: _unary(name) for name in _SAME_NAME},
        **{name: _unary(f"{name}_v2", "bool") for name in ("isfinite", "isinf", "isnan")},
        **{name: _binary(name) for name in ("bmm", "dot")},
        **{name: _binary(name) for name in ("logical_and", "logical_or", "logical_xor")},
        "multiply": _binary("elementwise_mul", axis=-1),
        "maximum": _binary("elementwise_max", axis=-1),
        "minimum": _binary("elementwise_min", axis=-1),
        "greater_than": _greater_than,
        "isclose": _isclose,
        "matmul": _matmul,
        "sum": _sum,
        "logsumexp": _logsumexp,
        "amax": _reduction("reduce_amax"),
        "amin": _reduction("reduce_amin"),
        "all": _reduction("reduce_all", "bool"),
        "any": _reduction("reduce_any", "bool"),
        "argmax": _index_of("arg_max"),
        "argmin": _index_of("arg_min"),
        "tril": _triangle(lower=True),
        "triu": _triangle(lower=False),
        "diagonal": _diagonal,
        "roll": _roll,
        "expand_as": _expand_as,
        "round": _round,
        "gelu": _gelu,
        "softplus": _softplus,
        "grid_sample": _grid_sample,
    }
)
