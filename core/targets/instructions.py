"""Instructions of this processor, and whether int8 is multiplied exactly with them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from types import MappingProxyType

from packaging.version import Version

from core.targets.names import Backend, Processors

# instructions that decide how fast float32, bf16 and int8 run
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimd")

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
_WRONG_WITH_AMX = (
    Version("1.21"),
    Version("1.25"),
)  # ONNX Runtime, from the first to before the last


def why_not_as_written(backend: Backend, processors: Processors) -> str:
    """Return why a runtime computes int8 otherwise here than files say; empty if it does not.

    Args:
        backend: The runtime.
        processors: Processors that the files are meant for.
    """
    if backend == "onnxruntime" and "amx_int8" in processor()[1]:
        version = _version("onnxruntime")
        if version is not None and _WRONG_WITH_AMX[0] <= version < _WRONG_WITH_AMX[1]:
            return f"ONNX Runtime {version} has wrong kernels for int8 with AMX, 1.25 has not"
    if processors == "vnni" and not multiplies_int8_exactly(backend):
        return "this processor has no VNNI, which processors: vnni asks for, and any does not"
    return ""


def _version(package: str) -> Version | None:
    try:
        return Version(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return None


def multiplies_int8_exactly(backend: Backend) -> bool:
    """Tell whether a runtime multiplies int8 without 16-bit sums that may overflow.

    On x86 the processor must have VNNI, and the runtime must be allowed to use it: Paddle
    Inference and OpenVINO obey oneDNN's `ONEDNN_MAX_CPU_ISA`, ONNX Runtime obeys nothing.

    Args:
        backend: The runtime.
    """
    if platform.machine().lower() not in _X86:
        return True
    left = _VNNI
    if backend != "onnxruntime":
        cap = next((os.environ[name] for name in _CAPS if os.environ.get(name)), "")
        left = _LEFT_BY_CAP.get(cap.upper(), _VNNI)
    return not left.isdisjoint(processor()[1])


def processor() -> tuple[str, list[str]]:
    """Return the name of the processor, and those of `INSTRUCTIONS` that it has."""
    fields: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, [feature for feature in INSTRUCTIONS if feature in flags]
