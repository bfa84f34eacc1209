"""Run the tests marked `gpu` on a GPU; where there is none, say in one line why: `make test-gpu`.

Arguments go to pytest. The status is pytest's; 0 where nothing was run.
"""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import paddle

ROOT = Path(__file__).resolve().parents[1]
# kernels that add in one order: a resumed training is compared bit for bit
VARIABLES = {"TRISLIM_TEST_DEVICE": "gpu", "FLAGS_cudnn_deterministic": "1"}


def why_not() -> str:
    """Say why there is no GPU to test on; empty if there is one."""
    if not paddle.is_compiled_with_cuda():
        return f"Paddle {paddle.__version__} was built without CUDA: install its build for GPUs"
    if paddle.device.cuda.device_count() == 0:
        return "Paddle sees no GPU: look at nvidia-smi, the driver and CUDA_VISIBLE_DEVICES"
    return ""


def main(arguments: Sequence[str]) -> int:
    reason = why_not()
    if reason:
        print(f"nothing was tested on a GPU: {reason}")
        return 0
    marks = "gpu or two_gpus"
    if paddle.device.cuda.device_count() == 1:
        marks = "gpu"
        print("trainings in two processes were not tested: they want two GPUs, and there is one")
    command = [sys.executable, "-m", "pytest", "-m", marks, *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **VARIABLES}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
