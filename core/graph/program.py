"""A traced program as plain operators and weights, to edit, and to write as Paddle's files.

Edits on Paddle's own `Program` rebuild it again and again; on the protobuf messages underneath
they take no time. The parameter file is written here as well: sorted by name, so equal models
make equal bytes.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from paddle.base import core as paddle_core
from paddle.base.proto import framework_pb2

from core.errors import ExportError
from core.graph.channel_orders import WeightOrder
from core.graph.operators import DTYPES, attribute, names_of, only, operator, variable
from core.graph.shapes import settle_sizes
from core.graph.trace import Trace

# attributes for training and for messages; the first holds paths of source files
_CLIPPED = ("op_callstack", "op_namescope", "op_device", "op_role", "op_role_var")


@dataclass
class Graph:
    """Operators in the order they run, with their variables and the values of the weights.

    Attributes:
        made: As `core.graph.trace.Trace` has it, while the graph still has these variables.
        folded: Path of the batch norm that was folded into each weight, and the name of the bias
            in front of it, an empty string if there is none.
        permuted: Order of each weight whose channels a rewriting has permuted.
    """

    operators: list[Any]
    variables: dict[str, Any]
    weights: dict[str, np.ndarray]
    inputs: list[str]
    outputs: list[str]
    version: int
    operator_versions: Any
    made: dict[str, str] = field(default_factory=dict)
    folded: dict[str, tuple[str, str]] = field(default_factory=dict)
    permuted: dict[str, WeightOrder] = field(default_factory=dict)

    @staticmethod
    def from_trace(trace: Trace) -> Graph:
        """Copy a trace; its outputs take the names that the layer gave them.

        Sizes that operators compute from those of fixed inputs are filled in, and what evaluation
        passes on unchanged is left out.

        Raises:
            ExportError: Control flow in the graph, or names that clash.
        """
        settle_sizes(trace.program.desc.block(0))
        program = framework_pb2.ProgramDesc()
        program.ParseFromString(trace.program.desc.serialize_to_string())
        weights = {name: tensor.numpy() for name, tensor in trace.weights.items()}
        graph = _from_program(program, weights, trace.inputs, list(trace.outputs.values()))
        graph.made = dict(trace.made)
        graph.drop_dropouts()
        graph.name_outputs(list(trace.outputs))
        graph.drop_unused()
        return graph

    @staticmethod
    def from_files(model: Path, params: Path) -> Graph:
        """Read a program and its parameters.

        Raises:
            ExportError: They are no program, or no weights of it.
        """
        program = framework_pb2.ProgramDesc()
        try:
            program.ParseFromString(model.read_bytes())
            stored = params.read_bytes()
            if not program.IsInitialized():
                raise ValueError("required parts are missing")
            block = program.blocks[0]
            names = sorted(v.name for v in block.vars if v.persistable and _is_array(v))
            feeds = [only(op.outputs, "Out") for op in block.ops if op.type == "feed"]
            fetches = [only(op.inputs, "X") for op in block.ops if op.type == "fetch"]
            graph = _from_program(program, {}, feeds, fetches)
            _check_types(graph)
        except OSError as error:
            raise ExportError(f"{error.filename}: cannot be read: {error.strerror}") from error
        except (DecodeError, LookupError, TypeError, ValueError) as error:
            raise ExportError(f"{model}: not a program of Paddle's old IR") from error
        try:
            graph.weights = dict(zip(names, _unpack(stored), strict=True))
            if any(math.prod(graph.shape(n)) != w.size for n, w in graph.weights.items()):
                raise ValueError("sizes differ")
        except (LookupError, TypeError, ValueError, DecodeError, struct.error) as error:
            raise ExportError(f"{params}: does not hold the weights of {model.name}") from error
        return graph

    def to_program(self) -> bytes:
        """Return the content of a `.pdmodel` file."""
        program = framework_pb2.ProgramDesc()
        program.version.version = self.version
        program.op_version_map.CopyFrom(self.operator_versions)
        block = program.blocks.add(idx=0, parent_idx=-1)
        ends = (("feed", "FEED_MINIBATCH"), ("fetch", "FETCH_LIST"))
        for name, kind in ends:
            holder = block.vars.add(name=name, persistable=True)
            holder.type.type = framework_pb2.VarType.Type.Value(kind)
        block.vars.extend(self.variables[name] for name in sorted(self.variables))
        for var in block.vars:
            if var.name in self.inputs:
                var.need_check_feed = True
        for column, name in enumerate(self.inputs):
            block.ops.append(operator("feed", {"X": "feed"}, {"Out": name}, {"col": column}))
        block.ops.extend(self.operators)
        for column, name in enumerate(self.outputs):
            block.ops.append(operator("fetch", {"X": name}, {"Out": "fetch"}, {"col": column}))
        content: bytes = program.SerializeToString(deterministic=True)
        return content

    def write(self, model: Path, params: Path) -> None:
        """Write the program and its parameters."""
        model.write_bytes(self.to_program())
        with params.open("wb") as file:
            for name in sorted(self.weights):
                kind = self.variables[name].type.dense_tensor.tensor.data_type
                file.write(_pack(self.weights[name], kind))

    def readers(self) -> Counter[str]:
        """Count how often each variable is read; being an output counts too."""
        read = Counter(name for op in self.operators for name in names_of(op.inputs))
        read.update(self.outputs)
        return read

    def consumers(self) -> dict[str, list[Any]]:
        """Return the operators that read each variable; one that reads it twice stands twice."""
        found: dict[str, list[Any]] = {}
        for op in self.operators:
            for name in names_of(op.inputs):
                found.setdefault(name, []).append(op)
        return found

    def replaced(self, wanted: Callable[[Any], bool], write: Callable[[Graph, Any], None]) -> Graph:
        """Return a graph in which others stand for some operators; this one stays as it is.

        Args:
            wanted: Tells whether an operator is replaced.
            write: Adds the operators that stand for it, and their variables and weights, to the
                graph that is given.

        Returns:
            The new graph; this one if no operator is replaced.
        """
        chosen = {id(op) for op in self.operators if wanted(op)}
        if not chosen:
            return self
        variables, weights = dict(self.variables), dict(self.weights)
        made = replace(self, operators=[], variables=variables, weights=weights)
        for op in self.operators:
            if id(op) in chosen:
                write(made, op)
            else:
                made.operators.append(op)
        return made

    def check_finite(self) -> None:
        """Refuse weights that no file should hold.

        Raises:
            ExportError: Names the first with values that are infinite or not a number.
        """
        for name, array in self.weights.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                count = int((~np.isfinite(array)).sum())
                raise ExportError(f"{name}: {count} of {array.size} values are not finite")

    def drop_unused(self) -> None:
        """Drop operators, variables and weights that no output depends on."""
        needed = set(self.outputs)
        kept = []
        for op in reversed(self.operators):
            if needed.intersection(names_of(op.outputs)):
                kept.append(op)
                needed.update(names_of(op.inputs))
        self.operators = kept[::-1]
        alive = {*self.inputs, *self.outputs}
        for op in self.operators:
            alive.update(names_of(op.inputs), names_of(op.outputs))
        self.variables = {name: var for name, var in self.variables.items() if name in alive}
        self.weights = {name: array for name, array in self.weights.items() if name in alive}

    def drop_dropouts(self) -> None:
        """Drop the operators of dropout that pass values on; readers read what those read.

        An operator that scales, as dropout of the old kind does in evaluation, stays.
        """
        source: dict[str, str] = {}
        kept = []
        for op in self.operators:
            for slot in op.inputs:
                slot.arguments[:] = [source.get(name, name) for name in slot.arguments]
            if _passes_on(op):
                source[only(op.outputs, "Out")] = only(op.inputs, "X")
            else:
                kept.append(op)
        self.operators = kept
        self.outputs = [source.get(name, name) for name in self.outputs]
        self.made = {path: source.get(name, name) for path, name in self.made.items()}

    def name_outputs(self, names: Sequence[str]) -> None:
        """Give the outputs their names, through a copy where the variable has another role.

        Raises:
            ExportError: A name is that of another variable.
        """
        for index, (name, current) in enumerate(zip(names, self.outputs)):
            if name == current:
                continue
            if name in self.variables:
                raise ExportError(
                    f"{name}: an output has the name of another variable of the graph"
                )
            taken = current in self.inputs or current in self.weights
            if taken or self.outputs.count(current) > 1:
                self.operators.append(operator("assign", {"X": current}, {"Out": name}, {}))
                made = variable(name, self.shape(current), self.dtype(current))
                self.variables[name] = made
            else:
                self.rename(current, name)
            self.outputs[index] = name

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the dimensions of a variable; -1 is a free one."""
        return tuple(self.variables[name].type.dense_tensor.tensor.dims)

    def dtype(self, name: str) -> np.dtype:
        """Return the type of a variable's elements."""
        return DTYPES[self.variables[name].type.dense_tensor.tensor.data_type]

    def rename(self, old: str, new: str) -> None:
        """Rename a variable wherever it is read or written."""
        for op in self.operators:
            for slot in (*op.inputs, *op.outputs):
                slot.arguments[:] = [new if name == old else name for name in slot.arguments]
        variable = self.variables.pop(old)
        variable.name = new
        self.variables[new] = variable
        self.made = {path: new if name == old else name for path, name in self.made.items()}


