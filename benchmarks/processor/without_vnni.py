"""Run a command as on an x86-64 processor that has AVX2 and no AVX-512, VNNI or AMX.

    python -m benchmarks.processor.without_vnni python -m benchmarks.measure.int8

`ONEDNN_MAX_CPU_ISA=AVX2` does that for Paddle Inference and OpenVINO. ONNX Runtime obeys no
variable: it asks the processor by the instruction `cpuid`. In a copy of its library each `cpuid`
becomes an illegal instruction of the same length, and a small preloaded library answers it with the
flags of AVX-512, VNNI and AMX cleared. The command then runs at full speed, with the kernels of
such a processor, and reads a /proc/cpuinfo without these flags.

Linux on x86-64 with a C compiler (`gcc` or `cc`) and `objdump`. Copies lie below --work_dir, by
version of the library, and are made once.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
CAP = {"ONEDNN_MAX_CPU_ISA": "AVX2"}  # binds Paddle Inference and OpenVINO
CPUID, UD2 = b"\x0f\xa2", b"\x0f\x0b"
HIDDEN = re.compile(r"avx512\w*|avx_vnni\w*|avx10\w*|amx_\w+")  # names of flags in /proc/cpuinfo
PACKAGE = "onnxruntime"
WORK_DIR = Path(tempfile.gettempdir(), "trislim_benchmarks")


class UnavailableError(RuntimeError):
    """Such a processor cannot be had here; says why in one line."""


def variables(work_dir: Path = WORK_DIR) -> dict[str, str]:
    """Return the environment variables under which a process sees no VNNI.

    Args:
        work_dir: Folder for the copies.

    Raises:
        UnavailableError: This system is not Linux on x86-64, or a program is missing.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise UnavailableError(f"needs Linux on x86-64, this is {platform.platform()}")
    compiler = next((found for name in ("gcc", "cc") if (found := shutil.which(name))), None)
    missing = [] if compiler else ["a C compiler (gcc or cc)"]
    missing += [] if shutil.which("objdump") else ["objdump (binutils)"]
    if missing or compiler is None:
        raise UnavailableError(f"needs {' and '.join(missing)}")
    version = importlib.metadata.version(PACKAGE)
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    made = work_dir / f"without_vnni-{PACKAGE}-{version}-{python}-{SOURCE.stat().st_mtime_ns}"
    if not made.is_dir():
        work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work_dir) as name:
            draft = Path(name, "draft")
            _make(draft, compiler)
            if not made.is_dir():  # another process was as fast
                draft.rename(made)
    return CAP | {
        "LD_PRELOAD": str(made / "without_vnni.so"),
        "TRISLIM_CPUINFO": str(made / "cpuinfo"),
        "PYTHONPATH": os.pathsep.join(
            [str(made / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }


def _make(folder: Path, compiler: str) -> None:
    """Write the preloaded library, the copy of the package, and /proc/cpuinfo without flags."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UnavailableError(f"needs {PACKAGE}")
    copy = folder / "site" / PACKAGE
    shutil.copytree(Path(spec.origin).parent, copy)
    patched = sum(patch(file) for file in sorted(copy.rglob("*.so*")))
    if not patched:
        raise UnavailableError(f"{PACKAGE}: no cpuid was found in its libraries")
    library = [compiler, "-O1", "-shared", "-fPIC", "-o", str(folder / "without_vnni.so")]
    subprocess.run([*library, str(SOURCE), "-ldl"], check=True)
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    (folder / "cpuinfo").write_text(without_flags(text), encoding="utf-8")


def without_flags(cpuinfo: str) -> str:
    """Return the text of a /proc/cpuinfo without the flags of AVX-512, VNNI and AMX."""
    lines = []
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if key.strip() == "flags":
            kept = [flag for flag in value.split() if not HIDDEN.fullmatch(flag)]
            line = f"{key}{colon} {' '.join(kept)}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def patch(file: Path) -> int:
    """Replace each `cpuid` instruction of a library by `ud2`; return how many there were."""
    listing = _objdump("-d", "--no-show-raw-insn", file)
    places = [int(hit[1], 16) for hit in re.finditer(r"^\s*([0-9a-f]+):\s+cpuid", listing, re.M)]
    if not places:
        return 0
    header = r"^\s*\d+ \S+\s+([0-9a-f]+)\s+([0-9a-f]+)\s+[0-9a-f]+\s+([0-9a-f]+)"
    sections = [
        tuple(int(part, 16) for part in found.groups())
        for found in re.finditer(header, _objdump("-h", file), re.M)
    ]
    content = bytearray(file.read_bytes())
    for address in places:
        begin = next(
            address - first + offset
            for size, first, offset in sections
            if first and first <= address < first + size
        )
        if content[begin : begin + 2] != CPUID:
            raise UnavailableError(f"{file.name}: no cpuid at {address:#x}")
        content[begin : begin + 2] = UD2
    file.write_bytes(content)
    return len(places)


def _objdump(*arguments: str | Path) -> str:
    command = ["objdump", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work_dir", type=Path, default=WORK_DIR)
    help_ = f"where this cannot be had, run under {CAP} alone, which ONNX Runtime does not obey"
    parser.add_argument("--allow_cap", action="store_true", help=help_)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, with arguments")
    given = parser.parse_args()
    if not given.command:
        parser.error("no command is given")
    try:
        extra = variables(given.work_dir)
    except UnavailableError as error:
        if not given.allow_cap:
            print(f"error: no processor without VNNI can be had: {error}", file=sys.stderr)
            return 2
        print(f"warning: ONNX Runtime keeps all instructions: {error}", file=sys.stderr)
        extra = CAP
    try:
        os.execvpe(given.command[0], given.command, os.environ | extra)
    except OSError as error:
        print(f"error: {given.command[0]}: {error.strerror}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
