"""Models in OpenVINO: its one core, and the names and sizes of inputs and outputs."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.runtimes.description import Port


@functools.cache
def openvino_core() -> Any:
    """Return the core that all models of OpenVINO in this process share; it is never freed.

    The first model of a core gives its thread a stack for signal handlers, and the end of the core
    puts back the stack of before. With several cores that one may be freed already: the next
    signal, Ctrl-C among them, would then crash the process.
    """
    return importlib.import_module("openvino").Core()


def name_of(port: Any, known: Sequence[str]) -> str:
    """Choose the name of an input or output: OpenVINO collects those of all equal tensors."""
    own = port.get_node().friendly_name.partition("/sink_port_")[0]  # its name in the ONNX graph
    names = [*known, own, *sorted(port.names)]
    return str(next(name for name in names if name in port.names))


def ports_of_file(file: Path) -> list[Port]:
    """Read names, sizes and types of inputs and outputs from a file of OpenVINO's own format.

    Raises:
        RuntimeError: OpenVINO cannot read it.
    """
    model = openvino_core().read_model(str(file))
    found = []
    for port in (*model.inputs, *model.outputs):
        shape = port.partial_shape
        known = [] if shape.rank.is_dynamic else list(shape)
        sizes = tuple(-1 if each.is_dynamic else each.get_length() for each in known)
        found.append(Port(name_of(port, ()), sizes, port.element_type.to_dtype().name))
    return found
