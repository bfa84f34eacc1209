"""Machine of a measurement as plain values, and whether it multiplies int8 exactly."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import paddle
import psutil

from core.targets.instructions import processor

_PACKAGES = ("trislim", "paddlepaddle", "paddlepaddle-gpu", "onnxruntime", "openvino", "numpy")


def environment() -> dict[str, Any]:
    """Describe processor, system, versions and the variables that steer the runtimes."""
    name, features = processor()
    return {
        "cpu": name,
        "cpu_instructions": features,
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": _gpus(),
        "cuda": paddle.version.cuda(),
        "cudnn": paddle.version.cudnn(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": _versions(),
        "variables": {
            key: value
            for key, value in sorted(os.environ.items())
            if key.startswith(("OMP_", "MKL_", "KMP_", "DNNL_", "ONEDNN_", "FLAGS_"))
        },
    }


def _gpus() -> list[str]:
    if not paddle.is_compiled_with_cuda():
        return []
    count = paddle.device.cuda.device_count()
    return [paddle.device.cuda.get_device_name(index) for index in range(count)]


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
