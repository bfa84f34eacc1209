"""What a measurement ran on, as plain values."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import paddle
import psutil

_PACKAGES = ("trislim", "paddlepaddle", "paddlepaddle-gpu", "onnxruntime", "openvino", "numpy")
# instructions that decide how fast float32, bf16 and int8 run
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimd")


def environment() -> dict[str, Any]:
    """Describe processor, system, versions and the variables that steer the runtimes."""
    name, features = _processor()
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


def _processor() -> tuple[str, list[str]]:
    fields: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, [feature for feature in _INSTRUCTIONS if feature in flags]


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
