"""Fast matrix kernels for Paddle on processors that are not of Intel's make.

Paddle computes float32 on a CPU with the MKL of 2019 (its `libmklml`). On a processor that does not
call itself GenuineIntel, this version chooses kernels that do not use AVX2. An environment variable
makes it choose those for AVX2; `python -m benchmarks.measure.math_kernels` compares both. See
"Using MKL efficiently", Norwegian research infrastructure services,
https://documentation.sigma2.no/jobs/mkl.html.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE, AVX2 = "MKL_DEBUG_CPU_TYPE", "5"
_INFO = Path("/proc/cpuinfo")


def ask_for_avx2() -> None:
    """Set MKL's variable where it helps; to be called before Paddle is imported.

    A value that is set already stays, so `MKL_DEBUG_CPU_TYPE=0` turns this off.
    """
    if VARIABLE not in os.environ and _INFO.is_file() and lacks_kernels(_INFO.read_text("utf-8")):
        os.environ[VARIABLE] = AVX2


def lacks_kernels(cpuinfo: str) -> bool:
    """Tell whether a processor has AVX2, but is of another make; from its /proc/cpuinfo."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    fields = {key.strip(): value.split() for key, _, value in lines}
    make = fields.get("vendor_id", ["GenuineIntel"])
    return "GenuineIntel" not in make and "avx2" in fields.get("flags", [])