def _from_program(
    program: Any, weights: dict[str, np.ndarray], inputs: Sequence[str], outputs: Sequence[str]
) -> Graph:
    if len(program.blocks) != 1:
        raise ExportError(
            "model: its graph has control flow (loops or branches on values), which is not exported"
        )
    block = program.blocks[0]
    operators = [op for op in block.ops if op.type not in ("feed", "fetch")]
    for op in operators:
        _clip(op)
    variables = {each.name: each for each in block.vars if _is_array(each)}
    for each in variables.values():
        each.ClearField("stop_gradient")
        each.ClearField("is_parameter")
        each.ClearField("need_check_feed")
    return Graph(
        operators=operators,
        variables=variables,
        weights=weights,
        inputs=list(inputs),
        outputs=list(outputs),
        version=program.version.version,
        operator_versions=program.op_version_map,
    )


def _check_types(graph: Graph) -> None:
    """Refuse texts that are none, and numbers of a type that no runtime here computes with."""
    for name, var in graph.variables.items():
        kind = var.type.dense_tensor.tensor.data_type
        if not isinstance(name, str) or kind not in DTYPES:
            raise ValueError(f"{name!r} is of an unknown type")
    known = {*graph.inputs, *graph.outputs}
    if not known or not known <= graph.variables.keys():
        raise ValueError("inputs and outputs that are no variables")
    for op in graph.operators:
        names = (*names_of(op.inputs), *names_of(op.outputs))
        if not all(isinstance(each, str) for each in (op.type, *names)):
            raise ValueError("an operator with names that are no text")


