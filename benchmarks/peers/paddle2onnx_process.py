"""Call paddle2onnx, which our files are compared with:
`python -m benchmarks.peers.paddle2onnx_process MODEL PARAMS OPSET OUTPUT`.

It stands in a process of its own because paddle2onnx prints on standard output and aborts the
whole process where it meets an operator that it does not know. Its Python package would import
Paddle, which takes ten times as long as most conversions; its compiled module needs no Paddle and
is loaded alone.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from pathlib import Path
from typing import Any

PACKAGE, COMPILED = "paddle2onnx", "paddle2onnx_cpp2py_export"


def main(arguments: Sequence[str]) -> None:
    """Convert the files that the arguments name."""
    model, params, opset, output = arguments
    content: bytes = load_compiled().export(
        *(model, params, int(opset)),
        *(True, False),  # a higher opset where an operator needs it; nothing printed
        *(False, True, False),  # no check, experimental operators
        *({}, "onnxruntime", "", "", False),  # no operators of users, no calibration, no float16
    )
    Path(output).write_bytes(content)


def load_compiled() -> Any:
    """Load the compiled module of paddle2onnx without its package.

    Raises:
        ImportError: It is not installed, or not as it was in version 1.
    """
    package = importlib.util.find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise ImportError(f"{PACKAGE} is not installed")
    (folder,) = package.submodule_search_locations
    spec = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec(COMPILED)
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder}: no compiled module {COMPILED}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(sys.argv[1:])
