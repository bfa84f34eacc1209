"""Call paddle2onnx; run as `python -m core.export.onnx.converter_process MODEL PARAMS OPSET
OUTPUT`.

It stands in a process of its own because paddle2onnx prints on standard output and aborts the
whole process where it meets an operator that it does not know.
"""

from __future__ import annotations

from core.settings.startup import load_paddle

import sys
from collections.abc import Sequence

import paddle2onnx


def main(arguments: Sequence[str]) -> None:
    """Convert the files that the arguments name."""
    load_paddle()
    model, params, opset, output = arguments
    paddle2onnx.export(
        model,
        params,
        output,
        opset_version=int(opset),
        verbose=False,
        enable_onnx_checker=False,
        enable_optimize=False,  # see core.export.onnx.cleanup
    )


if __name__ == "__main__":
    main(sys.argv[1:])
