"""Inputs and outputs of model files: read their descriptions, and check arrays against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from paddle.base.proto import framework_pb2

from core.errors import ExportError
from core.graph.operators import DTYPES, only
from core.runtimes.description import DeployDescription, Port
from core.runtimes.openvino_models import ports_of_file
from core.settings.reading import read_json

_PIR_DTYPES = MappingProxyType(  # by the name of a type in its files; numpy has no bfloat16
    {
        **{f"0.t_f{bits}": f"float{bits}" for bits in (16, 32, 64)},
        **{f"0.t_i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
        "0.t_ui8": "uint8",
        "0.t_bool": "bool",
    }
)


def ports_in(file: Path) -> dict[str, Port]:
    """Read names, sizes and types of the inputs and outputs from a model file.

    Returns:
        By name; nothing for files that cannot be read.
    """
    readers = {".onnx": _of_onnx, ".json": _of_pir, ".xml": ports_of_file}
    read = readers.get(file.suffix, _of_program)
    try:
        return {port.name: port for port in read(file)}
    except (DecodeError, ExportError, LookupError, RuntimeError, TypeError, ValueError):
        return {}  # a runtime may still read it, which says the names


def described(
    inputs: Sequence[str], outputs: Sequence[str], known: Mapping[str, Port]
) -> DeployDescription:
    """Describe a model from elsewhere by the names that its runtime tells and its file's sizes."""
    return DeployDescription(
        inputs=tuple(known.get(name, Port(name, (), "")) for name in inputs),
        outputs=tuple(known.get(name, Port(name, (), "")) for name in outputs),
    )


def with_sizes(description: DeployDescription, known: Mapping[str, Port]) -> DeployDescription:
    """Return a description with the sizes that a file tells, where it has none."""
    return replace(
        description,
        inputs=tuple(
            port if port.shape else known.get(port.name, port) for port in description.inputs
        ),
        outputs=tuple(
            port if port.shape else known.get(port.name, port) for port in description.outputs
        ),
    )


def in_words(ports: Iterable[Port]) -> str:
    """List ports with their sizes."""
    return ", ".join(f"{port.name} {list(port.shape) or ''}".strip() for port in ports)


def as_fed(port: Port, array: np.ndarray) -> np.ndarray:
    """Return an array [N, ...] as a runtime takes it: of the port's type, in one piece.

    Raises:
        ExportError: It holds no numbers.
    """
    try:
        fed = np.ascontiguousarray(array, port.dtype or None)
    except (TypeError, ValueError) as error:
        raise ExportError(f"{port.name}: expected numbers, {port.dtype}: {error}") from error
    if fed.dtype.kind not in "biuf":
        raise ExportError(f"{port.name}: expected numbers, got an array of {fed.dtype}")
    return fed


def check_shape(port: Port, shape: tuple[int, ...]) -> None:
    """Refuse an array that a port does not take.

    Raises:
        ExportError: It is empty, or of another shape.
    """
    if 0 in shape:
        raise ExportError(
            f"{port.name}: expected at least one image, got an empty array of {list(shape)}"
        )
    wanted = port.shape
    fits = len(shape) == len(wanted) and all(w in (-1, s) for w, s in zip(wanted, shape))
    if wanted and not fits:
        raise ExportError(
            f"{port.name}: the model takes {list(wanted)} (-1: any), got {list(shape)}"
        )


def _of_onnx(file: Path) -> list[Port]:
    graph = onnx.load(str(file), load_external_data=False).graph
    weights = {each.name for each in graph.initializer}
    found = []
    for value in (*graph.input, *graph.output):
        if value.name not in weights:
            tensor = value.type.tensor_type
            sizes = tuple(each.dim_value or -1 for each in tensor.shape.dim)
            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
            found.append(Port(value.name, sizes if tensor.HasField("shape") else (), kind))
    return found


def _of_program(file: Path) -> list[Port]:
    program = framework_pb2.ProgramDesc()
    program.ParseFromString(file.read_bytes())
    found = []
    for block in program.blocks[:1]:
        variables: dict[str, Any] = {
            each.name: each.type.dense_tensor.tensor for each in block.vars
        }
        ends = [only(op.outputs, "Out") for op in block.ops if op.type == "feed"]
        ends += [only(op.inputs, "X") for op in block.ops if op.type == "fetch"]
        for name in ends:
            tensor = variables[name]
            found.append(Port(name, tuple(tensor.dims), DTYPES[tensor.data_type].name))
    return found


def _of_pir(file: Path) -> list[Port]:
    """Read a program of Paddle's new IR: operators `data` and `fetch` are its ends."""
    found = []
    for op in read_json(file, ExportError)["program"]["regions"][0]["blocks"][0]["ops"]:
        if str(op["#"]).partition(".")[2] in ("data", "fetch"):
            said = {each["N"]: each["AT"]["D"] for each in op["A"]}
            (kind, sizes, *_) = op["O"][0]["TT"]["D"]
            shape = tuple(int(size) for size in sizes)
            found.append(Port(str(said["name"]), shape, _PIR_DTYPES[kind["#"]]))
    return found
