"""What a measurement ran on, as plain values, and whether int8 is multiplied exactly there."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from types import MappingProxyType
from typing import Any

import paddle
import psutil

from core.deploy.formats import Backend

_PACKAGES = ("trislim", "paddlepaddle", "paddlepaddle-gpu", "onnxruntime", "openvino", "numpy")
# instructions that decide how fast float32, bf16 and int8 run
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimd")
_X86 = ("x86_64", "amd64", "i386", "i686")
# oneDNN takes them in either case; the first that is set counts
_CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
# The VNNI that each cap leaves to oneDNN; with other values, it may use all that there is.
_LEFT_BY_CAP = MappingProxyType(
    {
        **dict.fromkeys(("SSE41", "AVX", "AVX2", "AVX512_CORE"), frozenset[str]()),
        **dict.fromkeys(("AVX2_VNNI", "AVX2_VNNI_2"), frozenset({"avx_vnni"})),
    }
)
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})


def multiplies_int8_exactly(backend: Backend) -> bool:
    """Tell whether a runtime multiplies int8 without 16-bit sums that may overflow.

    On x86 the processor must have VNNI, and the runtime must be let use it: Paddle Inference and
    OpenVINO obey oneDNN's `ONEDNN_MAX_CPU_ISA`, ONNX Runtime obeys nothing.

    Args:
        backend: The runtime.
    """
    if platform.machine().lower() not in _X86:
        return True
    left = _VNNI
    if backend != "onnxruntime":
        cap = next((os.environ[name] for name in _CAPS if os.environ.get(name)), "")
        left = _LEFT_BY_CAP.get(cap.upper(), _VNNI)
    return not left.isdisjoint(_processor()[1])


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
