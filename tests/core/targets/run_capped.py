"""Run many small models in one runtime, in a process of its own whose instructions are capped.

As a script: run_capped.py openvino|paddle FOLDER. The folder holds i.onnx, or i/model.pdmodel, and
the input i.npy; the first output is written to i.out.npy.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

from core.targets.instructions import multiplies_int8_exactly

ROOT = Path(__file__).resolve().parents[3]
CAPPED = platform.machine().lower() in ("x86_64", "amd64")  # elsewhere nothing saturates


def run_capped(runtime: str, folder: Path, cap: str = "AVX2") -> str:
    """Run the models of a folder with the instructions of a cap.

    Returns:
        `exact` or `saturating`: how the runtime multiplies there.
    """
    done = subprocess.run(
        [sys.executable, __file__, runtime, str(folder)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": cap, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[0]


def main() -> None:
    runtime, folder = sys.argv[1], Path(sys.argv[2])
    print("exact" if multiplies_int8_exactly(runtime) else "saturating")
    run = run_openvino if runtime == "openvino" else run_paddle
    for file in sorted(folder.glob("*.npy")):
        np.save(file.with_suffix(".out.npy"), run(file.with_suffix(""), np.load(file)))


def run_openvino(stem: Path, data: np.ndarray) -> np.ndarray:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = openvino.Core().compile_model(str(stem.with_suffix(".onnx")), "CPU", settings)
    return np.array(model([data])[0])


def run_paddle(stem: Path, data: np.ndarray) -> np.ndarray:
    from core.runtimes.predictor import load_predictor

    return next(iter(load_predictor(stem, own=True).run(data).values()))


if __name__ == "__main__":
    main()
