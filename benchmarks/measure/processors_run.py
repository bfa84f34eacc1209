"""Run an ONNX or OpenVINO file on stored inputs; needs NumPy and the runtime alone.

python -m benchmarks.measure.processors_run BACKEND MODEL INPUTS.npz OUTPUTS.npz
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def onnxruntime_run(model: str) -> Run:
    """Load a model as the product does: one thread, everything else as ONNX Runtime has it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [each.name for each in session.get_outputs()]
    return lambda x: dict(zip(outputs, session.run(outputs, {name: x})))


def openvino_run(model: str) -> Run:
    """Load a model with the settings of the product."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def run(x: np.ndarray) -> dict[str, np.ndarray]:
        return {port.any_name: np.array(value) for port, value in compiled([x]).items()}

    return run


def main() -> None:
    backend, model, inputs, outputs = sys.argv[1:]
    run = onnxruntime_run(model) if backend == "onnxruntime" else openvino_run(model)
    found: dict[str, Any] = {}  # arrays; numpy 2 types the keywords of savez as flags too
    with np.load(inputs) as stored:
        for index in range(len(stored.files)):
            for name, value in run(stored[f"{index}"]).items():
                found[f"{index}/{name}"] = value
    np.savez(outputs, **found)


if __name__ == "__main__":
    main()
