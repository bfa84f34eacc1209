"""Models in OpenVINO: its one core, how they are compiled, and their inputs and outputs."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import ExportError
from core.runtimes.description import Port
from core.runtimes.turns import TURNS


@functools.cache
def openvino_core() -> Any:
    """Return the core that all models of OpenVINO in this process share; it is never freed.

    The first model of a core gives its thread a stack for signal handlers, and the end of the core
    puts back the stack of before. With several cores that one may be freed already: the next
    signal, Ctrl-C among them, would then crash the process.
    """
    return importlib.import_module("openvino").Core()


class OpenVinoModel:
    """A model compiled for the CPU, for one image if the batch is all that its file leaves free.

    OpenVINO works out free sizes operator by operator, in every run: networks of many small layers
    take a fifth to a third longer. Other batches are run by the file as it is, which is read and
    compiled when the first of them comes: to hold it until then would take as much memory again as
    its weights.

    Attributes:
        compiled: For one image, or as the file is.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self._file, self._settings, self._found = file, dict(settings), _state_of(file)
        self._free: Any = None  # compiled as the file is
        one = _for_one_image(openvino_core().read_model(str(file)))
        self._for_one = one is not None
        self.compiled: Any = self._compile(str(file) if one is None else one)

    def fitting(self, feeds: Mapping[str, np.ndarray]) -> Any:
        """Return the compiled model that takes these inputs, [N, ...] by name.

        Raises:
            ExportError: The file would have to be read again, but is another one by now, or gone.
        """
        if not self._for_one or all(
            tuple(self.compiled.input(name).shape) == array.shape for name, array in feeds.items()
        ):
            return self.compiled
        if self._free is None:
            if _state_of(self._file) != self._found:
                raise ExportError(
                    f"{self._file}: has changed since it was loaded for one image; load it again"
                )
            with TURNS.alone():
                self._free = self._compile(str(self._file))
        return self._free

    def _compile(self, model: Any) -> Any:
        return openvino_core().compile_model(model, "CPU", self._settings)


def _state_of(file: Path) -> list[tuple[int, int, int]]:
    """Return what tells files that belong to a model from others of their names."""
    there = [each for each in (file, file.with_suffix(".bin")) if each.is_file()]
    stats = [each.stat() for each in there]
    return [(each.st_ino, each.st_size, each.st_mtime_ns) for each in stats]


def _for_one_image(model: Any) -> Any | None:
    """Change a model to a batch of one; None if other sizes are free, or none is."""
    shapes = {}
    for port in model.inputs:
        shape = port.partial_shape
        if shape.rank.is_dynamic or any(each.is_dynamic for each in list(shape)[1:]):
            return None
        if shape.is_dynamic:
            shapes[port] = [1, *(each.get_length() for each in list(shape)[1:])]
    if not shapes:
        return None
    try:
        model.reshape(shapes)
    except RuntimeError:  # it holds sizes for another batch, and is no model of one image
        return None
    return model


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
