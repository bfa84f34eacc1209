"""Paddle's matrix kernels are those for AVX2 where its MKL would not take them by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.settings.math_kernels import lacks_kernels

ROOT = Path(__file__).resolve().parents[3]
SHOW = "import core.settings.startup, os; print(os.environ.get('MKL_DEBUG_CPU_TYPE'))"


def cpuinfo(make: str, flags: str) -> str:
    one = f"vendor_id\t: {make}\nmodel name\t: A fast one\nflags\t\t: {flags}\n"
    return f"processor\t: 0\n{one}\nprocessor\t: 1\n{one}"


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        (cpuinfo("AuthenticAMD", "fpu sse avx avx2 fma"), True),
        (cpuinfo("HygonGenuine", "fpu avx2"), True),
        (cpuinfo("AuthenticAMD", "fpu sse avx"), False),
        (cpuinfo("GenuineIntel", "fpu avx2 avx512f"), False),
        ("processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n", False),
        ("", False),
    ],
)
def test_who_lacks_them(text: str, lacking: bool) -> None:
    assert lacks_kernels(text) is lacking


def test_tools_ask_for_them_unless_told_otherwise() -> None:
    variables = {name: value for name, value in os.environ.items() if name[:4] != "MKL_"}
    lacking = lacks_kernels(Path("/proc/cpuinfo").read_text("utf-8"))
    for given, wanted in (({}, "5" if lacking else "None"), ({"MKL_DEBUG_CPU_TYPE": "0"}, "0")):
        said = subprocess.run(
            [sys.executable, "-c", SHOW],
            env={**variables, **given},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == wanted