def _passes_on(op: Any) -> bool:
    if op.type != "dropout" or not attribute(op, "is_test", False):
        return False
    return bool(attribute(op, "dropout_implementation") == "upscale_in_train")


def _clip(op: Any) -> None:
    extra = {*_CLIPPED, *paddle_core.get_op_extra_attrs(op.type)}
    if not attribute(op, "with_quant_attr", False):
        extra.add("with_quant_attr")
    kept = sorted((each for each in op.attrs if each.name not in extra), key=lambda a: a.name)
    copies = framework_pb2.OpDesc(type=op.type, attrs=kept)
    op.ClearField("attrs")
    op.attrs.extend(copies.attrs)


def _is_array(var: Any) -> bool:
    return bool(var.type.type == framework_pb2.VarType.DENSE_TENSOR)


def _pack(array: np.ndarray, kind: int) -> bytes:
    """Return an array as Paddle's `save_combine` writes it: three versions, type, bytes."""
    desc = framework_pb2.VarType.TensorDesc(data_type=kind, dims=array.shape)
    header: bytes = desc.SerializeToString(deterministic=True)
    content = np.ascontiguousarray(array).tobytes()
    return struct.pack("<IQIi", 0, 0, 0, len(header)) + header + content


def _unpack(content: bytes) -> Iterator[np.ndarray]:
    offset, head = 0, struct.Struct("<IQIi")
    while offset < len(content):
        *_, length = head.unpack_from(content, offset)
        offset += head.size
        desc = framework_pb2.VarType.TensorDesc()
        desc.ParseFromString(content[offset : offset + length])
        offset += length
        dtype, shape = DTYPES[desc.data_type], tuple(desc.dims)
        count = int(np.prod(shape, dtype=np.int64))
        yield np.frombuffer(content, dtype, count, offset).reshape(shape)
        offset += count * dtype.itemsize


def makers_of(graph: Graph) -> dict[str, str]:
    """Return the kind of operator that makes each tensor."""
    return {name: op.type for op in graph.operators for name in names_of(op.outputs)}
